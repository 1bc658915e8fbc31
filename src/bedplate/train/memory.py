"""How much memory this process takes, as the system or the GPU counts it."""

from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory_now() -> float:
    """GB that this process holds; on a GPU, what its tensors hold there. 0 where the system does not tell."""
    return torch.cuda.memory_allocated() / 1e9 if torch.cuda.is_available() else _from_status("VmRSS")


def memory_peak() -> float:
    """The most GB that this process held, since `forget_peak` if it was called."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else _from_status("VmHWM")


def forget_peak() -> None:
    """Count the peak from here on."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif RESET.exists():
        RESET.write_text("5")


def _from_status(what: str) -> float:
    # Not getrusage, whose maximum survives exec and so would be the parent's.
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) * 1.024e-6 for line in lines if line.startswith(what)), 0.0)
