"""Exponential moving average of weights (Polyak and Juditsky 1992; with the decay of Tarvainen and Valpola 2017)."""

import copy

import torch
from torch import nn


def start_average(model: nn.Module) -> nn.Module:
    """A copy of the model's weights that `follow` moves; it takes no gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, *, decay: float) -> None:
    """average = decay * average + (1 - decay) * model, for parameters; buffers are copied."""
    for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(parameter.detach(), 1 - decay)
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(new)
