"""The grid of the training benchmark: which cells there are, what a row says, and jobs of two ranks."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bedplate.bench import train
from bedplate.bench.plots import plot_training
from bedplate.bench.train import Cell, cells, run, write_csv
from bedplate.models import gpt2

MINI = gpt2.Config(dim=32, num_layers=2, num_heads=2, context_length=64)


def test_one_rank_comes_first_and_once_whatever_the_strategies() -> None:
    grid = cells(["gpt2"], ["fp32"], [1, 2], ["ddp", "fsdp"], [2, 1], length=32)
    assert [(cell.ranks, cell.strategy, cell.batch) for cell in grid] == [
        (1, "ddp", 1), (1, "ddp", 2), (2, "ddp", 1), (2, "fsdp", 1), (2, "ddp", 2), (2, "fsdp", 2),
    ]  # fmt: skip
    assert len({cell.name for cell in grid}) == len(grid)


def test_tensor_parallel_ranks_share_their_sequences() -> None:
    assert Cell(batch=4, ranks=2, strategy="tp").sequences == 4
    assert Cell(batch=4, ranks=2, strategy="ddp").sequences == 8


def test_rows_csv_and_plots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(train, "sizes", lambda: {"mini": MINI})
    monkeypatch.setattr(train, "peak_memory", lambda *_: 1.0)
    monkeypatch.setattr(train, "matrix_rate", lambda *_, **__: 0.1)
    monkeypatch.setattr(train, "_job", lambda cell, repeats: (500.0, None, 2.0, None) if cell.batch == 1 else None)
    grid = cells(["mini"], ["fp32"], [1, 2], ["ddp"], [1, 2], length=32)
    rows = run(grid, repeats=1, watch=lambda line: None)
    alone, pair = rows[0], rows[4]
    assert alone["unit"] == "tokens/s" and alone["ratio"] == alone["ours"] / alone["peer"] and alone["efficiency"] == 1
    # 2 blocks x 12 x 32^2 and 50,257 x 32 weights, 6 operations each; 12 x 2 x 32 x 32 for attention.
    operations = 6 * (2 * 12 * 32**2 + 50257 * 32) + 12 * 2 * 32 * 32
    assert alone["mfu"] == pytest.approx(alone["ours"] * operations / 0.1e12)
    assert pair["efficiency"] == pytest.approx(500 / (2 * alone["ours"])) and pair["peer"] is None
    assert rows[-1]["unit"] == "out of memory" and rows[-1]["ours"] is None
    write_csv(rows, tmp_path / "train.csv")
    with (tmp_path / "train.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["name"] for row in written] == [row["name"] for row in rows]
    assert float(written[0]["ours"]) == alone["ours"]
    figure = plot_training(rows, tmp_path / "train.png")
    shown = [[list(line.get_xdata()) for line in axes.lines] for axes in figure.axes]
    # Ours on one rank, transformers', and ours on two ranks, where batches of 2 had no room; the peer has no last two.
    assert shown == [[[1, 2], [1, 2], [1]], [[1, 2], [1, 2], [1]], [[1, 2], [1]], [[1, 2], [1]]]
    assert all(axes.get_ylim()[1] > 0 and axes.get_yticklabels()[-1].get_text() for axes in figure.axes)
    assert (tmp_path / "train.png").read_bytes().startswith(b"\x89PNG")


def test_a_job_of_two_ranks_reports_speed_and_memory(tmp_path: Path) -> None:
    """In processes of their own, with a model small enough for a test."""
    code = (
        "import runpy, sys, bedplate.models.gpt2 as gpt2\n"
        "gpt2.SIZES['gpt2'] = gpt2.Config(dim=32, num_layers=2, num_heads=2, context_length=64)\n"
        "runpy.run_module('bedplate.bench.train', run_name='__main__')\n"
    )
    (tmp_path / "small_job.py").write_text(code)
    words = json.dumps({"size": "gpt2", "batch": 2, "length": 32, "ranks": 2, "threads": 1, "strategy": "fsdp"})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, str(tmp_path / "small_job.py"), "job", words, "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    speed, memory = (float(word) for word in result.stdout.split())
    assert speed > 0 and 0.1 < memory < 2
