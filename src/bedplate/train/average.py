"""Exponential moving average of weights (Polyak and Juditsky 1992; with the decay of Tarvainen and Valpola 2017)."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from bedplate.train.checkpoint import load_weights


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


@torch.no_grad()
def mean_of_checkpoints(checkpoints: Sequence[Path], model: nn.Module) -> None:
    """Give the model the mean of the weights of several checkpoints (Vaswani et al. 2017, section 6.1).

    Buffers are those of the last one, and so is what is no floating-point number.
    """
    total: dict[str, torch.Tensor] = {}
    for checkpoint in checkpoints:
        load_weights(checkpoint, model)
        for name, parameter in model.named_parameters():
            exact = parameter.double() / len(checkpoints)
            total[name] = total[name] + exact if name in total else exact
    for name, parameter in model.named_parameters():
        parameter.copy_(total[name])
