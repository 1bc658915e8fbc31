"""Vectors of texts from an encoder's hidden states (BERT, section 5.3)."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bedplate.errors import UserError, nearest
from bedplate.generate.prompt import evaluating

ROWS = 32  # texts that go through together
POOLINGS = {
    "mean": lambda states: states.mean(dim=2),  # over all tokens, [CLS] and [SEP] too
    "cls": lambda states: states[:, :, 0],
}


def embed(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    layers: Sequence[int] = (-1,),
    pooling: str = "mean",
    truncate: bool = False,
) -> Float[Tensor, "texts layers dim"]:
    """The chosen hidden states of each text, one vector a layer; layer 0 is what enters the first block, -1 the last.

    Texts of equal length go through together, so that nothing is filled up and a text gives the same in any company.
    Raises UserError for a text that is longer than the model takes, unless `truncate` cuts off its end.
    """
    encoder = getattr(model, "bert", model)
    if not hasattr(encoder, "hidden_states"):
        raise UserError(f"a {type(model).__name__} is no encoder", fix="give a BERT")
    if pooling not in POOLINGS:
        raise UserError(f"there is no pooling {pooling!r}", fix=nearest(pooling, POOLINGS))
    if wrong := [
        layer for layer in layers if not -encoder.config.num_layers <= layer + 1 <= encoder.config.num_layers + 1
    ]:
        cause = f"there is no layer {wrong[0]} in a model of {encoder.config.num_layers}"
        raise UserError(cause, fix=f"choose from 0 to {encoder.config.num_layers}, or count from the last one, -1")
    rows, room = _rows(tokenizer, texts), encoder.config.context_length
    if not truncate and (long := [len(row) for row in rows if len(row) > room]):
        raise UserError(f"a text has {long[0]} tokens, the model takes {room}", fix="shorten it, or truncate it")
    rows = [[*row[: room - 1], row[-1]] if len(row) > room else row for row in rows]
    device = encoder.token_embedding.weight.device
    found: dict[int, Tensor] = {}
    with evaluating(model), torch.inference_mode():
        for numbers in _alike(rows):
            states = encoder.hidden_states(torch.tensor([rows[number] for number in numbers], device=device))
            chosen = torch.stack([states[layer] for layer in layers], dim=1)
            found |= dict(zip(numbers, POOLINGS[pooling](chosen), strict=True))
    return torch.stack([found[number] for number in range(len(rows))])


def _rows(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        raise UserError("there are no texts", fix="give at least one")
    return [[tokenizer.start_id, *ids, tokenizer.end_id] for ids in tokenizer.encode_batch(list(texts))]


def _alike(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Numbers of rows of equal length, `ROWS` at most in each group."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        by_length[len(row)].append(number)
    return [group[start : start + ROWS] for group in by_length.values() for start in range(0, len(group), ROWS)]
