"""AdamW with decay groups (Loshchilov and Hutter 2019, arXiv 1711.05101)."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Decoupled weight decay on matrices only: biases and norm gains have no scale to keep small."""

    lr: float = 6e-4  # GPT-3's rate for this size (table 2.1); GPT-2's own was tuned per size and not published
    betas: tuple[float, float] = (0.9, 0.95)  # GPT-3, appendix B: a shorter second moment than Adam's 0.999
    weight_decay: float = 0.1  # GPT-3, appendix B
    clip: float = 1.0  # largest global gradient norm

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The torch optimizer over the trainable parameters of a model."""
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=True)
