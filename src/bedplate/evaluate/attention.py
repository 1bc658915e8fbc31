"""What one head of one layer computes for a text: read from the model's own layers as they run, and computed again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bedplate.errors import UserError
from bedplate.generate.prompt import evaluating
from bedplate.nn.attend import Bias
from bedplate.nn.attention import Attention
from bedplate.nn.position import Alibi, Causal, rotate

PARTS = ("query", "key", "value")
BOUND = 1e-6  # of the largest mixed value: what float32 rounds


@dataclass(frozen=True, kw_only=True)
class Head:
    """The steps of softmax(query key^T * scale + bias) value (Vaswani et al. 2017, eq. 1) in one head, in float64."""

    tokens: Sequence[str]
    query: Float[Tensor, "length head_dim"]  # rotated where positions rotate them, as the keys
    key: Float[Tensor, "length head_dim"]
    value: Float[Tensor, "length head_dim"]
    scores: Float[Tensor, "length length"]  # scaled, with the bias: -inf where a token may not look
    weights: Float[Tensor, "length length"]
    mixed: Float[Tensor, "length head_dim"]
    error: float  # of `mixed` beside what the model's own layer gave, relative to the largest value

    def row(self, position: int) -> list[dict[str, Any]]:
        """What the token at this position sees: a line for each key, and one for the sums."""
        lines = [
            {
                "position": place,
                "token": token,
                "key": self.key[place].tolist(),
                "score": self.scores[position, place].item(),
                "softmax": self.weights[position, place].item(),
                "value": self.value[place].tolist(),
            }
            for place, token in enumerate(self.tokens)
        ]
        total = self.weights[position].sum().item()
        sums = {"position": None, "token": "sum", "key": [], "score": None, "softmax": total}
        return [*lines, sums | {"value": self.mixed[position].tolist()}]


def explain_head(model: Any, tokenizer: Any, text: str, *, layer: int, head: int) -> Head:
    """Run the model on a text and watch a layer. Layers and heads count from 0.

    Raises UserError for a model without our attention, a layer or head that is not there, and a layer whose own output
    is not what these steps give.
    """
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    if not layers:
        raise UserError("the model has no attention that can be explained", fix="choose one such as gpt2-tiny")
    for name, number, count in (("layer", layer, len(layers)), ("head", head, layers[0].num_heads)):
        if not 0 <= number < count:
            raise UserError(f"there is no {name} {number}", fix=f"choose one from 0 to {count - 1}")
    ids = tokenizer.encode(text)
    if not 1 <= len(ids) <= model.config.context_length:
        cause = f"the text has {len(ids)} tokens, the model takes 1 to {model.config.context_length}"
        raise UserError(cause, fix="give another text")
    with evaluating(model), torch.no_grad(), _watching(layers[layer]) as seen:
        model(torch.tensor([ids], device=next(model.parameters()).device))
    tokens = [tokenizer.decode([id]) for id in ids]
    found = _steps(layers[layer], seen, tokens, head)
    if not found.error <= BOUND:
        cause = f"the steps give another output than layer {layer} itself (relative error {found.error:.1e})"
        raise UserError(cause, fix="report it: what this layer computes is not what is shown")
    return found


@contextmanager
def _watching(layer: Attention) -> Iterator[dict[str, Any]]:
    """What goes into a layer and its parts, and what comes out of them."""
    seen: dict[str, Any] = {}

    def enter(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.update(bias=named.get("bias"), rotary=named.get("rotary"))

    def leave(name: str) -> Any:
        return lambda module, arguments, output: seen.update({name: output})

    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True)]
    handles += [getattr(layer, name).register_forward_hook(leave(name)) for name in PARTS]
    handles.append(layer.out.register_forward_pre_hook(lambda module, arguments: seen.update(mixed=arguments[0])))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _steps(layer: Attention, seen: dict[str, Any], tokens: Sequence[str], head: int) -> Head:
    group = head // (layer.num_heads // layer.num_kv_heads)
    heads = (seen[name].double().unflatten(-1, (-1, layer.head_dim)).transpose(1, 2) for name in PARTS)
    query, key, value = heads
    if seen["rotary"] is not None:
        query, key = rotate(query, seen["rotary"]), rotate(key, seen["rotary"])
    query, key, value = query[0, head], key[0, group], value[0, group]
    scale = layer.head_dim**-0.5 if layer.scale is None else layer.scale
    scores = _biased(query @ key.T * scale, seen["bias"], head)
    weights = scores.softmax(dim=-1)
    mixed, own = weights @ value, seen["mixed"][0].double().unflatten(-1, (-1, layer.head_dim))[:, head]
    error = ((mixed - own).abs().max() / own.abs().max()).item()
    parts = {"query": query, "key": key, "value": value, "scores": scores, "weights": weights, "mixed": mixed}
    return Head(tokens=tokens, error=error, **parts)


def _biased(scores: Float[Tensor, "query key"], bias: Bias, head: int) -> Float[Tensor, "query key"]:
    if isinstance(bias, Causal | Alibi):
        bias = bias.dense(scores.shape[0], scores.shape[1], scores.device)
    if bias is None:
        return scores
    if bias.ndim == 4:
        bias = bias[0]
    bias = bias[head if len(bias) > 1 else 0] if bias.ndim == 3 else bias
    return scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias


def draw(head: Head, path: Path, *, title: str) -> None:
    """A heat map of the weights: a row for each token that looks, a column for each that it looks at."""
    from matplotlib.figure import Figure

    size = 2.5 + 0.28 * len(head.tokens)
    figure = Figure(figsize=(size + 0.6, size), dpi=120, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(head.weights.cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
    labels = [repr(token)[1:-1].replace("$", r"\$") for token in head.tokens]
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set(title=title, xlabel="looked at", ylabel="looks")
    figure.colorbar(image, ax=axes, shrink=0.8, label="weight")
    figure.savefig(path)
