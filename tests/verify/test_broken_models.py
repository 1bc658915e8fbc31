"""More mistakes of the kind that models, caches, files and loops have had: each turns one row red and is named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bedplate.verify.contracts as contracts
import bedplate.verify.reference as reference
from bedplate.models import gpt2
from bedplate.models.gpt2 import GPT2, Config
from bedplate.nn import cache, position
from bedplate.nn.cache import KVCache
from bedplate.train import checkpoint, loop
from bedplate.verify import writing
from bedplate.verify.contracts import CONTRACTS, Row, check, verify
from bedplate.verify.inputs import NotApplicable
from bedplate.verify.trace import Trace, largest_error, recording, relative_error

CONTRACT = {contract.name: contract for contract in CONTRACTS}
TINY = Config(vocab_size=60, context_length=32, dim=16, num_layers=2, num_heads=2)
Patch = pytest.MonkeyPatch


@pytest.fixture
def model() -> GPT2:
    torch.manual_seed(0)
    return GPT2(TINY).eval()


def is_red(row: Row, *words: str) -> bool:
    red = row.verdict == "fail" and row.error is not None and row.bound is not None and row.error > row.bound
    return red and all(word in row.detail for word in words)


@pytest.mark.parametrize(
    "changes",
    [{"tied": False}, {"scale_by_layer": True}, {"scale_by_head_dim": False}, {"mlp_dim": 5, "activation": "relu"},
     {"num_layers": 1, "num_heads": 1}, {"dim": 15, "num_heads": 5}, {"dropout": 0.5}, {"context_length": 6}],
    ids=str,
)  # fmt: skip
def test_right_models_of_every_build_are_green(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    rows = verify(GPT2(replace(TINY, **changes)).eval())
    assert {row.verdict for row in rows} == {"pass"}, rows


@pytest.mark.parametrize("context", [1, 2, 3, 5])
def test_a_context_too_short_for_a_contract_is_not_red(context: int) -> None:
    rows = verify(GPT2(replace(TINY, context_length=context)).eval())
    assert {row.verdict for row in rows} == {"pass", "not applicable"}, rows
    assert all("context" in row.detail for row in rows if row.verdict == "not applicable")


def test_the_random_state_of_the_caller_stays(model: GPT2) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    verify(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_cache_that_loses_its_last_token(model: GPT2, monkeypatch: Patch) -> None:
    real = KVCache.append

    def losing(self: KVCache, key: Tensor, value: Tensor) -> None:
        real(self, key, value)
        if key.shape[2] == 1:
            self.keys[:, :, max(self.lengths) - 1] = 0

    monkeypatch.setattr(KVCache, "append", losing)
    assert is_red(check(CONTRACT["cached = uncached"], model), "blocks.0.attention")


@pytest.mark.parametrize("shift", [1, -1])
def test_positions_that_are_off_by_one_behind_the_cache(model: GPT2, monkeypatch: Patch, shift: int) -> None:
    real = GPT2._positions_and_bias

    def shifted(self: GPT2, ids: Any, documents: Any, cache: Any) -> Any:
        positions, bias = real(self, ids, documents, cache)
        return (positions + shift if cache and max(cache.lengths) else positions).clamp(0, 31), bias

    monkeypatch.setattr(GPT2, "_positions_and_bias", shifted)
    for name in ("cached = uncached", "batched = single"):
        assert is_red(check(CONTRACT[name], model), "position_embedding")


@pytest.mark.parametrize("missing", [0, -1])
def test_a_ragged_batch_that_sees_one_key_too_few(model: GPT2, monkeypatch: Patch, missing: int) -> None:
    def blind(bias: Any, place: int, keys: int) -> Tensor:
        allowed = torch.ones(1, 1, 1, keys, dtype=torch.bool)
        allowed[..., missing] = False
        return allowed

    monkeypatch.setattr(cache, "_of_sequence", blind)
    row = check(CONTRACT["batched = single"], model)
    assert is_red(row, "attention", "of sequence")
    assert check(CONTRACT["cached = uncached"], model).verdict == "pass"


def test_a_ragged_cache_that_writes_behind_the_padding(model: GPT2, monkeypatch: Patch) -> None:
    real = KVCache.truncate

    def padded(self: KVCache, lengths: list[int]) -> None:
        real(self, [max(lengths)] * len(lengths))

    monkeypatch.setattr(KVCache, "truncate", padded)
    assert is_red(check(CONTRACT["batched = single"], model), "of sequence")


def test_positions_that_run_on_through_packed_documents(model: GPT2, monkeypatch: Patch) -> None:
    monkeypatch.setattr(gpt2, "restarting_positions", lambda documents: torch.arange(documents.shape[1])[None])
    assert is_red(check(CONTRACT["packed = unpacked"], model), "position_embedding of document 1")


def test_packed_documents_that_see_the_one_before(model: GPT2, monkeypatch: Patch) -> None:
    monkeypatch.setattr(gpt2, "within_documents", lambda documents: position.within_documents(documents // 2))
    assert is_red(check(CONTRACT["packed = unpacked"], model), "attention", "of document 1")


def test_a_loss_that_is_a_mean(model: GPT2, monkeypatch: Patch) -> None:
    class Mean(writing.NextToken):
        def loss(self, *arguments: Any) -> Any:
            loss = super().loss(*arguments)
            return replace(loss, total=loss.total / loss.count)

    monkeypatch.setattr(writing, "NextToken", Mean)
    assert is_red(check(CONTRACT["accumulated = whole batch"], model), "gradient of token_embedding.weight")


def test_gradients_that_are_dropped_between_micro_batches(model: GPT2, monkeypatch: Patch) -> None:
    real = loop.micro_batches
    monkeypatch.setattr(loop, "micro_batches", lambda batch, size: list(real(batch, size))[-1:])
    assert is_red(check(CONTRACT["accumulated = whole batch"], model), "gradient of")


def saved_with(change: Callable[[dict[str, Tensor]], object], monkeypatch: Patch) -> None:
    """A save that changes the file it wrote."""
    from safetensors.torch import load_file, save_file

    real = contracts.save_pretrained

    def save(model: Any, folder: Path, **options: Any) -> None:
        real(model, folder, **options)
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    for module in (contracts, reference):
        monkeypatch.setattr(module, "save_pretrained", save)


BIAS = "transformer.h.1.mlp.c_fc.bias"


def test_a_save_that_loses_a_bias_is_red_and_the_table_goes_on(model: GPT2, monkeypatch: Patch) -> None:
    saved_with(lambda tensors: tensors.pop(BIAS), monkeypatch)
    rows = {row.contract: row for row in verify(model)}
    assert len(rows) == len(CONTRACTS) and is_red(rows["loaded = saved"], BIAS)
    assert rows["cached = uncached"].verdict == "pass"


def test_a_save_that_changes_one_bit(model: GPT2, monkeypatch: Patch) -> None:
    saved_with(lambda tensors: tensors[BIAS][3].add_(1e-30), monkeypatch)
    assert is_red(check(CONTRACT["loaded = saved"], model), "blocks.1.mlp.up.bias")


def test_a_save_that_rounds(model: GPT2, monkeypatch: Patch) -> None:
    saved_with(lambda tensors: tensors.update({name: t.bfloat16().float() for name, t in tensors.items()}), monkeypatch)
    assert is_red(check(CONTRACT["loaded = saved"], model), "first difference: token_embedding.weight")


@pytest.mark.parametrize("key", ["n_head", "activation_function", "scale_attn_weights", "layer_norm_epsilon"])
def test_a_config_that_says_something_else(model: GPT2, monkeypatch: Patch, key: str) -> None:
    import json

    real, wrong = contracts.save_pretrained, {
        "n_head": 4, "activation_function": "gelu", "scale_attn_weights": False, "layer_norm_epsilon": 1e-3,
    }  # fmt: skip

    def save(model: Any, folder: Path, **options: Any) -> None:
        real(model, folder, **options)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {key: wrong[key]}))

    for module in (contracts, reference):
        monkeypatch.setattr(module, "save_pretrained", save)
    assert is_red(check(CONTRACT["reference"], model), "logits")


def test_a_resume_that_starts_counting_again(model: GPT2, monkeypatch: Patch) -> None:
    real = loop.load_checkpoint
    monkeypatch.setattr(loop, "load_checkpoint", lambda *arguments: real(*arguments) * 0)
    assert is_red(check(CONTRACT["resumed = uninterrupted"], model), "first difference: ")


def test_a_resume_that_forgets_one_moment(model: GPT2, monkeypatch: Patch) -> None:
    restore_all_but(monkeypatch, "optimizer.model.token_embedding.weight.exp_avg_sq")
    assert is_red(check(CONTRACT["resumed = uninterrupted"], model), "token_embedding.weight")


def test_dropout_that_depends_on_what_was_drawn_before(model: GPT2, monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch, "manual_seed", lambda seed: None)
    assert is_red(check(CONTRACT["resumed = uninterrupted"], model), "first difference: ")


def test_weights_that_are_not_restored(model: GPT2, monkeypatch: Patch) -> None:
    restore_all_but(monkeypatch, "model.")
    assert is_red(check(CONTRACT["resumed = uninterrupted"], model), "token_embedding.weight")


def restore_all_but(monkeypatch: Patch, beginning: str) -> None:
    real = checkpoint._fill

    def forgetful(targets: Any, *arguments: Any, **options: Any) -> None:
        kept = {name: target for name, target in targets.items() if not name.startswith(beginning)}
        assert len(kept) < len(targets)
        real(kept, *arguments, **options)

    monkeypatch.setattr(checkpoint, "_fill", forgetful)


def test_the_first_tensor_that_differs_is_named_and_not_the_largest() -> None:
    one = torch.ones(3)
    pairs = [("a", one, one), ("b", one + 0.1, one), ("c", one + 9, one)]
    assert largest_error(pairs, 0.01) == (pytest.approx(9.0), "b")
    assert largest_error(pairs[:1], 0.0) == (0.0, "")


@pytest.mark.parametrize("wrong", [torch.full((3,), torch.nan), torch.full((3,), torch.inf), torch.ones(2)])
def test_what_cannot_be_compared_is_infinitely_wrong(wrong: Tensor) -> None:
    assert relative_error(wrong, torch.ones(3)) == float("inf")


def test_a_recording_leaves_no_hooks_and_tells_calls_apart(model: GPT2) -> None:
    ids = torch.arange(5)[None]
    with recording(model) as trace:
        model(ids[:, :2])
        model(ids[:, 2:])
    joined = trace.joined()
    assert joined["logits"].shape == (1, 5, 60)
    assert {"blocks.0.dropout", "blocks.0.dropout (2)", "blocks.1.mlp.up"} <= joined.keys()
    model(ids)
    assert trace.joined()["logits"].shape == (1, 5, 60) and Trace().joined() == {}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_contract_that_does_not_apply_is_not_green() -> None:
    def pairs(model: torch.nn.Module) -> Any:
        raise NotApplicable("not here")

    row = check(replace(CONTRACTS[0], pairs=pairs), torch.nn.Linear(1, 1))
    assert (row.verdict, row.error, row.bound, row.detail) == ("not applicable", None, None, "not here")
