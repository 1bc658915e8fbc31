"""Training that is killed, interrupted or runs out of disk ends up where an undisturbed run does."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bedplate.errors import UserError
from bedplate.objectives.next_token import NextToken
from bedplate.objectives.objective import Loss
from bedplate.train import checkpoint
from bedplate.train.checkpoint import TRAINING, WEIGHTS, list_checkpoints, newest_checkpoint
from bedplate.train.loop import Settings, best_step, train
from bedplate.train.optimizer import AdamW
from bedplate.train.run import log_metrics, read_metrics
from bedplate.train.schedule import Constant

SETTINGS = Settings(steps=8, micro_batch_size=2, checkpoint_every=2, evaluate_every=4, optimizer=AdamW(lr=1e-2))

# A run in a process of its own: `python -c SCRIPT FOLDER resume-or-new`
SCRIPT = """
import sys, torch
from pathlib import Path
from bedplate.models.gpt2 import GPT2, Config
from bedplate.objectives.next_token import NextToken
from bedplate.train.loop import Settings, train
from bedplate.train.optimizer import AdamW
class Source:
    def batch(self, step):
        ids = torch.randint(50, (4, 17), generator=torch.Generator().manual_seed(step))
        return {"ids": ids[:, :-1], "targets": ids[:, 1:]}
torch.manual_seed(0)
model = GPT2(Config(vocab_size=50, context_length=16, dim=16, num_layers=2, num_heads=2, dropout=0.1))
settings = Settings(steps=120, micro_batch_size=2, checkpoint_every=7, optimizer=AdamW(lr=1e-2))
folder = Path(sys.argv[1])
resume = any((folder / "checkpoints").glob("step-*"))
outcome = train(model, Source(), NextToken(), settings=settings, folder=folder, resume=resume)
sys.exit(130 if outcome.interrupted else 0)
"""


class Source:
    def batch(self, step: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(50, (4, 17), generator=torch.Generator().manual_seed(step))
        return {"ids": ids[:, :-1], "targets": ids[:, 1:]}


def new_model(seed: int = 0) -> nn.Module:
    from bedplate.models.gpt2 import GPT2, Config

    torch.manual_seed(seed)
    return GPT2(Config(vocab_size=50, context_length=16, dim=16, num_layers=2, num_heads=2, dropout=0.1))


def assert_same_run(left: Path, right: Path) -> None:
    first, second = newest_checkpoint(left), newest_checkpoint(right)
    assert first.name == second.name
    for name in (WEIGHTS, TRAINING):
        mine, theirs = load_file(first / name), load_file(second / name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert losses(left) == losses(right)


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    subprocess.run([sys.executable, "-c", SCRIPT, folder], check=True)
    return folder


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_and_resumed(straight: Path, tmp_path: Path, seed: int) -> None:
    chooser, kills = random.Random(seed), 0
    for _ in range(40):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, tmp_path])
        before = progress(tmp_path)
        patience = time.monotonic() + 60
        while process.poll() is None and progress(tmp_path) == before and time.monotonic() < patience:
            time.sleep(0.005)
        time.sleep(chooser.random() * 0.3)
        if process.poll() is None and kills < 4:
            process.kill()
            kills += 1
        if process.wait() == 0:
            break
    assert kills >= 2
    assert_same_run(straight, tmp_path)
    assert not list((tmp_path / "checkpoints").glob(".*"))


def progress(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed(straight: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, tmp_path])
    log = tmp_path / "metrics.jsonl"  # begun, empty, before the run listens to signals
    while not (log.exists() and log.stat().st_size) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    assert newest_checkpoint(tmp_path).name == f"step-{losses(tmp_path)[-1][0]:08d}"
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path], check=True)
    assert_same_run(straight, tmp_path)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    train(new_model(), Source(), NextToken(), settings=SETTINGS, folder=tmp_path / "straight")
    train(new_model(), Source(), NextToken(), settings=SETTINGS, folder=tmp_path / "hurt")
    older, newest = list_checkpoints(tmp_path / "hurt")
    data = bytearray((newest / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (newest / WEIGHTS).write_bytes(data)
    assert newest_checkpoint(tmp_path / "hurt") == older
    train(new_model(9), Source(), NextToken(), settings=SETTINGS, folder=tmp_path / "hurt", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "hurt")
    for path in list_checkpoints(tmp_path / "hurt"):
        (path / TRAINING).unlink()
    with pytest.raises(UserError, match="damaged"):
        newest_checkpoint(tmp_path / "hurt")


def damage(path: Path) -> None:
    (path / WEIGHTS).write_bytes(b"damaged")


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_checkpoints_never_push_good_ones_out(keep: int, tmp_path: Path) -> None:
    """Resumed far behind checkpoints that are damaged: at every moment there is a good one."""
    settings = replace(SETTINGS, keep=4)
    train(new_model(), Source(), NextToken(), settings=settings, folder=tmp_path, resume=False)
    for path in list_checkpoints(tmp_path)[1:]:
        damage(path)
    seen: list[str] = []

    def watch(metrics: dict[str, Any]) -> None:
        seen.append(newest_checkpoint(tmp_path).name)  # raises when none is good

    settings = replace(SETTINGS, keep=keep)
    train(new_model(9), Source(), NextToken(), settings=settings, folder=tmp_path, resume=True, watch=watch)
    assert seen == [f"step-{step:08d}" for step in (2, 2, 4, 4, 6, 6)]
    assert len(list_checkpoints(tmp_path)) == keep and newest_checkpoint(tmp_path).name == "step-00000008"


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in the middle of a line of the log: the line before it still ends the log."""
    log_metrics(tmp_path, {"step": 1, "loss": 2.0})
    real = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:9]))
        with pytest.raises(OSError, match="No space left"):
            log_metrics(tmp_path, {"step": 2, "loss": 1.0})
    log_metrics(tmp_path, {"step": 2, "loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_tied_weights_are_saved_and_come_back_tied(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.embedding.weight

    class Learned:
        def loss(self, model: Any, batch: Any, companion: None, step: int) -> Loss:
            logits = model.head(model.embedding(batch["ids"]))
            total = nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), reduction="sum")
            return Loss(total=total, count=torch.tensor(batch["ids"].numel()))

    class Small:
        def batch(self, step: int) -> dict[str, torch.Tensor]:
            ids = torch.randint(9, (4, 6), generator=torch.Generator().manual_seed(step))
            return {"ids": ids[:, :-1], "targets": ids[:, 1:]}

    ends = []
    for name, kill in (("straight", 0), ("resumed", 5)):
        torch.manual_seed(0)
        model = Tied()
        if kill:
            short = replace(SETTINGS, steps=4, schedule=Constant())
            train(model, Small(), Learned(), settings=short, folder=tmp_path / name)
            model = Tied()
        settings = replace(SETTINGS, schedule=Constant())
        train(model, Small(), Learned(), settings=settings, folder=tmp_path / name, resume=bool(kill))
        assert model.head.weight is model.embedding.weight
        ends.append(model.head.weight.detach())
    assert torch.equal(*ends)


def test_no_value_that_is_not_finite_is_best() -> None:
    history = [{"step": 1, "measure": float("nan")}, {"step": 2, "measure": 3.0}, {"step": 3, "measure": float("inf")}]
    settings = replace(SETTINGS, best="measure")
    assert best_step(history, settings) == (3.0, 2)
    assert best_step(history[:1], settings)[1] == -1


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = checkpoint.save_file, []

    def full_disk(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(UserError, match=r"step 4 .*No space left.*step-00000002; .*--resume"):
        train(new_model(), Source(), NextToken(), settings=SETTINGS, folder=tmp_path)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002"]
    monkeypatch.undo()
    train(new_model(5), Source(), NextToken(), settings=SETTINGS, folder=tmp_path, resume=True)
    train(new_model(), Source(), NextToken(), settings=SETTINGS, folder=tmp_path / "straight")
    assert_same_run(tmp_path / "straight", tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    wild = replace(SETTINGS, optimizer=AdamW(lr=1e30, clip=1e30), steps=50)
    with pytest.raises(UserError, match="the loss of step"):
        train(new_model(), Source(), NextToken(), settings=wild, folder=tmp_path)


@dataclass(frozen=True, kw_only=True)
class FollowTheTeacher:
    """A momentum teacher: the companion changes at every step and must survive a resume."""

    def setup(self, model: nn.Module) -> nn.Module:
        teacher = nn.ParameterDict({name.replace(".", "/"): p.detach().clone() for name, p in model.named_parameters()})
        return teacher.requires_grad_(False)

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor], companion: nn.Module, step: int) -> Loss:
        distance = sum((p - companion[n.replace(".", "/")] - 0.1).square().sum() for n, p in model.named_parameters())
        plain = NextToken().loss(model, batch, None, step)
        return Loss(total=plain.total + distance * plain.count, count=plain.count, sums={"distance": distance})

    @torch.no_grad()
    def after_step(self, model: nn.Module, companion: nn.Module, step: int, sums: Any) -> None:
        for name, parameter in model.named_parameters():
            companion[name.replace(".", "/")].lerp_(parameter, 0.3)


def test_a_companion_survives_a_resume(tmp_path: Path) -> None:
    settings = replace(SETTINGS, micro_batch_size=4)
    train(new_model(), Source(), FollowTheTeacher(), settings=settings, folder=tmp_path / "straight")
    train(new_model(), Source(), FollowTheTeacher(), settings=settings, folder=tmp_path / "resumed")
    list_checkpoints(tmp_path / "resumed")[-1].rename(tmp_path / "away")
    train(new_model(7), Source(), FollowTheTeacher(), settings=settings, folder=tmp_path / "resumed", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "resumed")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_do_not_change_the_run(tmp_path: Path, size: int) -> None:
    """Without dropout, whose masks depend on the split."""
    ends = []
    for micro in (size, 4):
        model = new_model().double()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        settings = replace(SETTINGS, micro_batch_size=micro)
        train(model, Source(), NextToken(), settings=settings, folder=tmp_path / f"micro-{micro}")
        ends.append(model.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=0, atol=1e-9)
