"""AdamW with decay groups (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

from dataclasses import dataclass
from math import inf

import torch
from torch import nn

from bedplate.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Decoupled weight decay on matrices only: biases and norm gains have no scale to keep small."""

    lr: float = 6e-4  # GPT-3's rate for this size (table 2.1); GPT-2's own was tuned per size and not published
    betas: tuple[float, float] = (0.9, 0.95)  # GPT-3, appendix B: a shorter second moment than Adam's 0.999
    weight_decay: float = 0.1  # GPT-3, appendix B
    clip: float = 1.0  # largest global gradient norm

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("lr", 0 < self.lr < inf, "a rate above 0, such as 1e-3"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 up to, but not, 1"),
            ("weight_decay", 0 <= self.weight_decay < inf, "a number from 0 up"),
            ("clip", self.clip > 0, "a norm above 0, such as 1.0; inf clips nothing"),
        ):
            if not good:
                raise UserError(f"optimizer.{name} is {getattr(self, name)}", fix=f"give {wanted}")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer over the trainable parameters of a model."""
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=True)
