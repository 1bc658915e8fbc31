"""Jobs of two processes as a user starts them, and what happens when one of them is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bedplate.train.checkpoint import list_checkpoints
from bedplate.train.run import read_metrics

SETTINGS = [
    "model.dim=16", "model.num_layers=2", "model.num_heads=2", "model.vocab_size=300", "model.context_length=32",
    "steps=60", "batch_size=4", "micro_batch_size=2", "evaluate_every=20", "checkpoint_every=5", "average=0.9",
]  # fmt: skip
pytestmark = pytest.mark.xdist_group("jobs")  # one worker makes what these tests share, once


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text("".join(f"The {n}th day was like the {n + 1}th day, and it rained again.\n" for n in range(400)))
    return path


@pytest.fixture(scope="module")
def alone(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    words = ["-m", "bedplate", "train", "gpt2.quickstart", *SETTINGS, f"data.corpus={text}", "--out", str(folder)]
    subprocess.run([sys.executable, *words], check=True, capture_output=True, timeout=120)
    return folder


def two_processes(folder: Path, text: Path, *words: str, restarts: int = 0) -> "subprocess.Popen[str]":
    engine = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    command = ["-m", "bedplate", "train", "gpt2.quickstart", *SETTINGS, f"data.corpus={text}", "--out", str(folder)]
    return subprocess.Popen(
        [sys.executable, *engine, *command, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_rank(launcher: int, rank: int) -> None:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and f"\0RANK={rank}\0" in (folder / "environ").read_text():
                os.kill(int(folder.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue


def wait_for_checkpoint(folder: Path) -> None:
    deadline = time.monotonic() + 90
    while not list_checkpoints(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list_checkpoints(folder)


def assert_same_losses(run: Path, other: Path) -> None:
    mine, theirs = ([line["loss"] for line in read_metrics(folder)] for folder in (run, other))
    assert mine == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("how", ["fsdp", "ddp"])
def test_a_killed_rank_ends_the_job_clearly_and_one_process_goes_on(
    how: str, text: Path, alone: Path, tmp_path: Path
) -> None:
    job = two_processes(tmp_path / "run", text, "--parallel", how)
    wait_for_checkpoint(tmp_path / "run")
    kill_rank(job.pid, 1)
    _, errors = job.communicate(timeout=120)
    assert job.returncode != 0 and len(read_metrics(tmp_path / "run")) < 60
    assert "error: rank 0 lost the other processes of the job" in errors
    words = ["-m", "bedplate", "train", "--resume", str(tmp_path / "run"), "micro_batch_size=4"]
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert_same_losses(tmp_path / "run", alone)


def test_a_job_that_restarts_resumes_by_itself(text: Path, alone: Path, tmp_path: Path) -> None:
    job = two_processes(tmp_path / "run", text, restarts=1)
    wait_for_checkpoint(tmp_path / "run")
    kill_rank(job.pid, 1)
    output, errors = job.communicate(timeout=180)
    assert job.returncode == 0, errors
    assert output.count("Trained 60 steps") == 1
    assert len(list((tmp_path / "run").glob("events.*"))) == 2  # one for each attempt: rank 0 writes
    assert_same_losses(tmp_path / "run", alone)


def test_a_mistake_is_told_and_ends_the_job(text: Path, tmp_path: Path) -> None:
    job = two_processes(tmp_path / "run", text, "batch_size=1", "--parallel", "ddp")
    _, errors = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "error: a batch of 1 items cannot be shared by 2 ranks; make batch_size a multiple of 2" in errors
