"""Schedules against their formulas, and layer-wise rates."""

import math

import pytest
import torch
from torch import nn

from bedplate.errors import UserError
from bedplate.models.gpt2 import GPT2, Config
from bedplate.train.optimizer import AdamW
from bedplate.train.schedule import (
    Constant,
    InverseSquareRoot,
    WarmupCosine,
    WarmupLinear,
    WarmupStableDecay,
    WarmupTimesLinear,
)

STEPS = 50


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        (Constant(warmup_steps=10), lambda n: 1.0),
        (WarmupCosine(warmup_steps=10, final_fraction=0.1), lambda n: 0.55 + 0.45 * math.cos(math.pi * (n - 10) / 40)),
        (WarmupLinear(warmup_steps=10), lambda n: (50 - n) / 40),
        (InverseSquareRoot(warmup_steps=10), lambda n: (10 / (n + 1)) ** 0.5),
        (WarmupStableDecay(warmup_steps=10, decay_fraction=0.2), lambda n: 1.0 if n < 40 else (50 - n) / 10),
    ],
)
def test_schedules_are_their_formulas(schedule: Constant, formula: object) -> None:
    for step in range(STEPS):
        expected = (step + 1) / 10 if step < 10 else formula(step)  # type: ignore[operator]
        assert schedule.factor(step, steps=STEPS) == pytest.approx(expected, abs=1e-12)
    assert max(schedule.factor(step, steps=STEPS) for step in range(STEPS)) == pytest.approx(1.0)


def test_gpt1_multiplies_warm_up_and_decay() -> None:
    """As openai/finetune-transformer-lm's `warmup_linear` is used: (x / warmup or 1) (1 - x)."""
    found = [WarmupTimesLinear(warmup_steps=4).factor(step, steps=10) for step in range(10)]
    assert found == pytest.approx([(min(1, (step + 1) / 4)) * (10 - step) / 10 for step in range(10)], abs=1e-12)


def test_the_inverse_square_root_is_that_of_the_transformer() -> None:
    """dim^-0.5 min(n^-0.5, n warmup^-1.5), of Vaswani et al., relative to its peak at n = warmup, n from 1."""
    for n in (1, 10, 3999, 4000, 4001, 100_000):
        expected = min(n**-0.5, n * 4000**-1.5) / 4000**-0.5
        assert InverseSquareRoot(warmup_steps=4000).factor(n - 1, steps=10**6) == pytest.approx(expected, rel=1e-12)


def test_mistakes_in_schedules_are_named() -> None:
    with pytest.raises(UserError, match="decay_fraction is 2"):
        WarmupStableDecay(decay_fraction=2.0)
    with pytest.raises(UserError, match="final_fraction is -1"):
        WarmupLinear(final_fraction=-1.0)


def test_rates_fall_from_the_output_to_the_embeddings() -> None:
    with torch.device("meta"):
        model = GPT2(Config(vocab_size=20, context_length=8, dim=8, num_layers=2, num_heads=2, tied=False))
    optimizer = AdamW(layer_decay=0.5).build(model)
    rates = {id(each): group["factor"] for group in optimizer.param_groups for each in group["params"]}
    found = {name: rates[id(each)] for name, each in model.named_parameters()}
    for name, factor in found.items():
        layer = 0 if "embedding" in name else 1 + int(name.split(".")[1]) if name.startswith("blocks") else 3
        assert factor == 0.5 ** (3 - layer), name
    decays = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    assert all(decays[id(each)] == (0.1 if each.ndim >= 2 else 0.0) for each in model.parameters())
    assert len(rates) == sum(1 for _ in model.parameters())


def test_all_rates_are_alike_by_default() -> None:
    optimizer = AdamW().build(nn.Linear(3, 3), nn.Linear(2, 2))
    assert [group["factor"] for group in optimizer.param_groups] == [1.0] * 4
