"""Linear layers for inference on a CPU, their weights stored in the order in which oneDNN's kernels read them.

Decoding is one matrix-vector product per layer and token, bound by memory. On two cores of an AMD EPYC (GPT-2 124M,
float32) torch's `F.linear` reads a row-major weight at 14 GB/s, a column-major one at 22, and the packed kernel at 29
to 47 by shape. The packed copy replaces the weight, so that memory does not grow.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bedplate.nn.fast.memory import give_back

PACKED_DTYPES: tuple[torch.dtype, ...] = ()  # what oneDNN computes in on this machine
if torch.backends.mkldnn.is_available():
    PACKED_DTYPES = (torch.float32,)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        PACKED_DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """The same function as the `nn.Linear` it was made from. For evaluation only: it has no gradient.

    To the outside its weight is what it was: it is counted, saved, loaded and converted, and a deep copy is an
    ordinary `nn.Linear`.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = _packed(linear.weight), linear.bias

    def unpacked(self) -> nn.Linear:
        """The ordinary layer, its weight a new tensor and its bias this one's."""
        out_features, in_features = self.weight.shape
        linear = nn.Linear(in_features, out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.weight.to_dense(), requires_grad=False)
        linear.bias = self.bias
        return linear.train(self.training)

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        if self.training:
            raise RuntimeError("this model was packed for generation: train a copy.deepcopy of it, or load it again")
        return _product(x, self.weight, self.bias)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight.to_dense()

    def _load_from_state_dict(self, *arguments: Any) -> None:
        linear = self.unpacked()
        linear._load_from_state_dict(*arguments)
        self.weight = _packed(linear.weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedLinear":
        linear = self.unpacked()._apply(fn, recurse)
        if not can_pack(linear.weight):
            raise RuntimeError("this model was packed for generation: convert a copy.deepcopy of it, or load it again")
        self.weight, self.bias = _packed(linear.weight), linear.bias
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Linear:
        return copy.deepcopy(self.unpacked(), memo)


def _packed(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.ops.mkldnn._reorder_linear_weight(weight.detach()), requires_grad=False)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's kernel. What it gives for a row does not depend on the other rows, except that it sums a single row of
    more than 1,024 inputs, or against a weight that is not packed, in another order: such a row gets company.
    """
    if x.numel() == x.shape[-1] and (x.shape[-1] > 1024 or not weight.is_mkldnn):
        pair = x.reshape(1, -1).expand(2, -1)
        return torch.ops.mkldnn._linear_pointwise(pair, weight, bias, "none", [], "")[0].view(*x.shape[:-1], -1)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def can_pack(tensor: Tensor) -> bool:
    """Whether oneDNN computes with this kind of tensor on this machine."""
    return tensor.device.type == "cpu" and tensor.dtype in PACKED_DTYPES


def pack(model: nn.Module) -> None:
    """Prepare a model in place for decoding on a CPU; its parameters no longer take gradients.

    Elsewhere, and for number formats that oneDNN does not have, this leaves the model as it is. The model's
    `output_weight` stays ordinary, for embeddings and losses read it a piece at a time, and gets a packed copy.
    """
    if not can_pack(next(model.parameters())):
        return
    model.eval().requires_grad_(False)
    output_weight = getattr(model, "output_weight", None)
    _pack_children(model, output_weight)
    if output_weight is not None and _packed_copy(output_weight) is None:
        output_weight.packed = (_state_of(output_weight), _packed(output_weight))


def _pack_children(parent: nn.Module, output_weight: Tensor | None) -> None:
    for name, child in parent.named_children():
        if type(child) is nn.Linear:
            if child.weight is not output_weight:
                setattr(parent, name, PackedLinear(child).eval())
        else:
            _pack_children(child, output_weight)
            give_back()  # of the plain weights, so that packing a model takes no more memory than the model


def project(x: Float[Tensor, "*batch dim"], weight: Float[Tensor, "out dim"]) -> Float[Tensor, "*batch out"]:
    """x weight^T by the faster kernel: for inference on a CPU oneDNN's, from the packed copy where there is one.

    For output layers, whose weight is also the embedding and stays as it is.
    """
    if torch.is_grad_enabled() or not can_pack(x) or x.dtype != weight.dtype:
        return F.linear(x, weight)
    packed = _packed_copy(weight)
    return _product(x, weight if packed is None else packed, None)


def _packed_copy(weight: Any) -> Tensor | None:
    """The copy that `pack` made, unless the weight has changed since."""
    state, packed = getattr(weight, "packed", (None, None))
    return packed if packed is not None and state == _state_of(weight) else None


def _state_of(weight: Tensor) -> tuple[int, int, torch.dtype]:
    version = 0 if weight.is_inference() else weight._version
    return weight.data_ptr(), version, weight.dtype


def linear_plain(x: Float[Tensor, "*batch dim"], layer: PackedLinear) -> Float[Tensor, "*batch out"]:
    """The twin that `PackedLinear` is tested against."""
    return F.linear(x, layer.weight.to_dense(), layer.bias)
