"""What contracts compute with: exact copies of models, and the same random tokens every time."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


class NotApplicable(Exception):
    """The contract cannot be tried here; the message says why."""


def double(model: nn.Module) -> Any:
    """A copy in float64 and in evaluation mode."""
    return copy.deepcopy(model).double().eval().requires_grad_(True)


def context_of(model: Any) -> int:
    """Tokens that fit."""
    return model.config.context_length


def random_ids(model: Any, shape: tuple[int, int]) -> Tensor:
    """The same ones every time."""
    return torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))


def random_batch(model: nn.Module, *, rows: int) -> dict[str, Tensor]:
    """Of a language model."""
    ids = random_ids(model, (rows, min(16, context_of(model)) + 1))
    return {"ids": ids[:, :-1], "targets": ids[:, 1:].clone()}
