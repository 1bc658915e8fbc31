"""`bedplate verify --kill N`: a training process is killed N times, and its run must end as if it never had been.

The process is real, and so is the kill (SIGKILL, which no program can catch). It trains a small GPT-2 with dropout, a
companion and averaged weights, and writes a checkpoint after every step. Half of the kills come at a random moment, the
other half as soon as a checkpoint is seen being written.
"""

import copy
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bedplate.models.gpt2 import GPT2, Config
from bedplate.objectives.next_token import NextToken
from bedplate.train.average import follow
from bedplate.train.checkpoint import TRAINING, WEIGHTS, is_intact, list_checkpoints, newest_checkpoint
from bedplate.train.loop import Settings, train
from bedplate.train.run import read_metrics
from bedplate.verify.contracts import Row

STEPS = 60
LATEST = 0.6  # seconds after the first sign of life: about as long as the steps take
TIMES = ("seconds", "items_per_second")  # of a logged line: what may differ between runs


@dataclass(frozen=True, kw_only=True)
class WithTeacher(NextToken):
    """Next-token prediction with a companion that follows the model, so that there is one to lose."""

    def setup(self, model: nn.Module) -> nn.Module:
        """The follower."""
        return copy.deepcopy(model).requires_grad_(False)

    def after_step(self, model: nn.Module, companion: nn.Module, step: int, sums: dict[str, Tensor]) -> None:
        """Half the way."""
        follow(companion, model, decay=0.5)


class RandomRows:
    """Four rows of random tokens a step."""

    def batch(self, step: int) -> dict[str, Tensor]:
        """ids and targets, int64 [4 16]."""
        ids = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(step))
        return {"ids": ids[:, :-1], "targets": ids[:, 1:]}


def work(folder: Path) -> None:
    """What the killed process does: train, from the newest checkpoint if there is one."""
    torch.manual_seed(0)
    model = GPT2(Config(vocab_size=64, context_length=16, dim=32, num_layers=2, num_heads=2, dropout=0.1))
    settings = Settings(steps=STEPS, micro_batch_size=2, average=0.9, checkpoint_every=1)
    resume = bool(list_checkpoints(folder))
    train(model, RandomRows(), WithTeacher(), settings=settings, folder=folder, resume=resume)


def verify_kills(kills: int, *, seed: int = 0, watch: Callable[[str], None] = lambda line: None) -> Row:
    """Kill a run `kills` times (or several runs, where one is too short), and compare each with an undisturbed one."""
    name = f"killed {kills} times = never killed"
    chance = random.Random(seed)
    done = inside = 0
    with tempfile.TemporaryDirectory() as temporary:
        straight = Path(temporary) / "straight"
        _start(straight).wait()
        expected = _end_of(straight)
        for number in range(kills + 1):
            if done >= kills and number:
                break
            folder = Path(temporary) / f"run-{number}"
            while done < kills:
                process = _start(folder)
                if _kill(process, folder, chance):
                    done += 1
                    inside += _is_writing(folder)
                    watch(f"kill {done} of {kills}: {len(read_metrics(folder))} of {STEPS} steps logged")
                elif process.returncode:
                    return _red(name, f"the process did not start again after kill {done}")
                if broken := [path.name for path in list_checkpoints(folder) if not is_intact(path)]:
                    return _red(name, f"{broken[0]} is damaged after kill {done}")
                if process.returncode == 0:
                    break
            if _start(folder).wait():
                return _red(name, f"the process did not start again after kill {done}")
            if different := _first_difference(_end_of(folder), expected):
                return _red(name, f"first difference: {different}")
    return Row(
        contract=name, error=0.0, bound=0.0, verdict="pass", detail=f"{inside} inside the writing of a checkpoint"
    )


def _start(folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "bedplate.verify.kill", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # the same sums in every run
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _kill(process: "subprocess.Popen[bytes]", folder: Path, chance: random.Random) -> bool:
    """Kill at a random moment; False when the process ended before."""
    before = _signs(folder)
    while _signs(folder) == before and process.poll() is None:
        time.sleep(0.001)
    at = time.monotonic() + chance.uniform(0, LATEST)
    writing = chance.random() < 0.5
    while time.monotonic() < at and process.poll() is None:
        time.sleep(0.0005)
    while writing and process.poll() is None and not _is_writing(folder):
        pass
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def _is_writing(folder: Path) -> bool:
    """Whether a checkpoint is half written; one that is being removed has the mark `old`."""
    return any(not path.name.endswith(".old.tmp") for path in (folder / "checkpoints").glob(".*.tmp"))


def _signs(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").glob("*")}


def _end_of(folder: Path) -> dict[str, Any]:
    """The log without its times, and every tensor of the last checkpoint."""
    newest = newest_checkpoint(folder)
    lines = [{k: v for k, v in line.items() if not k.endswith(TIMES)} for line in read_metrics(folder)]
    return {"log": lines, "step": newest.name} | load_file(newest / WEIGHTS) | load_file(newest / TRAINING)


def _first_difference(actual: dict[str, Any], expected: dict[str, Any]) -> str:
    if actual.keys() != expected.keys():
        return "the names of tensors"
    for name, value in expected.items():
        same = torch.equal(actual[name], value) if isinstance(value, Tensor) else actual[name] == value
        if not same:
            return name
    return ""


def _red(name: str, detail: str) -> Row:
    return Row(contract=name, error=float("inf"), bound=0.0, verdict="fail", detail=detail)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
