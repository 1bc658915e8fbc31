"""A translation run from the command line: trained, resumed, measured, its checkpoints averaged, its model used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bedplate
from bedplate.recipes.run import load_run
from bedplate.train.checkpoint import list_checkpoints, load_weights

SMALL = [
    "model.dim=16", "model.num_heads=2", "model.num_layers=1", "model.num_decoder_layers=1",
    "steps=8", "batch_size=8", "micro_batch_size=4", "evaluate_every=4", "checkpoint_every=2",
]  # fmt: skip


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bedplate", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = tmp_path_factory.mktemp("texts")
    for side, word in (("de", "Tag"), ("en", "day")):
        lines = (f"{word} {number} {word} {number * 7}.\n" for number in range(400))
        (texts / f"lines.{side}").write_text("".join(lines))
    files = [f"data.corpus={texts}/lines.de,{texts}/lines.en"]
    vocabulary = ["model.vocab_size=271", "model.start_id=270"]
    result = run("train", "transformer.quickstart", *SMALL, *files, *vocabulary, "--keep", 3, "--out", texts / "run")
    assert result.returncode == 0, result.stderr
    assert "BLEU" in result.stdout
    return texts / "run"


@pytest.mark.slow
def test_a_run_is_measured_and_used(folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    assert result["translated"] == len(range(result["translated"])) > 5 and "tok:13a" in result["bleu_signature"]
    model = bedplate.load(folder)
    plain = model.generate("Tag 3 Tag 21.", max_new_tokens=5, temperature=0)
    best = model.search("Tag 3 Tag 21.", max_new_tokens=5, width=3)
    assert len(plain.ids) <= 5 and sum(best.logprobs) >= sum(plain.logprobs) - 1e-4


@pytest.mark.slow
def test_checkpoints_are_averaged(folder: Path, tmp_path: Path) -> None:
    result = run("average", folder, tmp_path / "mean", "--last", 3)
    assert result.returncode == 0 and "4, 6, 8" in result.stdout, result.stderr
    total = None
    for checkpoint in list_checkpoints(folder):
        model, _ = load_run(folder)
        load_weights(checkpoint, model)
        weight = model.get_submodule("decoder.0.mlp.up").weight.detach().double() / 3
        total = weight if total is None else total + weight
    averaged = bedplate.load(tmp_path / "mean").model.get_submodule("decoder.0.mlp.up").weight
    torch.testing.assert_close(averaged.detach().double(), total, rtol=0, atol=1e-7)
    refused = run("average", folder, tmp_path / "more", "--last", 9)
    assert refused.returncode == 2 and "--keep 9" in refused.stderr and refused.stderr.count("\n") == 1


def test_a_vocabulary_that_does_not_fit_is_told(tmp_path: Path) -> None:
    result = run("train", "transformer.quickstart", "model.start_id=5", "--out", tmp_path / "run")
    assert result.returncode == 2 and "model.start_id=512" in result.stderr and result.stderr.count("\n") == 1
