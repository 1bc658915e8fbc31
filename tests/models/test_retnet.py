"""RetNet by itself: sizes, initialization, and what its forward pass promises."""

from typing import Any

import pytest
import torch

from bedplate.errors import UserError
from bedplate.models import build
from bedplate.models.retnet import SIZES, Config, RetNet

TINY = Config(vocab_size=50, context_length=32, dim=24, num_layers=2, num_heads=3, value_dim=48, mlp_dim=48)
COUNTS = {
    "retnet-1.3b": 1_310_986_240, "retnet-2.7b": 2_645_406_720, "retnet-6.7b": 6_648_569_856, "retnet-base": 44_809_216,
    "retnet-medium": 254_920_704, "retnet-xl": 1_323_569_152, "retnet-3b": 2_651_960_320, "retnet-7b": 6_715_678_720,
    "retnet-13b": 12_873_410_560, "retnet-65b": 52_489_240_576,
}  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts(size: str) -> None:
    """Blocks have 12 dim^2 as a Transformer's (section 2.4) beside norms; the released ones have three MLP matrices."""
    config = SIZES[size]
    with torch.device("meta"):
        model = build(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[size]
    block = sum(parameter.numel() for parameter in model.blocks[0].parameters() if parameter.ndim == 2)
    width = config.value_dim
    assert block == 2 * config.dim**2 + (6 if config.mlp != "gelu" else 5) * config.dim * width
    if config.mlp == "gelu":
        assert block == 12 * config.dim**2


def test_initialization_is_the_released_one() -> None:
    torch.manual_seed(0)
    model = RetNet(Config(vocab_size=3000, dim=256, num_layers=1, num_heads=2, value_dim=512, mlp_dim=512))
    for name, gain in (("query", 2**-2.5), ("gate", 2**-2.5), ("out", 2**-1)):
        weight = getattr(model.blocks[0].retention, name).weight
        expected = gain * (2 / sum(weight.shape)) ** 0.5
        assert weight.std().item() == pytest.approx(expected, rel=0.03), name
    assert model.token_embedding.weight.std().item() == pytest.approx(256**-0.5, rel=0.03)


def test_the_future_is_not_seen_and_the_past_is() -> None:
    torch.manual_seed(0)
    model, ids = RetNet(TINY).double().eval(), torch.randint(50, (1, 10))
    changed = ids.clone()
    changed[0, 6] = (changed[0, 6] + 1) % 50
    with torch.no_grad():
        difference = (model(ids) - model(changed)).abs().amax(-1)[0]
    assert not difference[:6].any() and bool((difference[6:] > 1e-6).all())


def test_the_state_is_as_large_after_any_number_of_tokens() -> None:
    model = RetNet(TINY).eval()
    state = model.new_state(2)
    sizes = []
    for length in (1, 100, 1):
        with torch.no_grad():
            model(torch.zeros(2, length, dtype=torch.long), state=state)
        sizes.append([layer.nbytes for layer in state])
    assert sizes == [[2 * 3 * 8 * 16 * 4] * 2] * 3 and state[0].lengths == [102, 102]


def test_packed_documents_cannot_go_on_from_a_state() -> None:
    model, ids = RetNet(TINY), torch.zeros(1, 4, dtype=torch.long)
    state = model.new_state(1)
    model(ids, state=state)
    with pytest.raises(ValueError, match="cannot go on"):
        model(ids, documents=ids, state=state)


@pytest.mark.parametrize("changes", [
    {"dim": 25}, {"value_dim": 47}, {"num_layers": 0}, {"mlp": "tanh"}, {"norm_eps": 0.0}, {"dropout": 1.0},
    {"decay": "none"},
])  # fmt: skip
def test_senseless_settings_are_user_errors(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        Config(**vars(TINY) | changes)
