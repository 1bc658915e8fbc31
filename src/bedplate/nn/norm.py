"""Normalization layers. Models import them from here, so that a faster kernel changes one line."""

from torch.nn import LayerNorm, RMSNorm

__all__ = ["LayerNorm", "RMSNorm"]
