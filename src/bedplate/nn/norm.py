"""Normalization layers. Models import them from here, so that a faster kernel changes one line."""

from torch.nn import LayerNorm

__all__ = ["LayerNorm"]
