"""What every module of a model put out, in order, so that two runs can be compared to the first tensor that differs."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Pairs = list[tuple[str, Tensor, Tensor]]  # name, actual, expected: in the order of computation


@dataclass
class Trace:
    """Outputs by module name; a module called several times (chunks of one sequence) is joined along the length."""

    outputs: dict[str, list[Tensor]] = field(default_factory=dict)

    def joined(self) -> dict[str, Tensor]:
        """One tensor [batch, length, ...] per module; without those that give something else, such as biases."""
        joint = {name: parts for name, parts in self.outputs.items() if len({_rest(part) for part in parts}) == 1}
        return {name: torch.cat(parts, dim=1) for name, parts in joint.items()}


def _rest(part: Tensor) -> tuple[int, ...]:
    return part.shape[:1] + part.shape[2:]


@contextmanager
def recording(model: nn.Module) -> Iterator[Trace]:
    """Record while the block runs; the model's own output is called `logits`, a module's second call `name (2)`."""
    trace = Trace()
    calls: Counter[str] = Counter()  # within one forward pass of the model

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: object, output: object) -> None:
            calls[name] += 1
            if isinstance(output, Tensor):
                label = name if calls[name] == 1 else f"{name} ({calls[name]})"
                trace.outputs.setdefault(label, []).append(output.detach())

        return keep

    handles = [module.register_forward_hook(hook(name or "logits")) for name, module in model.named_modules()]
    handles.append(model.register_forward_pre_hook(lambda module, inputs: calls.clear()))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference, in units of the largest expected value (or of 1 where that is smaller)."""
    if actual.shape != expected.shape:
        return float("inf")
    if actual.numel() == 0:
        return 0.0
    error = ((actual - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
    return error if error == error else float("inf")  # not a number: as wrong as can be


def largest_error(pairs: Pairs, bound: float) -> tuple[float, str]:
    """The largest error of all pairs, and the name of the first pair beyond the bound ("" when there is none)."""
    errors = [(name, relative_error(actual, expected)) for name, actual, expected in pairs]
    first = next((name for name, error in errors if error > bound), "")
    return max(error for _, error in errors), first
