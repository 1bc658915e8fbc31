"""The contracts of encoders are green for every head, and turn red for the mistakes they are there to find."""

from typing import Any

import pytest
import torch

from bedplate.models import bert, build
from bedplate.models.bert import BERT, PretrainingConfig
from bedplate.verify import encoders
from bedplate.verify.contracts import Row, check, verify
from bedplate.verify.encoders import ENCODER_CONTRACTS

SIZE = {"vocab_size": 60, "context_length": 32, "dim": 16, "num_layers": 2, "num_heads": 2, "mlp_dim": 24}
CONFIGS = [bert.Config, bert.PooledConfig, bert.MaskedConfig, PretrainingConfig, bert.ClassifierConfig]
CONFIGS += [bert.TaggerConfig, bert.SpanConfig]
CONTRACT = {contract.name: contract for contract in ENCODER_CONTRACTS}


def make(config: type = PretrainingConfig, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(config(**SIZE | changes)).eval()


def row(name: str) -> Row:
    return check(CONTRACT[name], make())


@pytest.mark.parametrize("config", CONFIGS)
def test_right_models_pass_every_contract(config: type) -> None:
    model = make(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = verify(model)
    assert [r.verdict for r in rows] == ["pass"] * 6, rows
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("changes", [{"context_length": 4}, {"num_segments": 1}, {"dropout": 0.0}])
def test_unusual_models_pass_too(changes: dict[str, Any]) -> None:
    assert {r.verdict for r in verify(make(**changes))} == {"pass"}


def test_padding_that_is_seen_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = BERT._positions_and_bias
    monkeypatch.setattr(
        BERT, "_positions_and_bias", lambda self, ids, mask, documents: real(self, ids, None, documents)
    )
    assert row("padded = alone").verdict == "fail" and row("reference").verdict == "fail"


def test_texts_that_see_each_other_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bert, "same_document", lambda documents: None)
    found = row("packed = unpacked")
    assert found.verdict == "fail" and "attention" in found.detail


def test_a_mean_per_micro_batch_of_the_second_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the hidden tokens per row were those of the micro-batch."""
    real = encoders.Masked.loss

    def own(self: Any, model: Any, batch: Any, companion: None, step: int) -> Any:
        hidden = (batch["targets"] != -100).sum() / len(batch["ids"])
        return real(self, model, batch | {"hidden_per_row": hidden.repeat(len(batch["ids"]))}, companion, step)

    monkeypatch.setattr(encoders.Masked, "loss", own)
    assert row("accumulated = whole batch").verdict == "fail"


def test_segments_that_are_left_out_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "inputs_of", lambda batch: {"mask": batch["mask"]} if "mask" in batch else {})
    assert row("reference").verdict == "fail"
