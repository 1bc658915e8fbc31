"""How often a model gives the right label."""

from collections.abc import Sequence

import torch
from torch import nn

from bedplate.data.tasks import Item, collate
from bedplate.generate.engine import evaluating
from bedplate.objectives.fine_tuning import FineTuning


def accuracy(model: nn.Module, items: Sequence[Item], *, batch_size: int = 32) -> float:
    """The share of items whose label has the highest score."""
    device = next(model.parameters()).device
    right = 0.0
    with evaluating(model), torch.inference_mode():
        for start in range(0, len(items), batch_size):
            batch = collate(items[start : start + batch_size])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            right += FineTuning(language_weight=0.0).loss(model, batch, None, 0).sums["accuracy"].item()
    return right / len(items)
