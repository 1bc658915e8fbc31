"""Pre-training and fine-tuning of a small BERT through the one loop, from recipe to a model that is opened again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bedplate import load
from bedplate.errors import UserError
from bedplate.recipes.recipe import find_recipe
from bedplate.recipes.run import load_run, resume, start
from bedplate.train.report import RESULT

SMALL = {"model.vocab_size": 300, "model.context_length": 40, "model.dim": 32, "model.num_heads": 2}
SHORT = SMALL | {"checkpoint_every": 10, "evaluate_every": 10, "micro_batch_size": 8}


def silent(metrics: dict[str, Any]) -> None:
    return None


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(40):
        words = " ".join(f"word{(number * each) % 29} and then somebody buys or sells it" for each in range(60))
        words += " the quick brown fox jumps over a lazy dog"  # every letter
        (folder / f"{number}.txt").write_text(words)
    return folder


@pytest.fixture(scope="module")
def pretrained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    changes = SHORT | {"model.vocab_size": 90, "data.corpus": str(corpus), "steps": 20, "batch_size": 8}
    start(find_recipe("bert.pydocs", changes), folder, watch=silent)
    return folder


def test_pretraining_measures_both_questions(pretrained: Path) -> None:
    result = json.loads((pretrained / RESULT).read_text())
    assert 0 < result["masked_accuracy"] < 1 and 0 <= result["next_sentence_accuracy"] <= 1
    lines = [json.loads(line) for line in (pretrained / "metrics.jsonl").read_text().splitlines()]
    assert {"masked_loss", "next_sentence_loss", "next_sentence_accuracy"} <= set(lines[-1])
    assert lines[-1]["held_out_masked_loss"] < lines[0]["masked_loss"]
    assert load(pretrained).embed(["word1 and then"]).shape == (1, 1, 32)


def test_a_resumed_run_is_the_same_run(corpus: Path, pretrained: Path, tmp_path: Path) -> None:
    changes = SHORT | {"model.vocab_size": 90, "data.corpus": str(corpus), "steps": 20, "batch_size": 8}

    def stop(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(find_recipe("bert.pydocs", changes), tmp_path / "run", watch=stop)
    resume(tmp_path / "run", watch=silent)
    expected = load_run(pretrained)[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in load_run(tmp_path / "run")[0].state_dict().items())


@pytest.mark.parametrize(
    ("recipe", "task"),
    [("bert.classify", "generated-text"), ("bert.tag", "generated-tags"), ("bert.answer", "generated-spans")],
)
def test_known_answers_are_learned(recipe: str, task: str, pretrained: Path, tmp_path: Path) -> None:
    """From a pre-trained encoder with its vocabulary; the words of the task are new to it."""
    changes = SHORT | {"model.vocab_size": 90, "data.corpus": task, "data.start": str(pretrained), "steps": 150}
    changes |= {"optimizer.lr": 3e-3, "micro_batch_size": 32, "model.dropout": 0.0, "checkpoint_every": 150}
    start(find_recipe(recipe, changes), tmp_path / "run", watch=silent)
    assert json.loads((tmp_path / "run" / RESULT).read_text())["accuracy"] > 0.9


def test_weights_of_the_encoder_are_taken_and_the_heads_left(pretrained: Path, tmp_path: Path) -> None:
    changes = SHORT | {"model.vocab_size": 90, "data.start": str(pretrained), "steps": 1, "optimizer.lr": 1e-30}
    start(find_recipe("bert.answer", changes), tmp_path / "run", watch=silent)
    before, after = (load_run(folder)[0].state_dict() for folder in (pretrained, tmp_path / "run"))
    shared = [name for name in after if name.startswith("bert.")]
    assert set(after) - set(shared) == {"task_head.weight", "task_head.bias"}
    assert all(torch.allclose(after[name], before[name], atol=1e-12) for name in shared)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 3 classes, the model 2"):
        start(find_recipe("bert.classify", {"data.corpus": "generated-tags"}), tmp_path / "run", watch=silent)
    with pytest.raises(UserError, match="neither a run nor a model"):
        start(find_recipe("bert.classify", {"data.start": str(tmp_path)}), tmp_path / "run", watch=silent)
