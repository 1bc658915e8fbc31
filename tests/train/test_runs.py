"""Runs seen from outside: what state they are in, however they got there, and every way in which two can differ."""

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from bedplate.errors import UserError
from bedplate.train.run import METRICS, held, is_held, log_metrics, read_metrics, rewind_metrics
from bedplate.train.runs import ABSENT, compare_runs, list_runs

RECORD: dict[str, Any] = {
    "recipe": "gpt2.quickstart",
    "settings": {"steps": 3, "optimizer.lr": 0.1, "optimizer.betas": [0.9, 0.95]},
    "data": {"corpus": {"name": "text", "sha256": "a" * 64}, "tokenizer_sha256": "b" * 64, "shards": {"0": "c" * 64}},
    "environment": {"bedplate": "0.1.0", "torch": "2.13.0", "threads": 2, "git": None},
}
LOSSES = (3.0, 2.5, 2.25)
HOLD = """
import sys, time
from pathlib import Path
from bedplate.train.run import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def make_run(folder: Path, record: dict[str, Any] = RECORD, losses: tuple[float, ...] = LOSSES) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    lines = [{"step": step, "loss": loss, "seconds": step / 7} for step, loss in enumerate(losses, start=1)]
    for line in lines[::2]:
        line["held_out_bits_per_byte"] = 1.5 + abs(line["step"] - 1)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if len(losses) == record["settings"]["steps"]:
        (folder / "result.json").write_text(json.dumps({"step": len(losses), "bits_per_byte": 1.25}))
    return folder


def states(folder: Path) -> dict[str, str]:
    return {Path(row["run"]).relative_to(folder).as_posix(): row["state"] for row in list_runs(folder)}


def row_of(folder: Path) -> dict[str, Any]:
    (row,) = list_runs(folder)
    return row


def test_a_finished_run_tells_its_numbers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a" / "deep")
    row = row_of(tmp_path)
    assert 0 <= row.pop("age") < 60
    assert row == {
        "run": str(run), "recipe": "gpt2.quickstart", "state": "finished", "reason": None, "step": 3, "steps": 3,
        "loss": 2.25, "best": 1.5, "best_step": 1, "resume": None,
    }  # fmt: skip


def test_a_stopped_run_tells_how_to_go_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "my run", losses=LOSSES[:2])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss"')  # a kill came here
    row = row_of(tmp_path)
    assert (row["state"], row["step"], row["loss"]) == ("stopped", 2, 2.5)
    assert row["resume"] == f"bedplate train --resume '{run}'"
    (run / "trackers.json").write_text('{"wandb": {"id": "x"}, "mlflow": {"id": "y"}}')
    assert row_of(tmp_path)["resume"] == f"bedplate train --resume '{run}' --track wandb,mlflow"


def test_a_run_is_running_until_its_process_is_killed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", losses=LOSSES[:2])
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert row_of(tmp_path)["state"] == "running" and row_of(tmp_path)["resume"] is None
        with pytest.raises(UserError, match=rf"is being trained by process {process.pid} on "), held(run):
            pass
        process.send_signal(signal.SIGKILL)
    assert row_of(tmp_path)["state"] == "stopped"
    with held(run):
        assert is_held(run)
    assert not is_held(run)


def test_a_failed_run_tells_why_until_it_is_held_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", losses=LOSSES[:2])
    for mistake, reason in (
        (
            UserError("the loss of step 3 is nan", fix="lower optimizer.lr"),
            "the loss of step 3 is nan; lower optimizer.lr",
        ),
        (RuntimeError("out of memory\nTried to allocate"), "RuntimeError: out of memory"),
    ):
        with pytest.raises(type(mistake)), held(run):
            raise mistake
        assert (row_of(tmp_path)["state"], row_of(tmp_path)["reason"]) == ("failed", reason)
        assert row_of(tmp_path)["resume"]
    with pytest.raises(KeyboardInterrupt), held(run):
        raise KeyboardInterrupt
    assert (row_of(tmp_path)["state"], row_of(tmp_path)["reason"]) == ("stopped", None)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("run.json", "{", "line 1"),
        ("run.json", "{}", "no 'recipe'"),
        ("metrics.jsonl", "{nonsense}\n", "metrics.jsonl is damaged"),
        ("metrics.jsonl", "3\n", "metrics.jsonl is damaged"),
        ("result.json", "", "result.json is not valid JSON"),
    ],
)
def test_a_damaged_run_is_listed_beside_the_others(name: str, content: str, reason: str, tmp_path: Path) -> None:
    make_run(tmp_path / "good")
    (make_run(tmp_path / "bad") / name).write_text(content)
    assert states(tmp_path) == {"good": "finished", "bad": "damaged"}
    (bad,) = (row for row in list_runs(tmp_path) if row["state"] == "damaged")
    assert reason in bad["reason"] and bad["resume"] is None


def test_runs_are_found_below_and_the_last_active_comes_first(tmp_path: Path) -> None:
    for age, name in enumerate(("b", "deep/er/c", "a")):
        run = make_run(tmp_path / name)
        for path in run.iterdir():
            os.utime(path, (10**9 - age, 10**9 - age))
    make_run(tmp_path / "a" / "checkpoints" / "inside")
    make_run(tmp_path / ".hidden" / "run")
    assert list(states(tmp_path)) == ["b", "deep/er/c", "a"]
    assert row_of(tmp_path / "a")["run"] == str(tmp_path / "a")
    assert list_runs(tmp_path / "nowhere") == []


def test_a_run_that_has_logged_nothing(tmp_path: Path) -> None:
    (make_run(tmp_path / "run", losses=()) / "metrics.jsonl").unlink()
    row = row_of(tmp_path)
    assert (row["state"], row["step"], row["loss"], row["best"]) == ("stopped", 0, None, None)


def test_equal_runs_agree_whatever_their_times(tmp_path: Path) -> None:
    left, right = make_run(tmp_path / "left"), make_run(tmp_path / "right")
    (right / "metrics.jsonl").write_text(
        (right / "metrics.jsonl").read_text().replace('"seconds": 0.', '"seconds": 9.')
    )
    found = compare_runs(left, right / "run.json")
    assert found["same"] and found["differences"] == []
    assert found["loss"]["common_steps"] == 3 and found["loss"]["first_different_step"] is None
    assert {row["name"]: row["left"] for row in found["values"]}["all held-out text, bits per byte"] == 1.25


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    record = copy.deepcopy(RECORD)
    change(record)
    return record


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda record: record.update(recipe="gpt2.pydocs"), ("recipe", "recipe", "gpt2.quickstart", "gpt2.pydocs")),
        (lambda record: record["settings"].update(seed=1), ("settings", "seed", ABSENT, 1)),
        (lambda record: record["settings"].pop("optimizer.lr"), ("settings", "optimizer.lr", 0.1, ABSENT)),
        (
            lambda record: record["settings"].update({"optimizer.betas": [0.9, 0.99]}),
            ("settings", "optimizer.betas", [0.9, 0.95], [0.9, 0.99]),
        ),
        (lambda record: record["data"]["corpus"].update(sha256="d"), ("data", "corpus.sha256", "a" * 64, "d")),
        (lambda record: record["data"]["shards"].update({"0": "d"}), ("data", "shards.0", "c" * 64, "d")),
        (lambda record: record["data"].update(tokenizer_sha256="d"), ("data", "tokenizer_sha256", "b" * 64, "d")),
        (lambda record: record["environment"].update(torch="2.14"), ("environment", "torch", "2.13.0", "2.14")),
        (lambda record: record["environment"].update(git="abc"), ("environment", "git", None, "abc")),
    ],
)
def test_every_difference_of_the_records_is_named(
    change: Callable[[dict[str, Any]], object], expected: tuple[Any, ...], tmp_path: Path
) -> None:
    found = compare_runs(make_run(tmp_path / "left"), make_run(tmp_path / "right", changed(change)))
    assert [tuple(row[key] for key in ("part", "name", "left", "right")) for row in found["differences"]] == [expected]
    assert not found["same"] and found["loss"]["first_different_step"] is None


@pytest.mark.parametrize(
    ("losses", "first", "difference", "largest", "step"),
    [
        ((3.0, 2.5000000000000004, 2.25), 2, 4.440892098500626e-16, 1.7763568394002503e-16, 2),
        ((2.0, 2.5, 0.25), 1, 1.0, 8 / 9, 3),
        ((3.0, nan, 2.25), 2, nan, inf, 2),
    ],
)
def test_the_first_loss_that_differs_is_named(
    losses: tuple[float, ...], first: int, difference: float, largest: float, step: int, tmp_path: Path
) -> None:
    found = compare_runs(make_run(tmp_path / "left"), make_run(tmp_path / "right", losses=losses))
    loss = found["loss"]
    assert not found["same"] and loss["first_different_step"] == first
    assert (loss["left"], loss["right"]) == (LOSSES[first - 1], pytest.approx(losses[first - 1], abs=0, nan_ok=True))
    assert loss["difference"] == pytest.approx(difference, rel=1e-12, nan_ok=True)
    assert (loss["largest_relative"], loss["largest_relative_step"]) == (pytest.approx(largest, rel=1e-12), step)


def test_runs_of_unequal_length_agree_as_far_as_they_go(tmp_path: Path) -> None:
    found = compare_runs(make_run(tmp_path / "left"), make_run(tmp_path / "right", losses=LOSSES[:2]))
    assert not found["same"] and found["loss"]["common_steps"] == 2
    assert found["loss"]["first_different_step"] is None
    values = {row["name"]: (row["left"], row["right"]) for row in found["values"]}
    assert values["steps logged"] == (3, 2) and values["last loss"] == (2.25, 2.5)
    nothing = compare_runs(make_run(tmp_path / "nothing", losses=()), tmp_path / "left")
    assert nothing["loss"]["common_steps"] == 0 and not nothing["same"]


def test_losses_that_are_not_numbers_on_both_sides_are_equal(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, losses=(3.0, nan, 2.25)) for name in ("left", "right")]
    assert compare_runs(*runs)["same"]


def test_listing_and_comparing_need_no_torch(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    code = "import sys; from pathlib import Path; from bedplate.train.runs import *; run = Path(sys.argv[1])"
    code += "\nassert list_runs(run) and compare_runs(run, run)['same']"
    code += "\nassert not {'torch', 'numpy', 'tensorboard', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True)


def test_a_run_whose_log_is_gone_is_damaged_and_not_compared(tmp_path: Path) -> None:
    for name in ("kept", "lost"):
        (tmp_path / name / "checkpoints" / "step-3").mkdir(parents=True)
        record = {"recipe": "r", "settings": {"steps": 5}, "data": {}, "environment": {}}
        (tmp_path / name / "run.json").write_text(json.dumps(record))
        if name == "kept":
            log_metrics(tmp_path / name, {"step": 1, "loss": 2.0})
    rows = {Path(row["run"]).name: row for row in list_runs(tmp_path)}
    assert rows["kept"]["state"] == "stopped"
    assert rows["lost"]["state"] == "damaged" and "is gone" in rows["lost"]["reason"]
    with pytest.raises(UserError, match="is gone"):
        compare_runs(tmp_path / "kept", tmp_path / "lost")


def test_what_was_logged_after_a_checkpoint_goes_even_if_it_cannot_be_read(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        log_metrics(tmp_path, {"step": step, "loss": 1.0})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"broken\n{"step": 5, "loss": 1.0}\n')
    rewind_metrics(tmp_path, 3)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    (tmp_path / METRICS).write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        rewind_metrics(tmp_path, 3)
