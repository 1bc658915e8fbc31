"""`bedplate bench encode`: BERT beside transformers on equal weights: forward passes and steps of pre-training."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bedplate.bench.measure import Row, take_turns
from bedplate.errors import UserError, nearest, require
from bedplate.models import build, save_pretrained
from bedplate.models.bert import SIZES, PretrainingConfig
from bedplate.nn.fast.linear_cross_entropy import IGNORE
from bedplate.objectives.masked import Masked, inputs_of
from bedplate.train.loop import Settings, accumulate
from bedplate.train.optimizer import AdamW, clip_gradients
from bedplate.train.parallel import Work
from bedplate.train.precision import autocast

SHARE = 0.15  # of hidden tokens


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is measured."""

    size: str = "bert-base"
    precision: str = "fp32"
    batch: int = 8
    length: int = 128


def bench(cell: Cell, *, repeats: int) -> list[Row]:
    """A forward pass over full rows, one over rows of all lengths that are filled up, and a step of pre-training."""
    if cell.size not in SIZES:
        raise UserError(f"there is no size {cell.size!r}", fix=nearest(cell.size, SIZES))
    transformers = require("transformers", extra="dev")
    transformers.utils.logging.set_verbosity_error()
    config = replace(SIZES[cell.size], dropout=0.0, attention_dropout=0.0)
    torch.manual_seed(0)
    ours: Any = build(PretrainingConfig(**vars(config)))
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(ours, Path(folder))
        peer = transformers.BertForPreTraining.from_pretrained(folder)
    rows = []
    for kind, full in (("full rows", True), ("rows of all lengths", False)):
        batch = _batch(cell, full=full)
        sides = take_turns(
            _forward(cell, ours.bert, batch, {}), _forward(cell, peer.bert, batch, THEIRS), repeats=repeats
        )
        rows.append(_row(f"forward {cell.size} {cell.precision} {cell.batch}x{cell.length}, {kind}", batch, sides))
    batch = _batch(cell, full=False)
    sides = take_turns(_our_step(cell, ours, batch), _peer_step(cell, peer, batch), repeats=repeats)
    rows.append(
        _row(f"pre-train {cell.size} {cell.precision} {cell.batch}x{cell.length}, rows of all lengths", batch, sides)
    )
    return rows


def _row(name: str, batch: dict[str, Tensor], seconds: tuple[float, float]) -> Row:
    tokens = int(batch["mask"].sum())
    return Row(
        name=f"{name}, tokens/s",
        ours=tokens / seconds[0],
        peer=tokens / seconds[1],
        unit="tokens/s",
        higher_is_better=True,
    )


THEIRS = {"segments": "token_type_ids", "mask": "attention_mask"}


def _forward(cell: Cell, model: Any, batch: dict[str, Tensor], names: dict[str, str]) -> Callable[[], object]:
    """The vectors of all tokens; full rows need no mask."""
    inputs = {names.get(name, name): value for name, value in inputs_of(batch).items()}
    if batch["mask"].all():
        del inputs[names.get("mask", "mask")]

    def step() -> object:
        model.eval()
        with torch.inference_mode(), autocast(cell.precision, batch["ids"].device):
            return model(batch["ids"], **inputs)

    return step


def _our_step(cell: Cell, model: Any, batch: dict[str, Tensor]) -> Callable[[], object]:
    """One step as the training loop makes it; returns the loss."""
    work, optimizer = Work(model, precision=cell.precision), AdamW(lr=1e-5).build(model)
    settings = Settings(steps=1, micro_batch_size=cell.batch, precision=cell.precision)

    def step() -> float:
        model.train()
        sums = accumulate(work, Masked(), batch, 0, settings)
        for parameter in model.parameters():
            parameter.grad.div_(sums["count"].item())
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return sums["loss"].item() / sums["count"].item()

    return step


def _peer_step(cell: Cell, model: Any, batch: dict[str, Tensor]) -> Callable[[], object]:
    """The same batch in the loop that transformers' documentation shows, with clipping; returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.1)
    inputs = {THEIRS[name]: value for name, value in inputs_of(batch).items()}
    inputs |= {"labels": batch["targets"], "next_sentence_label": batch["next_sentence"]}

    def step() -> float:
        model.train()
        with autocast(cell.precision, batch["ids"].device):
            loss = model(batch["ids"], **inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def _batch(cell: Cell, *, full: bool) -> dict[str, Tensor]:
    """Rows of random ids: all of full length, or of lengths from a quarter of it up to all of it."""
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(SIZES[cell.size].vocab_size, (cell.batch, cell.length), generator=chance)
    shares = torch.ones(cell.batch) if full else torch.linspace(0.25, 1, cell.batch)
    mask = torch.arange(cell.length) < (shares * cell.length).round()[:, None]
    hidden = (torch.rand(ids.shape, generator=chance) < SHARE) & mask
    return {
        "ids": ids, "mask": mask, "segments": ((torch.arange(cell.length) >= cell.length // 2) & mask).long(),
        "targets": torch.where(hidden, ids, IGNORE), "next_sentence": torch.arange(cell.batch) % 2,
        "hidden_per_row": (hidden.sum().double() / cell.batch).repeat(cell.batch),
    }  # fmt: skip
