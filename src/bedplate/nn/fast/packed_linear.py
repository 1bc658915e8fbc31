"""Linear layers for inference on a CPU, their weights stored in the order in which oneDNN's kernels read them.

Decoding is one matrix-vector product per layer and token, bound by memory. On two cores of an AMD EPYC (GPT-2 124M,
float32) torch's `F.linear` reads a row-major weight at 14 GB/s, a column-major one at 22, and the packed kernel at 29
to 47 by shape. The packed copy replaces the weight, so that memory does not grow.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bedplate.nn.fast.memory import give_back

PACKED_DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """The same function as the `nn.Linear` it was made from. For evaluation only: it has no gradient."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    @property
    def weight(self) -> Float[Tensor, "out_features in_features"]:
        """The weight in its ordinary order, a new tensor."""
        return self.packed.to_dense()

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        if self.training:
            raise RuntimeError("this model was packed for generation and cannot be trained: load it again")
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight


def pack(model: nn.Module) -> None:
    """Prepare a model in place for decoding on a CPU; its parameters no longer take gradients.

    Elsewhere, and for number formats that oneDNN does not have, this leaves the model as it is.
    """
    weight = next(model.parameters())
    if weight.device.type != "cpu" or weight.dtype not in PACKED_DTYPES:
        return
    model.eval().requires_grad_(False)
    _pack_children(model)


def _pack_children(parent: nn.Module) -> None:
    for name, child in parent.named_children():
        if type(child) is nn.Linear:
            setattr(parent, name, PackedLinear(child).eval())
        else:
            _pack_children(child)
            give_back()  # of the plain weights, so that packing a model takes no more memory than the model


def project(x: Float[Tensor, "*batch dim"], weight: Float[Tensor, "out dim"]) -> Float[Tensor, "*batch out"]:
    """x weight^T by the faster kernel: for inference on a CPU oneDNN's, which reads an ordinary weight at 26 GB/s.

    For output layers, whose weight is also the embedding and stays as it is.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != weight.dtype or x.dtype not in PACKED_DTYPES:
        return F.linear(x, weight)
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def linear_plain(x: Float[Tensor, "*batch dim"], layer: PackedLinear) -> Float[Tensor, "*batch out"]:
    """The twin that `PackedLinear` is tested against."""
    return F.linear(x, layer.weight, layer.bias)
