"""PaLM by itself: sizes, initialization, and what its forward pass promises."""

from typing import Any

import pytest
import torch

from bedplate.bench.shape import shape_of
from bedplate.errors import UserError
from bedplate.models import build
from bedplate.models.palm import SIZES, Config, PaLM
from bedplate.objectives.next_token import NextToken

TINY = Config(vocab_size=50, context_length=16, dim=32, num_layers=2, num_heads=4, head_dim=16)
COUNTS = {"palm-8b": (8.63, 8_632_012_800), "palm-62b": (62.50, 62_495_662_080), "palm-540b": (540.35, 540_356_474_880)}


@pytest.mark.parametrize("size", SIZES)
def test_published_parameter_counts(size: str) -> None:
    """Table 1, in billions; and by the formula of the guide to plans."""
    with torch.device("meta"):
        model = build(SIZES[size])
    billions, exact = COUNTS[size]
    assert sum(parameter.numel() for parameter in model.parameters()) == exact == shape_of(SIZES[size]).parameters
    assert exact / 1e9 == pytest.approx(billions, abs=0.007)


def test_initialization_is_the_published_one() -> None:
    torch.manual_seed(0)
    model = PaLM(Config(vocab_size=3000, dim=128, num_layers=2, num_heads=4, head_dim=64))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            expected = 1.0 if "embedding" in name else parameter.shape[1] ** -0.5
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name
    with torch.no_grad():
        logits = model(torch.randint(3000, (2, 50)))
    assert logits.std().item() == pytest.approx(1.0, rel=0.1)  # for which the output is scaled


def test_one_head_of_keys_and_values_is_cached() -> None:
    state = PaLM(TINY).new_state(3)
    assert [tuple(layer.keys.shape) for layer in state] == [(3, 1, 16, 16)] * 2


def test_the_future_is_not_seen_and_the_past_is() -> None:
    torch.manual_seed(0)
    model, ids = PaLM(TINY).double().eval(), torch.randint(50, (1, 10))
    changed = ids.clone()
    changed[0, 6] = (changed[0, 6] + 1) % 50
    with torch.no_grad():
        difference = (model(ids) - model(changed)).abs().amax(-1)[0]
    assert not difference[:6].any() and bool((difference[6:] > 1e-6).all())


def test_what_is_learned_is_likelihood_and_small_normalizers() -> None:
    torch.manual_seed(0)
    model, ids = PaLM(TINY).double(), torch.randint(50, (3, 9))
    batch = {"ids": ids[:, :-1], "targets": ids[:, 1:]}
    loss = NextToken(z_loss=1e-4).loss(model, batch, None, 0)
    logits = model(ids[:, :-1])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    expected = expected + 1e-4 * logits.logsumexp(-1).square().sum()
    torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="17 tokens are more than the context length of 16"):
        PaLM(TINY)(torch.zeros(1, 17, dtype=torch.long))


@pytest.mark.parametrize("changes", [
    {"num_kv_heads": 3}, {"head_dim": 7}, {"num_layers": 0}, {"mlp_dim": 0}, {"norm_eps": 0.0}, {"rotary_base": -1.0},
])  # fmt: skip
def test_senseless_settings_are_user_errors(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        Config(**vars(TINY) | changes)
