"""Learning targets from sources: the formula, padding that counts nothing, and any split of a batch."""

import pytest
import torch
import torch.nn.functional as F

from bedplate.data.pairs import PairBatches
from bedplate.errors import UserError
from bedplate.models.transformer import Config, Transformer
from bedplate.objectives.sequence_to_sequence import SequenceToSequence
from bedplate.train.loop import Settings, accumulate
from bedplate.train.parallel import Work

CONFIG = Config(
    vocab_size=40, context_length=24, dim=16, num_layers=1, num_decoder_layers=1, num_heads=2, mlp_dim=24, dropout=0.0,
    start_id=39,
)  # fmt: skip


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG).double()
    model.output_bias += torch.randn_like(model.output_bias)
    return model


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    sources = [[number % 30 + 1] * (number % 7 + 1) for number in range(12)]
    targets = [[number % 20 + 5] * (number % 5 + 1) for number in range(12)]
    return PairBatches(sources, targets, length=20, batch_size=12, seed=0, start_id=39, end_id=0).batch(0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_torchs_own_over_the_logits(
    model: Transformer, batch: dict[str, torch.Tensor], smoothing: float
) -> None:
    loss = SequenceToSequence(label_smoothing=smoothing).loss(model, batch, None, 0)
    logits = model(batch["source"], batch["ids"], mask=batch["mask"])
    expected = F.cross_entropy(
        logits.flatten(0, 1), batch["targets"].flatten(), reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-9)
    assert int(loss.count) == int((batch["targets"] >= 0).sum())


def test_each_pair_alone_gives_the_same_loss(model: Transformer, batch: dict[str, torch.Tensor]) -> None:
    whole = SequenceToSequence().loss(model, batch, None, 0).total
    parts = []
    for row in range(12):
        source = batch["source"][row : row + 1, batch["mask"][row]]
        kept = batch["targets"][row] >= 0
        alone = {"source": source, "mask": torch.ones_like(source, dtype=torch.bool)}
        alone |= {name: batch[name][row : row + 1, kept] for name in ("ids", "targets")}
        parts.append(SequenceToSequence().loss(model, alone, None, 0).total)
    torch.testing.assert_close(sum(parts), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_micro_batches_give_the_gradient_of_the_whole(
    model: Transformer, batch: dict[str, torch.Tensor], size: int
) -> None:
    gradients = []
    for micro_batch_size in (12, size):
        model.zero_grad()
        settings = Settings(steps=1, micro_batch_size=micro_batch_size)
        sums = accumulate(Work(model), SequenceToSequence(label_smoothing=0.1), batch, 0, settings)
        gradients.append({name: each.grad / sums["count"] for name, each in model.named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=0, atol=1e-12)


def test_settings_out_of_range_are_told() -> None:
    for wrong in (1.0, -0.1):
        with pytest.raises(UserError):
            SequenceToSequence(label_smoothing=wrong)
