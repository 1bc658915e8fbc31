"""torchscale's RetNetDecoder by its parallel form, written out from its tensors: transformers has no such model.

It divides scores by detached sums, which scales whole rows: behind the norm of each head that changes neither values
nor gradients, but for its epsilon (torchscale's issue 40).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bedplate.models.retnet import Config

ACTIVATIONS = {"gelu": F.gelu, "silu": F.silu, "relu": F.relu}


def logits_of(config: Config, weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Logits of texts."""
    dim, heads = config.dim, config.num_heads
    place = torch.arange(ids.shape[1], dtype=torch.float64)
    angle = (1 / 10000 ** torch.linspace(0, 1, dim // heads // 2, dtype=torch.float64)).repeat_interleave(2)
    sine, cosine = ((place[:, None] * angle).sin(), (place[:, None] * angle).cos())
    gammas = 1 - 2.0 ** (-5 - torch.arange(heads, dtype=torch.float64))
    if config.decay == "spread":
        gammas = 1 - torch.linspace(math.log(1 / 32), math.log(1 / 512), heads, dtype=torch.float64).exp()
    distance = place[:, None] - place
    mask = (gammas[:, None, None] ** distance.clamp(min=0)).tril()
    mask = (mask / mask.sum(dim=-1, keepdim=True).sqrt()).to(weights["embed_tokens.weight"].dtype)

    def norm(x: Tensor, name: str | None = None) -> Tensor:
        x = x * (x.square().mean(dim=-1, keepdim=True) + config.norm_eps).rsqrt()
        return x if name is None else x * weights[f"{name}.weight"]

    def turn(x: Tensor) -> Tensor:
        other = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        return x * cosine.to(x.dtype) + other * sine.to(x.dtype)

    x = weights["embed_tokens.weight"][ids] * (dim**0.5 if config.scale_embedding else 1.0)
    for layer in range(config.num_layers):
        part = f"layers.{layer}"
        normed = norm(x, f"{part}.retention_layer_norm")
        q, k, v, g = (normed @ weights[f"{part}.retention.{name}_proj.weight"].T for name in "qkvg")
        q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
        scores = turn(q) @ turn(k * (dim // heads) ** -0.5).transpose(-1, -2) * mask
        scores = scores / scores.detach().abs().sum(dim=-1, keepdim=True).clamp(1, 5e4)
        mixed = norm(scores @ v).transpose(1, 2).flatten(2)
        x = x + (F.silu(g) * mixed) @ weights[f"{part}.retention.out_proj.weight"].T
        normed = norm(x, f"{part}.final_layer_norm")
        activation = ACTIVATIONS[config.mlp.removeprefix("gated ")]
        inner = activation(normed @ weights[f"{part}.ffn.fc1.weight"].T)
        if config.mlp.startswith("gated"):
            inner = inner * (normed @ weights[f"{part}.ffn.gate.weight"].T)
        x = x + inner @ weights[f"{part}.ffn.fc2.weight"].T
    output = weights.get("output_projection.weight", weights["embed_tokens.weight"])
    return norm(x, "layer_norm") @ output.T
