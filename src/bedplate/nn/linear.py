"""Linear layers: torch's where gradients are taken or many rows go through, our own kernels for the few of decoding."""

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bedplate.nn.fast.memory import give_back
from bedplate.nn.quantize import Quantized, QuantizedEmbedding, dense

FEW = 16  # tokens of a sequence that go through together, up to which they count as few
ONEDNN: tuple[torch.dtype, ...] = ()  # what it computes with on this machine
if torch.backends.mkldnn.is_available():
    ONEDNN = (torch.float32, *([torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else []))

PLAIN = {torch.float32: None, torch.bfloat16: None}  # numbers that the kernels read, without scales
SCALES = {torch.bfloat16: None, torch.int8: torch.float32, torch.uint8: torch.bfloat16}  # of quantized ones
Weight = Tensor | Quantized
Matrix = tuple[Tensor, Tensor | None, Tensor | None]


class Linear(nn.Linear):
    """torch's layer. In inference on a CPU with few tokens a sequence, what a sequence gives depends on nothing but
    itself, not even in its last bit (float32, or bfloat16 with sums in float32).
    """

    def forward(self, input: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        return project(input, self.weight, self.bias)


class QuantizedLinear(nn.Module):
    """The same with a quantized weight, for inference only."""

    def __init__(self, weight: Quantized, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        return project(x, self.weight, self.bias)


def quantize(model: nn.Module, kind: str) -> None:
    """Store the matrices of a model's linear layers, and of an embedding that is also the output layer, as `kind` says
    (see `quantize.KINDS`), in place. The model can then neither be trained nor saved.
    """
    read_twice = id(getattr(model, "output_weight", None))
    layers = [path for path, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding)]
    for path in layers:
        each: Any = model.get_submodule(path)
        if isinstance(each, nn.Linear) or id(each.weight) == read_twice:
            Quantized.check(each.weight, kind)  # all of them, before one is changed
    for path in layers:
        above, _, name = path.rpartition(".")
        parent = model.get_submodule(above)
        child = getattr(parent, name)
        if isinstance(child, nn.Linear):
            setattr(parent, name, QuantizedLinear(Quantized.of(child.weight, kind), child.bias))
        elif id(child.weight) == read_twice:
            setattr(parent, name, QuantizedEmbedding(Quantized.of(child.weight, kind)))
        del child
        give_back()  # of each weight before the next one is quantized
    model.eval().requires_grad_(False)


def project(
    x: Float[Tensor, "*batch dim"], weight: Weight, bias: Float[Tensor, " out"] | None = None
) -> Float[Tensor, "*batch out"]:
    """x weight^T + bias. An output layer calls it with the weight that is also the embedding."""
    if not inferring(x) or stored_matrix(weight, bias) is None:
        return F.linear(x, dense(weight), bias)
    if few_rows(x) or isinstance(weight, Quantized):
        return _products(x, [(weight, bias)])[0]
    if x.dtype == weight.dtype and x.dtype in ONEDNN:  # twice as fast as F.linear on some processors
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def together(x: Float[Tensor, "*batch in_features"], *layers: nn.Module) -> list[Float[Tensor, "*batch _"]]:
    """What each of several linear layers gives for x: in one pass where that is faster."""
    if inferring(x) and few_rows(x) and all(_ours(layer) for layer in layers):
        pairs: list[Any] = [(layer.weight, layer.bias) for layer in layers]
        matrices = [stored_matrix(*pair) for pair in pairs]
        if None not in matrices and len({_form(each) for each in matrices}) == 1:
            return _products(x, pairs)
    return [layer(x) for layer in layers]


def linear_plain(x: Float[Tensor, "*batch dim"], weight: Weight, bias: Tensor | None) -> Float[Tensor, "*batch out"]:
    """The twin that `project` is tested against."""
    return F.linear(x, dense(weight), bias)


def inferring(x: Tensor) -> bool:
    """Whether this is inference on a CPU in a format that the kernels know."""
    return (
        not torch.is_grad_enabled()
        and type(x) is Tensor
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.is_cpu
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and not torch.nn.modules.module._global_forward_hooks
    )


def few_rows(x: Tensor) -> bool:
    """Whether few tokens of each sequence [*batch token dim] go through, however many sequences they are; in
    [batch dim] it is one of each.
    """
    return x.ndim <= 2 or x.shape[-2] <= FEW


@functools.cache
def kernels() -> Any:
    """The modules of `nn.fast` that need numba, or None where that is not installed."""
    try:
        from bedplate.nn.fast import attend_one, few_rows, one_token
    except ImportError:
        return None
    return SimpleNamespace(attend_one=attend_one, few_rows=few_rows, one_token=one_token)


def _ours(layer: nn.Module) -> bool:
    """Whether the layer is nothing but its weight: not wrapped, and nobody watches it."""
    return type(layer) in (Linear, QuantizedLinear) and not watched(layer)


def watched(module: nn.Module) -> bool:
    """Whether calling the module does more than, or other than, its class says."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _form(matrix: Any) -> tuple[Any, Any]:
    codes, _, bias = matrix
    return codes.dtype, None if bias is None else bias.dtype


def stored_matrix(weight: Weight, bias: Tensor | None) -> Matrix | None:
    """As it is stored: numbers or codes, scales, bias. None when the kernels cannot read it."""
    if isinstance(weight, Quantized):
        codes, scales, kinds = weight.codes, weight.scales, SCALES
    else:
        codes, scales, kinds = weight, None, PLAIN
    readable = (
        type(codes) in (nn.Parameter, Tensor)
        and codes.is_cpu
        and codes.stride(1) == 1
        and codes.dtype in kinds
        and (scales is None or (scales.dtype == kinds[codes.dtype] and scales.is_contiguous()))
        and (bias is None or (bias.dtype in PLAIN and bias.is_contiguous() and bias.is_cpu and len(bias) == len(codes)))
    )
    return (codes, scales, bias) if readable else None


def _products(x: Tensor, pairs: Sequence[tuple[Weight, Tensor | None]]) -> list[Tensor]:
    """By the kernel; where there is none each row by itself, so that here too its neighbors do not matter."""
    matrices: Any = [stored_matrix(weight, bias) for weight, bias in pairs]
    kernel = kernels()
    if kernel is not None and kernel.few_rows.fits(x.shape[-1], matrices[0][0].dtype):
        y = kernel.few_rows.multiply(x, matrices)
        y = y if y.dtype == x.dtype else y.to(x.dtype)
        return [y] if len(pairs) == 1 else list(y.split([weight.shape[0] for weight, _ in pairs], dim=-1))
    rows = x.reshape(-1, 1, x.shape[-1])
    products = [[F.linear(row, tensor, bias) for row in rows] for tensor, bias in ((dense(w), b) for w, b in pairs)]
    return [torch.cat(each).view(*x.shape[:-1], -1) for each in products]
