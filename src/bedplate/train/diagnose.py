"""Where a number that is not finite came from: the first module and operation, found by computing the step again."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bedplate.train import ranks
from bedplate.train.parallel import Work

# These write infinity on purpose (masks), or hand on what they are given.
INNOCENT = ("fill", "full", "where", "scalar_tensor", "copy", "clone", "empty", "detach", "masked", "index_put")


def first_not_finite(work: Work, again: Callable[[], Any]) -> str:
    """`blocks.3.mlp.up (addmm)`, or what is known where computing again does not show it."""
    watch = _Watch()
    handles = []
    for name, module in work.model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda module, inputs, name=name: watch.enter(name)))
        handles.append(
            module.register_forward_hook(lambda module, inputs, output, name=name: watch.leave(name, output))
        )
    work.model.zero_grad()
    with watch:
        again()  # to its end: other ranks wait for what this one sends
    for handle in handles:
        handle.remove()
    found = [place for place in ranks.from_all(watch.found) if place]
    return found[0] if found else "a place that computing the step again does not show"


class _Watch(TorchDispatchMode):
    """Sees every operation, forward and backward, and notes the first that makes a number that is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.path: list[str] = []
        self.outputs: dict[int, Tensor] = {}
        self.where = ""
        self.found = ""

    def enter(self, name: str) -> None:
        self.path.append(name)
        self.where = name or "the model"

    def leave(self, name: str, output: object) -> None:
        self.path.pop()
        self.where = (self.path[-1] if self.path else "") or "the model"
        if isinstance(output, Tensor) and output.requires_grad and id(output) not in self.outputs:
            self.outputs[id(output)] = output  # what hands on another's output is not where it was made
            output.register_hook(lambda gradient: self.back(name))

    def back(self, name: str) -> None:
        self.where = f"the backward pass of {name or 'the model'}"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        made = self.where and func.namespace == "aten" and not func.is_view  # not what engines hand around
        if made and not self.found and not any(word in name for word in INNOCENT):
            # The other outputs of attention are its kernel's own notes, in which infinity may stand for nothing.
            seen = result[0] if "scaled_dot_product" in name and isinstance(result, (tuple, list)) else result
            if _broken(seen):
                self.found = f"{self.where} ({name.strip('_')})"
        return result


def _broken(values: Any) -> bool:
    leaves = (leaf.to_local() if isinstance(leaf, DTensor) else leaf for leaf in tree_leaves(values))
    tensors = (leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return any(not torch.isfinite(tensor).all() for tensor in tensors)
