"""BERT by itself: published sizes, initialization, and what its forward pass promises."""

from dataclasses import asdict

import pytest
import torch

from bedplate.errors import UserError
from bedplate.models import build
from bedplate.models.bert import SIZES, Config, MaskedConfig, PretrainingConfig

TINY = {"vocab_size": 50, "context_length": 16, "dim": 16, "num_layers": 2, "num_heads": 2, "mlp_dim": 24}
COUNTS = {  # with the pooler, and with both heads of pre-training
    "bert-tiny": (4_385_920, 4_433_468), "bert-mini": (11_170_560, 11_267_900), "bert-small": (28_763_648, 29_058_876),
    "bert-medium": (41_373_184, 41_668_412), "bert-base": (109_482_240, 110_106_428),
    "bert-large": (335_141_888, 336_226_108),
}  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_published_parameter_counts(size: str) -> None:
    configs = (SIZES[size], PretrainingConfig(**asdict(SIZES[size])))
    with torch.device("meta"):
        counts = [sum(parameter.numel() for parameter in build(config).parameters()) for config in configs]
    assert tuple(counts) == COUNTS[size]


def test_initialization_is_the_released_one() -> None:
    """A normal distribution of 0.02 that is cut at two deviations has one of 0.0176."""
    torch.manual_seed(0)
    model = build(PretrainingConfig(**TINY | {"vocab_size": 3000, "dim": 128, "mlp_dim": 512}))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.abs().max() <= 0.04, name
            if parameter.numel() > 10_000:
                assert parameter.std().item() == pytest.approx(0.0176, rel=0.03), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float("norm.weight" in name))), name


def test_every_token_sees_both_sides() -> None:
    torch.manual_seed(0)
    model, ids = build(Config(**TINY)).double().eval(), torch.randint(50, (1, 10))
    changed = ids.clone()
    changed[0, 6] = (changed[0, 6] + 1) % 50
    with torch.no_grad():
        assert bool(((model(ids) - model(changed)).abs().amax(-1)[0] > 1e-6).all())


def test_inputs_that_cannot_be_are_refused() -> None:
    model, ids = build(MaskedConfig(**TINY)), torch.zeros(1, 17, dtype=torch.long)
    with pytest.raises(ValueError, match="17 tokens are more than the context length of 16"):
        model(ids)
    with pytest.raises(ValueError, match="packed rows take no mask"):
        model(ids[:, :5], mask=ids[:, :5] == 0, documents=ids[:, :5])


@pytest.mark.parametrize("changes", [{"dim": 15}, {"num_segments": 0}, {"activation": "swoosh"}, {"dropout": 1.0}])
def test_senseless_settings_are_user_errors(changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        Config(**TINY | changes)
