"""Fine-tuning as a recipe: from a run, resumed bit for bit, opened by transformers, with mistakes said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import OpenAIGPTForSequenceClassification

import bedplate
from bedplate.data.tokenize.word_bpe import TASK_TOKENS
from bedplate.errors import UserError
from bedplate.models.gpt1 import GPT1Chooser, TaskConfig
from bedplate.recipes import Recipe, find_recipe
from bedplate.recipes.run import load_run, resume, start
from bedplate.train.run import read_metrics

SIZES = {"model.dim": 16, "model.num_layers": 1, "model.num_heads": 2, "model.context_length": 48}
READING = SIZES | {"model.vocab_size": 297, "steps": 2, "batch_size": 2}
TASK = SIZES | {"model.vocab_size": 300, "steps": 4, "batch_size": 5, "data.labels": 10, "data.longest_text": 46}


def quiet(metrics: dict[str, Any]) -> None:
    pass


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "read"
    text = folder.parent / "text.txt"
    text.write_text("".join(f"line {number} = {number * number} of a text\n" for number in range(900)))
    start(find_recipe("gpt1.pydocs", READING | {"data.corpus": str(text)}), folder, watch=quiet)
    return folder


def test_a_run_begins_from_another_and_goes_on(read: Path, tmp_path: Path) -> None:
    recipe = find_recipe("gpt1.finetune", TASK | {"data.start": str(read), "evaluate_every": 2, "checkpoint_every": 2})
    start(recipe, tmp_path / "straight", watch=quiet)
    record = json.loads((tmp_path / "straight" / "result.json").read_text())
    assert 0 <= record["accuracy"] <= 1 and record["items"] > 200 and record["bits_per_byte"] > 0
    errors = [line["held_out_error"] for line in read_metrics(tmp_path / "straight") if "held_out_error" in line]
    assert len(errors) == 2 and 1 - errors[-1] == pytest.approx(record["accuracy"])
    start(replace(recipe, steps=4), tmp_path / "again", watch=lambda metrics: stop_at(metrics, 3))
    resume(tmp_path / "again", watch=quiet)
    mine, theirs = (load_run(tmp_path / name)[0].state_dict() for name in ("straight", "again"))
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def stop_at(metrics: dict[str, Any], step: int) -> None:
    import os
    import signal

    if metrics["step"] == step:
        os.kill(os.getpid(), signal.SIGTERM)


def test_it_starts_where_the_other_ended(read: Path, tmp_path: Path) -> None:
    recipe = find_recipe("gpt1.finetune", TASK | {"data.start": str(read), "steps": 1, "optimizer.lr": 1e-12})
    start(recipe, tmp_path / "run", watch=quiet)
    (before, old), (after, new) = load_run(read), load_run(tmp_path / "run")
    ids = torch.randint(297, (1, 20))
    torch.testing.assert_close(after(ids)[..., :297], before(ids), rtol=0, atol=1e-5)
    assert new.vocabulary.special[-3:] == TASK_TOKENS and new.encode("text _start_") == old.encode("text _start_")


def test_what_was_learned_opens_in_transformers(read: Path, tmp_path: Path) -> None:
    start(find_recipe("gpt1.finetune", TASK | {"data.start": str(read)}), tmp_path / "run", watch=quiet)
    bedplate.load(tmp_path / "run").save(tmp_path / "saved")
    theirs, report = OpenAIGPTForSequenceClassification.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(report.values()) and theirs.config.num_labels == 5
    ours = bedplate.load(tmp_path / "saved").model
    ids = torch.randint(300, (1, 9))
    with torch.no_grad():
        scores = ours.classify(ours.features(ids)[:, None, -1])
        torch.testing.assert_close(scores, theirs.eval()(ids).logits, rtol=1e-4, atol=1e-5)


def test_answers_are_chosen(read: Path, tmp_path: Path) -> None:
    lines = [{"context": f"{n} = ", "answers": [f"{n}", f"{n + 1}"], "label": n % 2} for n in range(80)]
    path = tmp_path / "choices.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    recipe = choosing(find_recipe("gpt1.finetune", TASK | {"data.start": str(read), "data.corpus": str(path)}))
    prepared = recipe.data.prepare(recipe)
    assert prepared.source.batch(0)["ids"].shape[:2] == (5, 2)
    model = GPT1Chooser(recipe.model)
    loss = recipe.objective.loss(model, prepared.source.batch(0), None, 0)
    assert loss.count == 5 and 0 <= prepared.probe(model)["held_out_error"] <= 1


def choosing(recipe: Recipe) -> Recipe:
    sizes = {name: value for name, value in vars(recipe.model).items() if name != "num_classes"}
    return replace(recipe, model=TaskConfig(**sizes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model.num_classes": 4}, "5 classes, the model 4"),
        ({"model.vocab_size": 301}, "set model.vocab_size=300"),
        ({"data.longest_text": 47}, "49 tokens, the model takes 48"),
        ({"data.start": "nowhere"}, "neither a run nor a model"),
        ({"model.dim": 32}, "shape"),
        ({"objective.language_weight": -1.0}, "language_weight"),
    ],
    ids=str,
)
def test_mistakes_are_said(changes: dict[str, Any], problem: str, read: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=problem):
        start(find_recipe("gpt1.finetune", TASK | {"data.start": str(read)} | changes), tmp_path / "run", watch=quiet)
