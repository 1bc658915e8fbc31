"""A recipe as a run: started, interrupted, resumed and opened again, on a few lines of text."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.evaluate.language import likelihood
from bedplate.files import sha256_file
from bedplate.recipes import find_recipe, load_run
from bedplate.recipes.recipe import settings_of
from bedplate.recipes.run import resume, start
from bedplate.recipes.text import prepare
from bedplate.train.checkpoint import WEIGHTS, newest_checkpoint
from bedplate.train.run import read_metrics, read_run

TINY = {
    "model.vocab_size": 270, "model.context_length": 16, "model.dim": 16, "model.num_layers": 1, "model.num_heads": 2,
    "steps": 6, "batch_size": 4, "micro_batch_size": 2, "evaluate_every": 3, "checkpoint_every": 2,
    "schedule.warmup_steps": 2,
}  # fmt: skip


def quiet(metrics: dict[str, Any]) -> None:
    return None


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "fables.txt"
    path.write_text("".join(f"Line {number}: the fox saw {number * 7} grapes, and left.\n" for number in range(150)))
    return path


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    outcome = start(find_recipe("gpt2.quickstart", TINY | {"data.corpus": str(text)}), folder, watch=quiet)
    assert outcome.step == 6 and not outcome.interrupted
    return folder


def test_a_run_remembers_that_it_skips_spikes(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bedplate.recipes import run as module

    given: list[bool] = []
    real = module.train
    monkeypatch.setattr(module, "train", lambda *a, **o: (given.append(o["settings"].skip_spikes), real(*a, **o))[1])
    recipe = find_recipe("gpt2.quickstart", TINY | {"data.corpus": str(text)})
    start(recipe, tmp_path / "skips", watch=quiet, skip_spikes=True)
    start(recipe, tmp_path / "plain", watch=quiet)
    for folder in ("skips", "plain"):
        shutil.rmtree(newest_checkpoint(tmp_path / folder))
        resume(tmp_path / folder, watch=quiet)
    assert given == [True, False, True, False]


@pytest.fixture
def stopped(finished: Path, tmp_path: Path) -> Path:
    """The same run as a kill after step 5 leaves it."""
    folder = shutil.copytree(finished, tmp_path / "stopped")
    shutil.rmtree(newest_checkpoint(folder))
    (folder / "result.json").unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:5]))
    assert newest_checkpoint(folder).name == "step-00000004"
    return folder


def test_the_record_names_text_tokenizer_and_shards(finished: Path, text: Path) -> None:
    record = read_run(finished)
    assert record["recipe"] == "gpt2.quickstart"
    assert record["settings"] == json.loads(json.dumps(settings_of(find_recipe("gpt2.quickstart", record["settings"]))))
    assert {key: record["settings"][key] for key in TINY} == TINY
    data, tokenizer = record["data"], ByteBPE.from_folder(finished / "tokenizer")
    assert data["corpus"]["bytes"] == text.stat().st_size and data["tokenizer_sha256"] == tokenizer.digest
    assert data["train_tokens"] > 10 * 16 and data["held_out_tokens"] > 16
    assert all(len(digest) == 64 for digest in data["shards"].values())


def test_the_result_is_what_the_weights_measure(finished: Path) -> None:
    model, tokenizer = load_run(finished)
    assert not model.training and tokenizer.vocab_size == 270
    recipe = find_recipe("gpt2.quickstart", read_run(finished)["settings"])
    measured = likelihood(model, prepare(recipe, tokenizer=tokenizer).held_out_windows())
    result = json.loads((finished / "result.json").read_text())
    assert result["step"] == 6 and result["bytes"] == measured.bytes and result["tokens"] == measured.tokens
    assert result["bits_per_byte"] == pytest.approx(measured.bits_per_byte, abs=1e-6)
    evaluated = {line["step"] for line in read_metrics(finished) if "held_out_bits_per_byte" in line}
    assert evaluated == {3, 6}


def test_a_stopped_run_ends_as_the_uninterrupted_one(finished: Path, stopped: Path) -> None:
    steps: list[int] = []
    assert resume(stopped, watch=lambda metrics: steps.append(metrics["step"])).step == 6
    assert steps == [5, 6]
    for name in (WEIGHTS, "training.safetensors"):
        assert sha256_file(newest_checkpoint(stopped) / name) == sha256_file(newest_checkpoint(finished) / name)
    logged = [[(line["step"], line["loss"]) for line in read_metrics(folder)] for folder in (stopped, finished)]
    assert logged[0] == logged[1] and len(logged[0]) == 6
    assert (stopped / "result.json").read_text() == (finished / "result.json").read_text()


def test_a_run_killed_before_its_first_checkpoint_starts_again(finished: Path, stopped: Path) -> None:
    shutil.rmtree(stopped / "checkpoints")
    resume(stopped, watch=quiet)
    assert sha256_file(newest_checkpoint(stopped) / WEIGHTS) == sha256_file(newest_checkpoint(finished) / WEIGHTS)


def test_two_runs_of_one_recipe_are_equal(finished: Path, text: Path, tmp_path: Path) -> None:
    start(find_recipe("gpt2.quickstart", read_run(finished)["settings"]), tmp_path / "again", watch=quiet)
    ours, theirs = (load_file(newest_checkpoint(folder) / WEIGHTS) for folder in (tmp_path / "again", finished))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert read_run(tmp_path / "again")["data"] == read_run(finished)["data"]


def test_a_relative_path_is_found_from_everywhere(
    finished: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(text.parent)
    start(find_recipe("gpt2.quickstart", TINY | {"data.corpus": text.name}), tmp_path / "run", watch=quiet)
    monkeypatch.chdir("/")
    assert read_run(tmp_path / "run")["settings"]["data.corpus"] == str(text)
    assert resume(tmp_path / "run", watch=quiet).step == 6


def test_a_changed_text_is_noticed(stopped: Path, tmp_path: Path) -> None:
    record = read_run(stopped)
    changed = tmp_path / "fables.txt"
    changed.write_text(Path(record["settings"]["data.corpus"]).read_text().replace("Line 7:", "Line Z:"))
    record["settings"]["data.corpus"] = str(changed)
    (stopped / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="has changed since"):
        resume(stopped, watch=quiet)


def test_a_text_that_is_gone(stopped: Path) -> None:
    record = read_run(stopped)
    record["settings"]["data.corpus"] = "/nowhere/fables.txt"
    (stopped / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"/nowhere/fables\.txt"):
        resume(stopped, watch=quiet)


def test_a_run_folder_is_not_started_twice(finished: Path) -> None:
    before = sha256_file(finished / "metrics.jsonl")
    recipe = find_recipe("gpt2.quickstart", read_run(finished)["settings"])
    with pytest.raises(UserError, match=r"already holds a run; bedplate train --resume"):
        start(recipe, finished, watch=quiet)
    assert sha256_file(finished / "metrics.jsonl") == before


@pytest.mark.parametrize("action", [lambda folder: resume(folder, watch=quiet), load_run], ids=["resume", "load"])
def test_a_folder_that_is_no_run(action: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        action(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json .*line 1"):
        action(tmp_path)


def test_a_run_without_a_good_checkpoint(stopped: Path) -> None:
    for checkpoint in (stopped / "checkpoints").iterdir():
        (checkpoint / WEIGHTS).write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        load_run(stopped)
    with pytest.raises(UserError, match="damaged"):
        resume(stopped, watch=quiet)


def test_a_vocabulary_larger_than_the_model(finished: Path, text: Path, tmp_path: Path) -> None:
    folder = str(finished / "tokenizer")
    small = TINY | {"data.corpus": str(text), "data.tokenizer": folder, "model.vocab_size": 260}
    with pytest.raises(UserError, match=r"has 270 tokens, the model 260; set model.vocab_size=270"):
        start(find_recipe("gpt2.quickstart", small), tmp_path / "run", watch=quiet)
    assert not (tmp_path / "run").exists()
    larger = prepare(find_recipe("gpt2.quickstart", small | {"model.vocab_size": 300}))
    assert larger.tokenizer.digest == ByteBPE.from_folder(folder).digest


def test_a_text_shorter_than_a_window(text: Path, tmp_path: Path) -> None:
    long = TINY | {"data.corpus": str(text), "model.context_length": 100_000}
    with pytest.raises(UserError, match="too few for a window"):
        start(find_recipe("gpt2.quickstart", long), tmp_path / "run", watch=quiet)
