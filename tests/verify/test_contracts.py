"""The contracts are green for a right model, and each turns red, with a name, for the mistake it is there to find."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import bedplate.verify.contracts as contracts
import bedplate.verify.reference as reference
from bedplate.models.gpt2 import GPT2, Config
from bedplate.nn.cache import KVCache
from bedplate.train import checkpoint
from bedplate.verify.contracts import CONTRACTS, Row, check, verify

CONTRACT = {contract.name: contract for contract in CONTRACTS}


@pytest.fixture
def model() -> GPT2:
    torch.manual_seed(0)
    return GPT2(Config(vocab_size=60, context_length=32, dim=16, num_layers=2, num_heads=2)).eval()


def row(name: str, model: torch.nn.Module) -> Row:
    return check(CONTRACT[name], model)


def test_a_right_model_passes_every_contract(model: GPT2) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = verify(model)
    assert [r.verdict for r in rows] == ["pass"] * 8, rows
    assert all(r.error is not None and r.bound is not None and r.error <= r.bound for r in rows)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_cache_that_forgets_is_found(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    real = KVCache.append

    def forgetful(self: KVCache, key: torch.Tensor, value: torch.Tensor) -> None:
        real(self, key, value)
        self.values[:, :, 0] = 0

    monkeypatch.setattr(KVCache, "append", forgetful)
    found = row("cached = uncached", model)
    assert found.verdict == "fail" and "blocks.0.attention" in found.detail


def test_positions_that_ignore_the_cache_are_found(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    real = GPT2._positions_and_bias

    def from_zero(self: GPT2, ids: Any, documents: Any, cache: Any) -> Any:
        positions, bias = real(self, ids, documents, cache)
        return positions - positions.min(), bias

    monkeypatch.setattr(GPT2, "_positions_and_bias", from_zero)
    found = row("cached = uncached", model)
    assert found.verdict == "fail" and "position_embedding" in found.detail


def test_padding_that_is_seen_is_found(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: KVCache, lengths: torch.Tensor) -> None:
        return None

    monkeypatch.setattr(KVCache, "truncate", careless)
    assert row("batched = single", model).verdict == "fail"


def test_documents_that_see_each_other_are_found(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    from bedplate.models import gpt2

    monkeypatch.setattr(gpt2, "within_documents", lambda documents: gpt2.CAUSAL)
    found = row("packed = unpacked", model)
    assert found.verdict == "fail" and "attention" in found.detail


def test_a_mean_per_micro_batch_is_found(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    real = contracts.accumulate

    def averaged(*arguments: Any) -> dict[str, float]:
        sums = real(*arguments)
        parts = len(arguments[2]["ids"]) / arguments[4].micro_batch_size
        return sums | {"count": sums["count"] * (1 + 0.1 * parts)}

    monkeypatch.setattr(contracts, "accumulate", averaged)
    found = row("accumulated = whole batch", model)
    assert found.verdict == "fail" and "gradient of" in found.detail


@pytest.mark.parametrize("name", ["loaded = saved", "reference"])
def test_a_table_that_swaps_query_and_key_is_found(model: GPT2, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = contracts.save_pretrained

    def swapped(model: Any, folder: Any, **options: Any) -> None:
        attention = model.blocks[0].attention
        attention.query, attention.key = attention.key, attention.query
        real(model, folder, **options)
        attention.query, attention.key = attention.key, attention.query

    for module in (contracts, reference):
        monkeypatch.setattr(module, "save_pretrained", swapped)
    found = row(name, model)
    # Swapping queries and keys of every head transposes the scores, which the causal mask then cuts differently.
    assert found.verdict == "fail" and found.detail


def test_an_optimizer_that_starts_anew_is_found(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint._fill
    without = ("optimizer.",)
    monkeypatch.setattr(
        checkpoint,
        "_fill",
        lambda targets, *rest: real({k: v for k, v in targets.items() if not k.startswith(without)}, *rest),
    )
    assert row("resumed = uninterrupted", model).verdict == "fail"


def test_without_the_reference_library_the_row_does_not_apply(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference.importlib.util, "find_spec", lambda name: None)
    found = row("reference", model)
    assert (found.verdict, found.error) == ("not applicable", None) and "transformers" in found.detail


@pytest.mark.parametrize("change", [lambda m: m.double(), lambda m: m.bfloat16(), lambda m: m.train()])
def test_models_of_other_types_pass_too(model: GPT2, change: Callable[[GPT2], GPT2]) -> None:
    assert {r.verdict for r in verify(change(model))} == {"pass"}
