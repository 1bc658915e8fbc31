"""AdamW with decay groups (Loshchilov and Hutter 2019, arXiv 1711.05101), and clipping by the global norm."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from bedplate.errors import UserError
from bedplate.train.parallel import is_sharded, whole


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Decoupled weight decay on matrices only: biases and norm gains have no scale to keep small."""

    lr: float = 6e-4  # GPT-3's rate for this size (table 2.1); GPT-2's own was tuned per size and not published
    betas: tuple[float, float] = (0.9, 0.95)  # GPT-3, appendix B: a shorter second moment than Adam's 0.999
    weight_decay: float = 0.1  # GPT-3, appendix B
    clip: float = 1.0  # largest global gradient norm
    layer_decay: float = 1.0  # rate of a layer relative to the one above (ELECTRA, section 3.1); 1 = all alike

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("lr", 0 < self.lr < inf, "a rate above 0, such as 1e-3"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 up to, but not, 1"),
            ("weight_decay", 0 <= self.weight_decay < inf, "a number from 0 up"),
            ("clip", self.clip > 0, "a norm above 0, such as 1.0; inf clips nothing"),
            ("layer_decay", 0 < self.layer_decay <= 1, "a factor above 0 and up to 1"),
        ):
            if not good:
                raise UserError(f"optimizer.{name} is {getattr(self, name)}", fix=f"give {wanted}")

    def build(self, model: nn.Module, companion: nn.Module | None = None) -> torch.optim.Optimizer:
        """The torch optimizer over the trainable parameters of a model and its companion.

        Parameters that share decay and rate form a group; its key `factor` is the rate relative to `lr`.
        """
        groups: dict[tuple[Any, ...], list[nn.Parameter]] = {}
        depths = {name: depth_of(name, model) for name, _ in model.named_parameters()}
        deepest = max(depths.values(), default=0)
        for owner, part in enumerate((model, companion)):
            for name, parameter in part.named_parameters() if part else ():
                if parameter.requires_grad:
                    factor = self.layer_decay ** (deepest - depths[name]) if owner == 0 else 1.0
                    key = (owner, parameter.ndim >= 2, factor, is_sharded(parameter))
                    groups.setdefault(key, []).append(parameter)
        described: list[dict[str, Any]] = [
            {"params": group, "weight_decay": self.weight_decay if matrix else 0.0, "factor": factor}
            for (_, matrix, factor, _), group in groups.items()
        ]
        return torch.optim.AdamW(described, lr=self.lr, betas=self.betas, fused=True)


def depth_of(name: str, model: nn.Module) -> int:
    """How far from the input a parameter stands: embeddings 0, blocks 1, 2 and so on, what follows them one more."""
    blocks = [int(number) for number in re.findall(r"(?:^|\.)blocks\.(\d+)\.", name)]
    if blocks:
        return blocks[0] + 1
    last = max((int(n) for each, _ in model.named_modules() for n in re.findall(r"blocks\.(\d+)$", each)), default=-1)
    return 0 if "embedding" in name else last + 2


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> float:
    """Scale gradients so that their global norm is at most `largest`; returns the norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    kinds = [kind for sharded in (False, True) if (kind := [each for each in gradients if is_sharded(each) == sharded])]
    norm = math.hypot(*(whole(get_total_norm(kind)).item() for kind in kinds))
    if norm > largest:
        for kind in kinds:
            torch._foreach_mul_(kind, largest / (norm + 1e-6))
    return norm
