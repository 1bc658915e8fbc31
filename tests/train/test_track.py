"""Trackers look on: they see every step once, whatever ended the run, and whatever happens to them costs it nothing."""

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.train.stand_ins import MLFLOW, WANDB

from bedplate.errors import UserError
from bedplate.recipes import find_recipe
from bedplate.recipes.run import resume, start
from bedplate.train import track
from bedplate.train.checkpoint import newest_checkpoint
from bedplate.train.run import read_metrics
from bedplate.train.track import measures_of, tracked, tracker_names

TINY = {
    "model.vocab_size": 270, "model.context_length": 16, "model.dim": 16, "model.num_layers": 1, "model.num_heads": 2,
    "steps": 6, "batch_size": 4, "micro_batch_size": 2, "evaluate_every": 3, "checkpoint_every": 2,
    "schedule.warmup_steps": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "fables.txt"
    path.write_text("".join(f"Line {number}: the fox saw {number * 7} grapes, and left.\n" for number in range(150)))
    return path


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(text, folder)
    return folder


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], ModuleType]]:
    """Puts a module where Python finds it, before any that is installed."""
    monkeypatch.syspath_prepend(tmp_path / "libraries")

    def put(name: str, code: str) -> ModuleType:
        (tmp_path / "libraries").mkdir(exist_ok=True)
        (tmp_path / "libraries" / f"{name}.py").write_text(code)
        sys.modules.pop(name, None)
        return __import__(name)

    yield put
    for name in ("wandb", "mlflow"):
        sys.modules.pop(name, None)


def train(text: Path, folder: Path, *names: str) -> None:
    recipe = find_recipe("gpt2.quickstart", TINY | {"data.corpus": str(text)})
    start(recipe, folder, watch=lambda metrics: None, track=names)


def killed(folder: Path, *, checkpoint: int, logged: int) -> None:
    """Leave of a finished run what a kill would have left."""
    (folder / "result.json").unlink()
    while newest_checkpoint(folder).name != f"step-{checkpoint:08d}":
        shutil.rmtree(newest_checkpoint(folder))
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:logged]))


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {name: [(each.step, each.value) for each in reader.Scalars(name)] for name in reader.Tags()["scalars"]}


def test_tensorboard_shows_the_log(finished: Path) -> None:
    found, lines = events(finished), read_metrics(finished)
    expected = {name for line in lines for name in measures_of(line)}
    assert set(found) == expected >= {"train/loss", "train/lr", "train/grad_norm", "held_out/bits_per_byte"}
    assert {f"time/{part}_seconds" for part in ("data", "forward", "backward", "optimizer")} <= expected
    for name, points in found.items():
        logged = [(line["step"], measures_of(line)[name]) for line in lines if name in measures_of(line)]
        assert points == [(step, pytest.approx(value, rel=1e-6)) for step, value in logged]
    assert [step for step, _ in found["held_out/bits_per_byte"]] == [3, 6]


def test_a_resumed_run_shows_each_step_once(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    killed(folder, checkpoint=4, logged=6)
    (file,) = folder.glob("events.*")
    file.write_bytes(file.read_bytes()[:-7])  # the kill came while step 6 was being written
    resume(folder, watch=lambda metrics: None)
    assert len(list(folder.glob("events.*"))) == 2
    found, lines = events(folder), read_metrics(folder)
    assert found["train/loss"] == events(finished)["train/loss"]
    assert found["time/seconds"] == [(line["step"], pytest.approx(line["seconds"], rel=1e-6)) for line in lines]


def test_a_restart_in_the_same_second_is_read_last(tmp_path: Path) -> None:
    for first, last in ((1, 5), (3, 4), (4, 5)):
        with tracked(tmp_path, [], {"steps": 9}, watch=lambda metrics: None) as note:
            for step in range(first, last + 1):
                note({"step": step, "loss": float(first)})
    assert events(tmp_path)["train/loss"] == [(1, 1.0), (2, 1.0), (3, 3.0), (4, 4.0), (5, 4.0)]


def test_a_full_disk_costs_the_events_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with tracked(tmp_path, [], {"steps": 40}, watch=lambda metrics: seen.append(metrics["step"])) as note:
            for step in range(1, 41):
                note({"step": step, "loss": 1.0, "lr": 0.1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert seen == list(range(1, 41))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: tensorboard failed (") and "File too large" in line
    assert 5 < len(events(tmp_path)["train/loss"]) < 40


def test_a_step_costs_little(tmp_path: Path) -> None:
    line = dict.fromkeys(("loss", "lr", "grad_norm", "seconds", "data_seconds", "items_per_second"), 0.1)
    times = []
    with tracked(tmp_path, [], {"steps": 500}, watch=lambda metrics: None) as note:
        for step in range(1, 501):
            started = time.perf_counter()
            note(line | {"step": step})
            times.append(time.perf_counter() - started)
    print(f"TensorBoard: {1e6 * median(times):.0f} microseconds a step")
    assert median(times) < 500e-6


def test_a_run_is_watched_elsewhere_and_goes_on_there(
    text: Path, tmp_path: Path, library: Callable[[str, str], ModuleType]
) -> None:
    wandb, mlflow = library("wandb", WANDB), library("mlflow", MLFLOW)
    folder = tmp_path / "mine"
    train(text, folder, "wandb", "mlflow")
    assert tracker_names(folder) == ["wandb", "mlflow"]
    (_, begun), *logged, ended = wandb.calls
    identity = begun.pop("id")
    settings = begun.pop("config")
    assert begun == {"project": "bedplate", "name": "mine", "dir": folder, "resume": "allow"}
    assert settings["model.dim"] == 16 and settings["data.corpus"] == str(text) and len(identity) == 12
    expected = [("log", line["step"], measures_of(line)) for line in read_metrics(folder)]
    assert logged == expected and ended == ("finish", 0)
    assert mlflow.calls[:2] == [("start_run", None, "mine"), ("log_params", settings)]
    assert mlflow.calls[2:] == [(*call, "abc123") for call in expected] + [("end_run", "FINISHED")]

    killed(folder, checkpoint=4, logged=5)
    wandb.calls.clear()
    mlflow.calls.clear()
    resume(folder, watch=lambda metrics: None, track=["wandb", "mlflow"])
    assert wandb.calls[0][1]["id"] == identity
    assert [call[1] for call in wandb.calls[1:-1]] == [6]  # step 5 has been seen there
    assert mlflow.calls[:2] == [("set_tracking_uri", "sqlite:////first/mlflow.db"), ("start_run", "abc123", "mine")]
    assert [call[1] for call in mlflow.calls[2:-1]] == [6]


def test_a_store_that_the_user_set_is_not_written_down(
    tmp_path: Path, library: Callable[[str, str], ModuleType]
) -> None:
    library("mlflow", MLFLOW).uri = "https://user:secret@server"  # type: ignore[attr-defined]
    with tracked(tmp_path, ["mlflow"], {"steps": 1}, watch=lambda metrics: None):
        pass
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"mlflow": {"id": "abc123", "store": None}}


@pytest.mark.parametrize(("name", "code"), [("wandb", WANDB), ("mlflow", MLFLOW)])
def test_a_tracker_that_fails_changes_nothing(
    name: str, code: str, finished: Path, text: Path, tmp_path: Path,
    library: Callable[[str, str], ModuleType], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    library(name, code).fail_at = 3  # type: ignore[attr-defined]
    train(text, tmp_path / "run", name)
    errors = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert errors == [f"warning: {name} failed (the server is gone); the run goes on without it"]
    assert [line["loss"] for line in read_metrics(tmp_path / "run")] == [
        line["loss"] for line in read_metrics(finished)
    ]
    results = [json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "run", finished)]
    assert results[0]["bits_per_byte"] == results[1]["bits_per_byte"]
    assert len(events(tmp_path / "run")["train/loss"]) == 6


def test_a_tracker_that_cannot_begin(
    tmp_path: Path, library: Callable[[str, str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    library("wandb", WANDB).fail_at = "init"  # type: ignore[attr-defined]
    with tracked(tmp_path, ["wandb"], {"steps": 1}, watch=lambda metrics: None) as note:
        note({"step": 1, "loss": 1.0})
    assert capsys.readouterr().err.count("warning: wandb failed (No API key configured.)") == 1


def test_a_server_that_does_not_answer_stops_nothing(
    tmp_path: Path, library: Callable[[str, str], ModuleType], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(track, "WAITING", 5)
    monkeypatch.setattr(track, "PATIENCE", 0.1)
    mlflow = library("mlflow", MLFLOW)
    mlflow.gate.clear()
    for steps, reason in ((3, "it did not answer in time"), (20, "it is 5 steps behind")):
        with tracked(tmp_path, ["mlflow"], {"steps": steps}, watch=lambda metrics: None) as note:
            for step in range(1, steps + 1):
                note({"step": step, "loss": 1.0})
        assert capsys.readouterr().err == f"warning: mlflow failed ({reason}); the run goes on without it\n"
    mlflow.gate.set()


@pytest.mark.parametrize(
    ("mistake", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (None, "KILLED")]
)
def test_trackers_are_told_how_a_run_ended(
    mistake: type[BaseException] | None, status: str, tmp_path: Path, library: Callable[[str, str], ModuleType]
) -> None:
    mlflow = library("mlflow", MLFLOW)

    def run() -> None:
        with tracked(tmp_path, ["mlflow"], {"steps": 3}, watch=lambda metrics: None) as note:
            note({"step": 1, "loss": 1.0})
            if mistake:
                raise mistake

    if mistake:
        with pytest.raises(mistake):
            run()
    else:
        run()
    assert mlflow.calls[-1] == ("end_run", status)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_told_before_anything_happens(
    name: str, text: Path, finished: Path, tmp_path: Path, library: Callable[[str, str], ModuleType]
) -> None:
    with pytest.raises(ImportError):
        library(name, "raise ImportError('not here')")
    for action in (
        lambda: train(text, tmp_path / "run", name),
        lambda: resume(finished, watch=lambda metrics: None, track=[name]),
    ):
        with pytest.raises(UserError, match=rf'pip install "bedplate\[{name}\]"'):
            action()
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_named(text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tracker 'wandbb'; did you mean 'wandb'"):
        train(text, tmp_path / "run", "wandbb")


def test_only_numbers_are_measures() -> None:
    metrics: dict[str, Any] = {
        "step": 3,
        "loss": 1,
        "spike": 7.5,
        "held_out_accuracy": 0.5,
        "seconds": 2.0,
        "note": "x",
    }
    expected = {"train/loss": 1.0, "train/spike": 7.5, "held_out/accuracy": 0.5, "time/seconds": 2.0}
    assert measures_of(metrics) == expected
