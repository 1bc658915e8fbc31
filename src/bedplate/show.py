"""What `bedplate show` and `bedplate show-batch` tell: parameters, memory, and the very tokens that training sees."""

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bedplate.errors import UserError
from bedplate.language_model import load
from bedplate.models import build, published_sizes
from bedplate.nn.fast.linear_cross_entropy import IGNORE
from bedplate.recipes.recipe import Recipe


def describe_model(target: str) -> dict[str, Any]:
    """Configuration, parameters by part, and memory in gigabytes. Published sizes are not allocated."""
    model: Any = _model(target)
    parts: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        parts[_part(name)] += parameter.numel()
    total = sum(parts.values())
    parameters = [{"part": part, "parameters": n, "share %": 100 * n / total} for part, n in parts.items()]
    return {
        "config": dataclasses.asdict(model.config),
        "parameters": [*parameters, {"part": "all", "parameters": total, "share %": 100.0}],
        "memory": _memory(model, total),
    }


def _model(target: str) -> nn.Module:
    sizes = published_sizes()
    if target not in sizes or Path(target).exists():
        return load(target).model
    with torch.device("meta"):
        return build(sizes[target])


def describe_batch(recipe: Recipe, *, step: int, row: int) -> tuple[list[dict[str, Any]], str]:
    """The tokens of one window of a batch, and what is done at the ends of documents."""
    prepared = recipe.data.prepare(recipe)
    tokenizer, batch = prepared.tokenizer, prepared.source.batch(step)
    if not 0 <= row < recipe.batch_size:
        raise UserError(f"the batch has no window {row}", fix=f"choose --row from 0 to {recipe.batch_size - 1}")
    if "mask" in batch and "source" not in batch:
        return _describe_encoder_row(tokenizer, batch, row)
    if "targets" not in batch:
        return _describe_item(tokenizer, batch, row)
    documents = batch.get("documents", torch.zeros_like(batch["ids"]))[row].tolist()
    rows = []
    for position, (id, target) in enumerate(
        zip(batch["ids"][row].tolist(), batch["targets"][row].tolist(), strict=True)
    ):
        learned = "not counted" if target == IGNORE else repr(tokenizer.decode([target]))
        text = repr(tokenizer.decode([id]))
        rows.append({"position": position, "document": documents[position], "id": id, "text": text, "target": learned})
    end = tokenizer.tokens[tokenizer.end_id]
    sees = "only its own document" if recipe.data.isolate else "everything before it in the window"
    policy = (
        f"Documents end with {end} (id {tokenizer.end_id}), which is learned and opens the next one. "
        f"There is no padding. A token sees {sees}. "
        f"{len(batch['ids'])} windows of {batch['ids'].shape[1]} tokens a step."
    )
    return rows, policy


def _describe_item(tokenizer: Any, batch: Any, row: int) -> tuple[list[dict[str, Any]], str]:
    """The sequences of one labeled item, and its label."""
    rows = []
    for number, (ids, length) in enumerate(
        zip(batch["ids"][row].tolist(), batch["lengths"][row].tolist(), strict=True)
    ):
        for position, id in enumerate(ids[:length]):
            rows.append({"sequence": number, "position": position, "id": id, "text": repr(tokenizer.decode([id]))})
    policy = (
        f"The label is {batch['labels'][row]}, read from the last token of each sequence. "
        f"What follows a sequence in the batch is not seen. {len(batch['ids'])} items a step."
    )
    return rows, policy


def _describe_encoder_row(tokenizer: Any, batch: Any, row: int) -> tuple[list[dict[str, Any]], str]:
    """One row of an encoder, and what is to be told of it."""
    rows = []
    for position in range(int(batch["mask"][row].sum())):
        id, target = int(batch["ids"][row, position]), IGNORE
        if "targets" in batch:
            target = int(batch["targets"][row, position])
        learned = "not counted" if target == IGNORE else tokenizer.tokens[target]
        segment = int(batch["segments"][row, position])
        rows.append(
            {"position": position, "segment": segment, "id": id, "text": tokenizer.tokens[id], "target": learned}
        )
    answers = [f"{name} {batch[name][row].tolist()}" for name in ("next_sentence", "labels") if name in batch]
    policy = f"{', '.join(answers)}. What fills up a row is not seen. {len(batch['ids'])} rows a step."
    return rows, policy


def _part(name: str) -> str:
    """Parameters of all blocks counted together: `blocks.3.mlp.up.weight` is part of `blocks: mlp`."""
    words = name.split(".")
    return f"blocks: {words[2]}" if words[0] == "blocks" else words[0]


def _memory(model: Any, total: int) -> list[dict[str, Any]]:
    length = model.config.context_length
    with torch.device("meta"):
        fresh: Any = build(model.config)
        state = fresh.new_state(1, capacity=length) if hasattr(fresh, "new_state") else []
    held = sum(layer.nbytes for layer in state)
    rows = [
        {"what": "weights, float32", "GB": 4 * total / 1e9},
        {"what": "weights, bfloat16", "GB": 2 * total / 1e9},
        {"what": "training without activations (weights, gradients, two moments), float32", "GB": 16 * total / 1e9},
        {
            "what": f"state of one full context ({length} tokens), float32",
            "GB": held / 1e9,
        },
    ]
    return rows if state else rows[:-1]
