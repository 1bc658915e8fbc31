"""Learning rate and weight decay against their formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bedplate.models.gpt2 import GPT2, Config
from bedplate.train.optimizer import AdamW
from bedplate.train.schedule import WarmupCosine


@given(st.integers(0, 50), st.integers(1, 300), st.floats(0, 1))
def test_the_schedule_is_its_formula(warmup: int, steps: int, final: float) -> None:
    schedule = WarmupCosine(warmup_steps=warmup, final_fraction=final)
    for step in range(steps):
        if step < warmup:
            expected = (step + 1) / warmup
        else:
            angle = math.pi * (step - warmup) / max(1, steps - warmup)
            expected = final + (1 - final) * (1 + math.cos(angle)) / 2
        assert schedule.factor(step, steps=steps) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 50), st.integers(60, 300), st.floats(0, 0.99))
def test_it_rises_to_one_and_falls_to_the_end(warmup: int, steps: int, final: float) -> None:
    schedule = WarmupCosine(warmup_steps=warmup, final_fraction=final)
    factors = [schedule.factor(step, steps=steps) for step in range(steps + 1)]
    assert 0 < factors[0] and factors[warmup - 1] == factors[warmup] == 1.0
    assert factors[:warmup] == sorted(factors[:warmup]) and factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert factors[steps] == pytest.approx(final, abs=1e-12)


def test_only_matrices_decay_and_each_parameter_has_one_group() -> None:
    model = GPT2(Config(vocab_size=30, context_length=8, dim=8, num_layers=2, num_heads=2))
    optimizer = AdamW(weight_decay=0.3).build(model)
    decaying, plain = optimizer.param_groups
    assert (decaying["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    groups = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(groups) == sum(len(group["params"]) for group in optimizer.param_groups)
    for name, parameter in model.named_parameters():
        assert groups[id(parameter)] == (0.0 if name.endswith("bias") or "norm" in name else 0.3), name


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    groups = AdamW().build(model).param_groups
    assert [id(p) for group in groups for p in group["params"]] == [id(model[1].weight), id(model[1].bias)]


def test_the_update_is_the_formula_of_the_paper() -> None:
    """Algorithm 2 of Loshchilov and Hutter, by hand, over several steps."""
    torch.manual_seed(0)
    layer, settings = nn.Linear(3, 2).double(), AdamW(lr=0.01, betas=(0.8, 0.9), weight_decay=0.2)
    optimizer = settings.build(layer)
    values = {name: p.detach().clone() for name, p in layer.named_parameters()}
    first, second = ({name: torch.zeros_like(p) for name, p in values.items()} for _ in range(2))
    for step in range(1, 5):
        layer(torch.randn(5, 3, dtype=torch.float64)).square().sum().backward()
        for name, parameter in layer.named_parameters():
            first[name] = 0.8 * first[name] + 0.2 * parameter.grad
            second[name] = 0.9 * second[name] + 0.1 * parameter.grad**2
            decay = 0.2 if name == "weight" else 0.0
            direction = first[name] / (1 - 0.8**step) / ((second[name] / (1 - 0.9**step)).sqrt() + 1e-8)
            values[name] -= 0.01 * (direction + decay * values[name])
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(parameter.detach(), values[name], rtol=0, atol=1e-12)
