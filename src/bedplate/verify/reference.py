"""transformers' models as exact as their weights, so that what differs from ours is no rounding of theirs."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bedplate.nn.mlp import gelu_tanh
from bedplate.nn.position import alibi_slopes


def as_exact_as_weights(reference: Any) -> Any:
    """transformers computes RMS norms in float32 even in a float64 model, BLOOM's softmax and slopes too, and a
    constant of its GELU has 8 digits; with this, all are as wide as the weights. BLOOM then needs an attention mask.
    """
    for module in reference.modules():
        changed: Any = module
        if type(module).__name__.endswith(("RMSNorm", "T5LayerNorm")):
            settings: Any = {"weight": module.weight, "eps": module.variance_epsilon}
            changed.forward = functools.partial(F.rms_norm, normalized_shape=module.weight.shape, **settings)
        elif type(module).__name__ == "BloomGelu":
            changed.forward = gelu_tanh
        elif type(module).__name__ == "BloomModel":
            changed.build_alibi_tensor = _exact_biases
            changed.forward = functools.partial(_with_wide_softmax, module.forward)
    return reference


def _exact_biases(
    attention_mask: Int[Tensor, "batch key"], num_heads: int, dtype: torch.dtype
) -> Float[Tensor, "batch_heads 1 key"]:
    positions = (attention_mask.cumsum(dim=-1) - 1) * attention_mask
    biases = alibi_slopes(num_heads)[None, :, None] * positions[:, None]
    return biases.flatten(0, 1)[:, None].to(dtype)


class _WideSoftmax(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.softmax:
            return args[0].softmax(dim=-1)
        return func(*args, **kwargs or {})


def _with_wide_softmax(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    with _WideSoftmax():
        return forward(*inputs, **options)
