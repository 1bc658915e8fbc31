"""Accelerators by name, and the machine at hand: how fast they multiply, what they hold, what they draw."""

import time
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch

from bedplate.errors import UserError, nearest
from bedplate.train.memory import memory_now

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator. Rates are dense (no sparsity) and without TF32."""

    name: str
    memory: float  # GB
    rates: dict[str, float]  # TFLOP/s of multiplying matrices, by precision
    link: float = 0.0  # GB/s that it can send to its neighbors
    watts: float = 0.0  # rated
    process: float = 0.5  # GB that a process takes before it holds a tensor


def _gpu(name: str, memory: float, bf16: float, fp32: float, link: float, watts: float) -> Device:
    return Device(name=name, memory=memory, rates={"bf16": bf16, "fp32": fp32}, link=link, watts=watts)


DEVICES = {  # from the data sheets of their makers
    "h200": _gpu("h200", 141, 989, 67, 450, 700),
    "h100": _gpu("h100", 80, 989, 67, 450, 700),
    "a100": _gpu("a100", 80, 312, 19.5, 300, 400),
    "a100-40": _gpu("a100-40", 40, 312, 19.5, 300, 400),
    "v100": _gpu("v100", 32, 125, 15.7, 150, 300),
    "l4": _gpu("l4", 24, 121, 30, 32, 72),
    "rtx4090": _gpu("rtx4090", 24, 165, 83, 32, 450),
    "t4": _gpu("t4", 16, 65, 8.1, 16, 70),
    "tpu-v4": _gpu("tpu-v4", 32, 275, 0, 150, 192),
}


def this_machine() -> Device:
    """The CPU that this runs on, its matrix rate measured now."""
    pages = Path("/proc/meminfo")
    memory = int(pages.read_text().split()[1]) / 1e6 * 1.024 if pages.exists() else 0.0
    return Device(name="cpu", memory=memory, rates={p: matrix_rate(p) for p in DTYPES}, process=memory_now() or 0.3)


def find_device(name: str) -> Device:
    """A device by name; `cpu` is this machine."""
    if name == "cpu":
        return this_machine()
    if name not in DEVICES:
        raise UserError(f"there is no device {name!r}", fix=nearest(name, [*DEVICES, "cpu"]))
    return DEVICES[name]


def matrix_rate(precision: str, *, size: int = 0, device: torch.device | str = "cpu") -> float:
    """TFLOP/s of multiplying two square matrices here, the best of ten times."""
    size = size or (8192 if torch.device(device).type == "cuda" else 1024)
    left, right = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(2))
    best = inf
    for _ in range(10):
        _wait(device)
        started = time.perf_counter()
        left @ right
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e12


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
