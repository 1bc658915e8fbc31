"""A run on a mixture: one tokenizer, every part recorded and measured, resumed bit for bit, mistakes told at once."""

import json
from pathlib import Path

import pytest

from bedplate.cli import main
from bedplate.errors import UserError
from bedplate.evaluate.language import likelihood
from bedplate.files import sha256_file
from bedplate.recipes import find_recipe, load_run
from bedplate.recipes.run import resume, start
from bedplate.recipes.text import prepare
from bedplate.train import loop
from bedplate.train.checkpoint import WEIGHTS, newest_checkpoint
from bedplate.train.run import read_metrics, read_run

TINY = {
    "model.vocab_size": 270, "model.context_length": 16, "model.dim": 16, "model.num_layers": 1, "model.num_heads": 2,
    "steps": 6, "batch_size": 4, "micro_batch_size": 2, "evaluate_every": 3, "checkpoint_every": 2,
    "schedule.warmup_steps": 2,
}  # fmt: skip


def quiet(metrics: dict) -> None:
    return None


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for name, animal in (("fox", "fox"), ("crow, and cheese", "crow")):
        lines = (f"Line {number}: the {animal} saw {number * 7} grapes.\n" for number in range(150))
        (folder / f"{name}.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def mixed(texts: Path) -> dict:
    return TINY | {"data.corpus": f"{texts}/fox.txt:0.75x3,{texts}/crow, and cheese.txt:0.25"}


@pytest.fixture(scope="module")
def finished(mixed: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert start(find_recipe("gpt2.quickstart", mixed), folder, watch=quiet).step == 6
    return folder


def test_batches_hold_windows_of_all_parts_by_their_weights(mixed: dict) -> None:
    prepared = prepare(find_recipe("gpt2.quickstart", mixed | {"batch_size": 40}))
    texts = [prepared.tokenizer.decode(row.tolist()) for row in prepared.source.batch(0)["ids"]]
    alone = [part.windows.batch(0)["ids"] for part in prepared.parts]
    expected = [prepared.tokenizer.decode(row.tolist()) for row in [*alone[0][:30], *alone[1][:10]]]
    assert sorted(texts) == sorted(expected)


def test_the_vocabulary_is_learned_from_all_parts(mixed: dict) -> None:
    tokens = prepare(find_recipe("gpt2.quickstart", mixed | {"model.vocab_size": 300})).tokenizer.vocabulary.ids
    assert {"Ġfox", "Ġcrow"} <= set(tokens)


def test_the_record_names_every_part(finished: Path, texts: Path) -> None:
    data = read_run(finished)["data"]
    first, second = data["parts"]
    assert first["share"] == f"{texts}/fox.txt:0.75x3" and second["share"].endswith("crow, and cheese.txt:0.25")
    assert data["corpus"]["name"] == "fox.txt:0.75x3,crow, and cheese.txt:0.25"
    for key in ("train_tokens", "held_out_tokens"):
        assert data[key] == first[key] + second[key] > 0
    assert data["corpus"]["bytes"] == sum(path.stat().st_size for path in texts.iterdir())
    digests = [part["corpus"]["sha256"] for part in (first, second)] + [data["corpus"]["sha256"]]
    assert len(set(digests)) == 3
    assert all(len(digest) == 64 for part in (first, second) for digest in part["shards"].values())


def test_held_out_text_of_all_parts_is_measured(finished: Path, mixed: dict) -> None:
    model, tokenizer = load_run(finished)
    prepared = prepare(find_recipe("gpt2.quickstart", mixed), tokenizer=tokenizer)
    whole = likelihood(model, prepared.held_out_windows())
    result = json.loads((finished / "result.json").read_text())
    assert result["bits_per_byte"] == pytest.approx(whole.bits_per_byte, abs=1e-6)
    assert (result["tokens"], result["bytes"]) == (whole.tokens, whole.bytes)
    for part in prepared.parts:
        alone = likelihood(model, part.held_out_windows())
        assert result["parts"][str(part.share)]["bits_per_byte"] == pytest.approx(alone.bits_per_byte, abs=1e-6)
    assert whole.bytes == sum(part.receipt["held_out_bytes"] for part in prepared.parts)
    assert sum(len(batch["ids"]) for batch in prepared.probe_windows()) > 0


def test_every_part_is_probed_while_training(mixed: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bedplate.recipes.text.PROBE_TOKENS", 16)
    prepared = prepare(find_recipe("gpt2.quickstart", mixed))
    texts = [prepared.tokenizer.decode(batch["ids"].flatten().tolist()) for batch in prepared.probe_windows()]
    assert len(texts) == 2 and "fox" in texts[0] and "crow" in texts[1]


class Killed(Exception):
    pass


def test_a_killed_run_resumes_bit_for_bit(finished: Path, mixed: dict, tmp_path: Path) -> None:
    def kill(metrics: dict) -> None:
        if metrics["step"] == 5:
            raise Killed

    with pytest.raises(Killed):
        start(find_recipe("gpt2.quickstart", mixed), tmp_path / "run", watch=kill)
    assert resume(tmp_path / "run", watch=quiet).step == 6
    ours, theirs = (newest_checkpoint(folder) / WEIGHTS for folder in (tmp_path / "run", finished))
    assert sha256_file(ours) == sha256_file(theirs)
    logged = [[line["loss"] for line in read_metrics(folder)] for folder in (tmp_path / "run", finished)]
    assert logged[0] == logged[1] and len(logged[0]) == 6


def test_a_changed_part_is_noticed(finished: Path, texts: Path) -> None:
    path = texts / "fox.txt"
    before = path.read_text()
    try:
        path.write_text(before.replace("Line 7:", "Line Z:"))
        with pytest.raises(UserError, match="has changed since"):
            resume(finished, watch=quiet)
    finally:
        path.write_text(before)


def test_prefetching_changes_nothing(finished: Path, mixed: dict, tmp_path: Path) -> None:
    recipe = find_recipe("gpt2.quickstart", mixed)
    source, sources = prepare(recipe).source, []
    train = loop.train
    with pytest.MonkeyPatch.context() as patch:
        # The loop is handed the source itself, and each batch is made when it is asked for.
        patch.setattr(
            "bedplate.recipes.run.train",
            lambda model, prefetched, *rest, **more: sources.append(prefetched) or train(model, source, *rest, **more),
        )
        start(recipe, tmp_path / "run", watch=quiet)
    assert type(sources[0]).__name__ == "Prefetched"
    ours, theirs = (newest_checkpoint(folder) / WEIGHTS for folder in (tmp_path / "run", finished))
    assert sha256_file(ours) == sha256_file(theirs)


@pytest.mark.parametrize(
    ("corpus", "words"),
    [
        ("{texts}/fox.txt:0.5x1,{texts}/crow, and cheese.txt:0.5x1", "are used up after"),
        ("{texts}/fox.txt:0,stdlib:1", "is '0', no number above 0; write CORPUS:WEIGHT"),
        ("{texts}/fox.txt:0.5,{texts}/wolf.txt:0.5", "wolf.txt does not exist"),
        ("{texts}/fox.txt:0.5,stdlb", "'stdlb' has no weight"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    corpus: str, words: str, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"{key}={value}" for key, value in (TINY | {"steps": 10_000}).items()]
    out = tmp_path / "run"
    code = main(["train", "gpt2.quickstart", *settings, f"data.corpus={corpus.format(texts=texts)}", "--out", str(out)])
    error = capsys.readouterr().err
    assert code == 2 and words in error and error.count("\n") == 1 and not out.exists()
