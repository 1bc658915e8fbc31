"""torchscale's RetNetDecoder written out from its tensors: transformers has no such model.

Its parallel form divides scores by detached sums, which scales whole rows: behind the norm of each head that changes
neither values nor gradients, but for its epsilon (torchscale's issue 40). Its recurrent form does not, and is the one
that ours is equal to with any epsilon.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bedplate.models.retnet import Config

ACTIVATIONS = {"gelu": F.gelu, "silu": F.silu, "relu": F.relu}


Form = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # query, key, value [batch heads length _], gamma by head


def parallel(query: Tensor, key: Tensor, value: Tensor, gammas: Tensor) -> Tensor:
    """All tokens at once."""
    place = torch.arange(query.shape[2], dtype=torch.float64)
    mask = (gammas[:, None, None] ** (place[:, None] - place).clamp(min=0)).tril()
    scores = query @ key.transpose(-1, -2) * (mask / mask.sum(dim=-1, keepdim=True).sqrt()).to(query.dtype)
    return scores / scores.detach().abs().sum(dim=-1, keepdim=True).clamp(1, 5e4) @ value


def recurrent(query: Tensor, key: Tensor, value: Tensor, gammas: Tensor) -> Tensor:
    """Token by token; what is held is rescaled so that its terms keep their size."""
    found, held, scale = [], torch.zeros(()), torch.zeros(len(gammas), 1, 1, dtype=query.dtype)
    gammas = gammas[:, None, None].to(query.dtype)
    for q, k, v in zip(query.unbind(2), key.unbind(2), value.unbind(2), strict=True):
        before, scale = scale, scale * gammas + 1
        held = held * (before.sqrt() * gammas / scale.sqrt()) + k[..., :, None] * v[..., None, :] / scale.sqrt()
        found.append((q[..., None] * held).sum(dim=-2))
    return torch.stack(found, dim=2)


def logits_of(config: Config, weights: dict[str, Tensor], ids: Tensor, *, form: Form = parallel) -> Tensor:
    """Logits of texts."""
    dim, heads = config.dim, config.num_heads
    place = torch.arange(ids.shape[1], dtype=torch.float64)
    angle = (1 / 10000 ** torch.linspace(0, 1, dim // heads // 2, dtype=torch.float64)).repeat_interleave(2)
    sine, cosine = ((place[:, None] * angle).sin(), (place[:, None] * angle).cos())
    gammas = 1 - 2.0 ** (-5 - torch.arange(heads, dtype=torch.float64))
    if config.decay == "spread":
        gammas = 1 - torch.linspace(math.log(1 / 32), math.log(1 / 512), heads, dtype=torch.float64).exp()

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
        mixed = norm(form(turn(q), turn(k * (dim // heads) ** -0.5), v, gammas)).transpose(1, 2).flatten(2)
        x = x + (F.silu(g) * mixed) @ weights[f"{part}.retention.out_proj.weight"].T
        normed = norm(x, f"{part}.final_layer_norm")
        activation = ACTIVATIONS[config.mlp.removeprefix("gated ")]
        inner = activation(normed @ weights[f"{part}.ffn.fc1.weight"].T)
        if config.mlp.startswith("gated"):
            inner = inner * (normed @ weights[f"{part}.ffn.gate.weight"].T)
        x = x + inner @ weights[f"{part}.ffn.fc2.weight"].T
    output = weights.get("output_projection.weight", weights["embed_tokens.weight"])
    return norm(x, "layer_norm") @ output.T
