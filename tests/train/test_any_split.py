"""Any split of a batch, over micro-batches and ranks, ragged and packed, gives the gradient of the whole batch.

`python -m torch.distributed.run ... test_any_split.py FILE` compares on two ranks and writes the largest errors.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.test_every_kind_of_learning import launch
from torch import Tensor

from bedplate.models.gpt2 import GPT2, Config
from bedplate.nn.fast.linear_cross_entropy import IGNORE
from bedplate.objectives.next_token import NextToken
from bedplate.train import ranks
from bedplate.train.loop import Settings, accumulate, to_device
from bedplate.train.parallel import Parallel, Work, whole

BOUNDS = {torch.float32: 1e-6, torch.float64: 1e-12}
SPLITS = (1, 2, 3, 5, 12)  # rows at a time
ROWS, LENGTH = 12, 24


def make(dtype: torch.dtype) -> tuple[GPT2, dict[str, Tensor]]:
    """A model, and rows of unequal length that are packed with documents."""
    torch.manual_seed(0)
    model = GPT2(Config(vocab_size=90, context_length=LENGTH, dim=32, num_layers=2, num_heads=2, dropout=0.0)).to(dtype)
    ids = torch.randint(90, (ROWS, LENGTH + 1))
    targets = ids[:, 1:].clone()
    for row in range(ROWS):  # row 5 counts nowhere, row 6 in one place
        targets[row, LENGTH - 4 * row if row < 5 else max(0, row - 5) :] = IGNORE if row else targets[row, -1]
    documents = (torch.rand(ROWS, LENGTH) < 0.15).cumsum(1)
    return model, {"ids": ids[:, :-1], "targets": targets, "documents": documents}


def gradient(model: GPT2, batch: dict[str, Tensor], rows: int, parallel: Parallel | None = None) -> dict[str, Tensor]:
    """As the loop makes it: summed over micro-batches and ranks, divided by the count of the whole batch."""
    work = Work(model, parallel=parallel)
    sums = accumulate(
        work, NextToken(z_loss=1e-3, label_smoothing=0.1), to_device(work.share(batch), torch.device("cpu")), 0,
        Settings(steps=1, micro_batch_size=rows),
    )  # fmt: skip
    count = sums["count"].item() / work.world
    found = {
        name: whole(each.grad.detach()) / count for name, each in model.named_parameters() if each.grad is not None
    }
    model.zero_grad()
    return found


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Relative to the largest entry of all: some tensors, such as the biases of keys, have no gradient but rounding."""
    assert found.keys() == expected.keys()
    scale = max(float(value.abs().max()) for value in expected.values())
    return max(float((found[name] - value).abs().max()) for name, value in expected.items()) / scale


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("rows", SPLITS[:-1])
def test_micro_batches(rows: int, dtype: torch.dtype) -> None:
    model, batch = make(dtype)
    expected = gradient(model, batch, ROWS)
    assert largest_error(gradient(model, batch, rows), expected) < BOUNDS[dtype]


def test_a_mean_of_means_would_be_found_out() -> None:
    """What most loops do: each micro-batch divided by its own count."""
    model, batch = make(torch.float64)
    expected = gradient(model, batch, ROWS)
    halves = [
        gradient(model, {name: value[part] for name, value in batch.items()}, ROWS) for part in (slice(5), slice(5, 12))
    ]
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in expected}
    assert largest_error(mean, expected) > 0.01


def test_two_ranks(tmp_path: Path) -> None:
    launch("tests.train.test_any_split", tmp_path / "errors.json")
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert len(errors) == 2 * 3 * 2
    for name, error in errors.items():
        assert error < BOUNDS[torch.float64 if "float64" in name else torch.float32], name


def compare_on_ranks() -> dict[str, Any]:
    """For each way to share and each split: the largest error against one rank and one micro-batch."""
    errors = {}
    for dtype in BOUNDS:
        for strategy in ("ddp", "fsdp", "tp"):
            for rows in (2, 12):
                model, batch = make(dtype)
                expected = alone(model, batch)
                errors[f"{strategy}, {rows} rows, {dtype}"] = largest_error(
                    gradient(model, batch, rows, Parallel(strategy=strategy)), expected
                )
    return errors


def alone(model: GPT2, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of the whole batch without any of our loop."""
    loss = NextToken(z_loss=1e-3, label_smoothing=0.1).loss(model, batch, None, 0)
    (loss.total / loss.count).backward()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return found


if __name__ == "__main__":
    with ranks.joined():
        result = compare_on_ranks()
        if ranks.rank() == 0:
            Path(sys.argv[1]).write_text(json.dumps(result))
