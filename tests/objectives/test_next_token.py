"""Next-token prediction counts what it sums, so that a batch may be cut anywhere."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.models.gpt2 import GPT2, Config
from bedplate.objectives.next_token import NextToken
from bedplate.objectives.objective import Objective
from bedplate.train.loop import Settings, accumulate, micro_batches
from bedplate.train.parallel import Work


@pytest.fixture(scope="module")
def model() -> GPT2:
    torch.manual_seed(0)
    return GPT2(Config(vocab_size=40, context_length=12, dim=8, num_layers=2, num_heads=2, dropout=0.0)).double()


def ragged_batch(counts: list[int]) -> dict[str, torch.Tensor]:
    """Row b predicts counts[b] tokens; the rest is ignored. Documents are packed."""
    ids = torch.randint(40, (len(counts), 9), generator=torch.Generator().manual_seed(0))
    targets = ids[:, 1:].clone()
    for row, count in zip(targets, counts, strict=True):
        row[count:] = -100
    return {"ids": ids[:, :-1], "targets": targets, "documents": torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2]] * len(counts))}


def test_it_keeps_the_contract_of_objectives() -> None:
    assert isinstance(NextToken(), Objective)


def test_documents_change_the_loss_and_nothing_counted_is_nothing_lost(model: GPT2) -> None:
    batch = ragged_batch([8, 8])
    packed = NextToken().loss(model, batch, None, 0)
    whole = NextToken().loss(model, {name: batch[name] for name in ("ids", "targets")}, None, 0)
    assert packed.count == whole.count == 16 and (packed.total - whole.total).abs() > 1e-4
    nothing = NextToken().loss(model, ragged_batch([0, 0]), None, 0)
    assert nothing.count == 0 and nothing.total == 0


@settings(deadline=None, max_examples=25)
@given(counts=st.lists(st.integers(0, 8), min_size=1, max_size=6), size=st.integers(1, 7))
def test_any_split_of_any_batch_gives_the_same_gradient(model: GPT2, counts: list[int], size: int) -> None:
    results = []
    for micro_batch_size in (size, len(counts)):
        model.zero_grad()
        cut = Settings(steps=1, micro_batch_size=micro_batch_size)
        sums = accumulate(Work(model), NextToken(), ragged_batch(counts), 0, cut)
        results.append((sums, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}))
    (mine, gradients), (whole, expected) = results
    assert mine["count"] == whole["count"] == sum(counts)
    assert mine["loss"].item() == pytest.approx(whole["loss"].item(), abs=1e-11)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=1e-12 * max(1, sum(counts)), msg=name)


@given(st.integers(1, 9), st.integers(1, 10))
def test_micro_batches_cover_each_item_once(items: int, size: int) -> None:
    batch = {"numbers": torch.arange(items), "words": [str(number) for number in range(items)]}
    parts = list(micro_batches(batch, size))
    assert torch.equal(torch.cat([part["numbers"] for part in parts]), batch["numbers"])
    assert [word for part in parts for word in part["words"]] == batch["words"]
    assert all(len(part["words"]) == len(part["numbers"]) == size for part in parts[:-1])
