"""What `bedplate verify` can be pointed at: an architecture by name, a run, a folder, or a shipped checkpoint."""

import dataclasses
from pathlib import Path

import torch
from torch import nn

from bedplate.language_model import load
from bedplate.models import MODEL_TYPES, build, checkpoint_table

SMALL = {
    "vocab_size": 199, "context_length": 64, "dim": 48, "num_layers": 3, "num_decoder_layers": 3, "num_heads": 3,
    "num_kv_heads": 1, "mlp_dim": 192, "value_dim": 96, "window": 9,
}  # fmt: skip


def find_target(target: str) -> tuple[nn.Module, str]:
    """The model to verify, and a sentence that says what it is."""
    if target in MODEL_TYPES and not Path(target).exists():
        config = checkpoint_table(target).config()
        small = {name: value for name, value in SMALL.items() if hasattr(config, name)}
        config = dataclasses.replace(config, **small)
        torch.manual_seed(0)
        sizes = ", ".join(f"{name} {value}" for name, value in small.items())
        return build(config).eval(), f"the {target} architecture, random weights ({sizes})"
    return load(target).model, f"the weights of {target}"
