"""Four miniature objectives, each exact under resuming, accumulation and two ranks, with no branch in the loop."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.train import miniatures

from bedplate.train.checkpoint import TRAINING, WEIGHTS, newest_checkpoint
from bedplate.train.run import read_metrics

ROOT = Path(__file__).resolve().parents[2]
LOGGED = ("loss", "grad_norm", "lr", "ratio", "judge", "measured")
pytestmark = pytest.mark.xdist_group("kinds")  # one worker makes what these tests share, once


def launch(module: str, *words: object) -> None:
    """Run a module on two ranks."""
    engine = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [*engine, "-m", module, *map(str, words)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]


def two_ranks(*jobs: dict[str, Any]) -> None:
    """Train miniatures one after the other: each job has `kinds`, a `folder`, and what else `miniatures.run` takes."""
    launch("tests.train.miniatures", json.dumps(jobs))


def end_of(folder: Path) -> dict[str, torch.Tensor]:
    newest = newest_checkpoint(folder)
    return load_file(newest / WEIGHTS) | load_file(newest / TRAINING)


def assert_same(folder: Path, other: Path, *, bound: float) -> None:
    for mine, theirs in zip(read_metrics(folder), read_metrics(other), strict=True):
        shown = [name for name in LOGGED if name in theirs]
        assert [mine[name] for name in shown] == pytest.approx([theirs[name] for name in shown], rel=bound, abs=bound)
    mine, theirs = end_of(folder), end_of(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=bound, atol=bound, msg=name)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    for kind in miniatures.KINDS:
        miniatures.run(kind, folder / kind)
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    two_ranks({"folder": str(folder), "kinds": miniatures.KINDS})
    return folder


@pytest.mark.parametrize("kind", miniatures.KINDS)
def test_resumed_equals_straight_bit_for_bit(kind: str, straight: Path, tmp_path: Path) -> None:
    for resume, killed_after in ((False, 5), (True, 7), (True, 0)):  # checkpoints are at 3 and 6
        miniatures.run(kind, tmp_path, resume=resume, killed_after=killed_after)
    assert_same(tmp_path, straight / kind, bound=0)


@pytest.mark.parametrize("kind", miniatures.KINDS)
@pytest.mark.parametrize("size", [1, 3])
def test_any_accumulation_gives_the_same(kind: str, size: int, straight: Path, tmp_path: Path) -> None:
    miniatures.run(kind, tmp_path, micro_batch_size=size)
    assert_same(tmp_path, straight / kind, bound=1e-10)


@pytest.mark.parametrize("kind", miniatures.KINDS)
def test_two_ranks_give_the_same(kind: str, straight: Path, shared: Path) -> None:
    assert_same(shared / kind, straight / kind, bound=1e-10)
