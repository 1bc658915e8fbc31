"""Rotary frequencies beside those of transformers, bit for bit, and what stretching promises."""

import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from bedplate.errors import UserError
from bedplate.nn.position import turns
from bedplate.nn.rotary import Dynamic, Linear, Smooth, YaRN, frequencies

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
CASES: list[tuple[Any, dict[str, Any]]] = [
    (None, {"rope_type": "default"}),
    (Linear(factor=4.0), {"rope_type": "linear", "factor": 4.0}),
    (Dynamic(factor=4.0), {"rope_type": "dynamic", "factor": 4.0}),
    (YaRN(factor=40.0, context=4096), {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096}),
    (Smooth(factor=8.0, context=8192, low=1.0, high=4.0), LLAMA3 | {"rope_type": "llama3"}),
]


@pytest.mark.parametrize(("stretch", "parameters"), CASES, ids=lambda case: type(case).__name__)
@pytest.mark.parametrize(("head_dim", "base"), [(64, 10000.0), (128, 500000.0), (6, 100.0)])
def test_angles_are_those_of_transformers(stretch: Any, parameters: dict[str, Any], head_dim: int, base: float) -> None:
    """Up to position 131,071, of published sizes; dynamic beyond its context, for a text of that length."""
    positions = torch.tensor([[0, 1, 17, 2047, 2048, 9000, 131_071]])
    theirs = LlamaRotaryEmbedding(LlamaConfig(
        head_dim=head_dim, rope_parameters=parameters | {"rope_theta": base}, max_position_embeddings=32768,
    ))  # fmt: skip
    expected = theirs(torch.zeros(1), positions)
    if stretch is None:
        ours = turns(positions, frequencies(head_dim, base=base))
    elif isinstance(stretch, Dynamic):
        ours = turns(positions, stretch.beyond(head_dim, base=base, length=131_072, context=32768))
    else:
        ours = turns(positions, stretch.frequencies(head_dim, base=base), gain=stretch.gain)
    for mine, other in zip(ours, expected, strict=True):
        assert torch.equal(mine[:, 0], other[..., : head_dim // 2])


def test_what_turns_fast_is_kept_and_what_turns_slowly_is_divided() -> None:
    plain = frequencies(128, base=10000.0)
    for stretch in (YaRN(factor=16.0, context=2048), Smooth(factor=16.0, context=2048, low=1.0, high=4.0)):
        share = plain / stretch.frequencies(128, base=10000.0)
        assert share[0] == 1 and share[-1] == pytest.approx(16.0) and bool((share.diff() > -1e-5).all())
        waves = 2 * math.pi / plain
        assert share[waves > 2048 * 1.5].min() > 15.9
    assert YaRN(factor=16.0, context=2048).gain == pytest.approx(0.1 * math.log(16) + 1)


def test_dynamic_stretching_begins_where_the_context_ends() -> None:
    plain, stretch = frequencies(64), Dynamic(factor=2.0)
    assert torch.equal(stretch.frequencies(64, base=10000.0), plain)
    further = [stretch.beyond(64, base=10000.0, length=length, context=100) for length in (101, 150, 200)]
    assert plain[-1] > further[0][-1] > further[1][-1] > further[2][-1]
    assert all(each[0] == 1 for each in further)


def test_wavelengths_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(UserError, match="high_freq_factor"):
        Smooth(factor=8.0, context=64, low=4.0, high=4.0)
