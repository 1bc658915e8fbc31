"""The Llama layout by itself: sizes, windows, texts beyond the context, and requests served together."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from bedplate.errors import UserError
from bedplate.models import build
from bedplate.models.llama import SIZES, Config, Llama, Mistral, MistralConfig
from bedplate.nn.rotary import Dynamic, YaRN
from bedplate.verify.contracts import CONTRACTS, check

TINY = Config(vocab_size=50, context_length=16, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, mlp_dim=48)
COUNTS = {
    "llama-7b": 6_738_415_616, "llama-13b": 13_015_864_320, "llama-33b": 32_528_943_616, "llama-65b": 65_285_660_672,
    "llama2-70b": 68_976_648_192, "llama3-8b": 8_030_261_248, "smollm-135m": 134_515_008,
    "mistral-7b": 7_241_732_096, "qwen2-0.5b": 494_032_768,
}  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_published_parameter_counts(size: str) -> None:
    with torch.device("meta"):
        model = build(SIZES[size])
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[size]


@pytest.mark.parametrize("config", [
    replace(TINY, context_length=64, head_dim=16), replace(TINY, context_length=64, num_kv_heads=1, mlp_dim=37),
    replace(TINY, context_length=64, attention_bias=True, stretch=YaRN(factor=8.0, context=8)),
    MistralConfig(**vars(TINY) | {"context_length": 64, "window": 5}),
], ids=["wide heads", "odd width", "stretched", "window"])  # fmt: skip
def test_requests_served_together_are_each_alone_bit_for_bit(config: Config) -> None:
    """The angles of a sequence's positions and its gates must not depend on who else is served."""
    torch.manual_seed(0)
    model = build(config).eval()
    for contract in CONTRACTS:
        if contract.name in ("served = alone", "cached = uncached", "packed = unpacked"):
            row = check(contract, model)
            assert row.verdict == "pass", row


@pytest.mark.parametrize(("kind", "config"), [(Llama, TINY), (Mistral, MistralConfig(**vars(TINY), window=4))])
def test_what_a_token_sees(kind: type[Llama], config: Any) -> None:
    """All before it; with a window of 4, through two layers, not more than 6 before it."""
    torch.manual_seed(0)
    model, ids = kind(config).double().eval(), torch.randint(50, (1, 14))
    changed = ids.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 50
    with torch.no_grad():
        difference = (model(ids) - model(changed)).abs().amax(-1)[0]
    end = 5 + 2 * 3 + 1 if kind is Mistral else 14
    assert not difference[:5].any() and bool((difference[5:end] > 1e-9).all()) and not difference[end:].any()


def test_only_a_whole_text_is_longer_than_the_context_with_dynamic_stretching() -> None:
    model = build(replace(TINY, stretch=Dynamic(factor=2.0))).eval()
    long = torch.zeros(1, 32, dtype=torch.long)
    assert model(long).shape == (1, 32, 50)
    for ids, more in ((long, {"documents": long}), (long, {"state": model.new_state(1)}), (long.repeat(1, 2), {})):
        with pytest.raises(ValueError, match="more than the context length of 16"):
            model(ids, **more)


@pytest.mark.parametrize(("changes", "message"), [
    ({"num_kv_heads": 3}, "num_kv_heads"), ({"head_dim": 7}, "head_dim"), ({"num_layers": 0}, "num_layers"),
    ({"dim": 30}, "dim"), ({"activation": "swoosh"}, "activation"), ({"norm_eps": 0.0}, "norm_eps"),
    ({"attention_dropout": 1.0}, "attention_dropout"), ({"num_kv_heads": 0}, "num_kv_heads"),
])  # fmt: skip
def test_senseless_settings_are_user_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(TINY, **changes)
