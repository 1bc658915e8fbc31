"""Token shards named as the corpus: what they were made of is learned as if it were read, and mistakes are told."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bedplate.data.shards import write_ids
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.recipes import find_recipe
from bedplate.recipes.run import resume, start
from bedplate.recipes.text import prepare
from bedplate.train.report import write_report
from bedplate.train.run import read_metrics, read_run

TINY = {
    "model.vocab_size": 270, "model.context_length": 16, "model.dim": 16, "model.num_layers": 1, "model.num_heads": 2,
    "steps": 6, "batch_size": 4, "micro_batch_size": 2, "evaluate_every": 3, "checkpoint_every": 2,
}  # fmt: skip


def quiet(metrics: dict[str, Any]) -> None:
    return None


def recipe(corpus: object, **others: str) -> Any:
    return find_recipe("gpt2.quickstart", TINY | {"data.corpus": str(corpus)} | others)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "fables.txt"
    path.write_text("".join(f"Line {number}: the fox saw {number * 7} grapes, and left.\n" for number in range(150)))
    return path


@pytest.fixture(scope="module")
def from_text(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "from-text"
    start(recipe(text), folder, watch=quiet)
    return folder


@pytest.fixture(scope="module")
def shards(text: Path, from_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copied from the cache, as one would carry them to another machine."""
    tokenizer = ByteBPE.from_folder(from_text / "tokenizer")
    made = prepare(recipe(text), tokenizer=tokenizer).parts[0].windows.shards.folder.parent
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("carried") / "fables"))


def test_a_run_on_shards_is_the_run_on_their_text(from_text: Path, shards: Path, tmp_path: Path) -> None:
    vocabulary = {"data.tokenizer": str(from_text / "tokenizer")}
    start(recipe(shards, **vocabulary), tmp_path / "run", watch=quiet)
    losses = [[line["loss"] for line in read_metrics(folder)] for folder in (from_text, tmp_path / "run")]
    assert losses[0] == losses[1]
    mine, theirs = (read_run(folder)["data"] for folder in (tmp_path / "run", from_text))
    for data in (mine, theirs):
        del data["corpus"]["source"]  # whoever wrote the cache may have read a copy of the text
    assert mine == theirs
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000006")
    resume(tmp_path / "run", watch=quiet)
    assert [line["loss"] for line in read_metrics(tmp_path / "run")] == losses[0]


def test_shards_of_ids_alone_are_told_by_their_counts(tmp_path: Path) -> None:
    tokenizer = ByteBPE.train([], vocab_size=257)
    tokenizer.save(tmp_path / "vocabulary")
    for side, number in (("train", 50), ("held_out", 9)):
        ids = np.tile([*b"a fable of ten words or so, and an end", tokenizer.end_id], number)
        write_ids([ids], tokenizer, tmp_path / "ids" / side)
    start(recipe(tmp_path / "ids", **{"data.tokenizer": str(tmp_path / "vocabulary")}), tmp_path / "run", watch=quiet)
    told = read_run(tmp_path / "run")["data"]["corpus"]
    assert (told["name"], told["documents"], told["held_out_documents"]) == ("ids", 59, 9)
    assert (told["bytes"], told["held_out_bytes"]) == (38 * 59, 38 * 9)
    assert write_report(tmp_path / "run").exists()
    mixed = recipe(f"{tmp_path / 'ids'}:0.5,pydocs:0.5", **{"data.tokenizer": str(tmp_path / "vocabulary")})
    start(mixed, tmp_path / "mixed", watch=quiet)
    assert read_run(tmp_path / "mixed")["data"]["corpus"]["documents"] > 59


def test_mistakes_are_told(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds token ids, but not their vocabulary; .*data\.tokenizer"):
        prepare(recipe(shards))
    ByteBPE.train([], vocab_size=257).save(tmp_path / "other")
    with pytest.raises(UserError, match="made with another vocabulary"):
        prepare(recipe(shards, **{"data.tokenizer": str(tmp_path / "other")}))
    half = Path(shutil.copytree(shards, tmp_path / "half"))
    shutil.rmtree(half / "held_out")
    with pytest.raises(UserError, match="held_out/manifest.json"):
        prepare(recipe(half, **{"data.tokenizer": str(tmp_path / "other")}))
