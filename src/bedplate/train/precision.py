"""Number formats for training, chosen by name and printed, never guessed."""

from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = {
    "fp32": "float32 weights and arithmetic",
    "bf16": "float32 weights, matrix products in bfloat16 (autocast)",
}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context in which losses are computed."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
