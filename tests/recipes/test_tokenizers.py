"""A run with a vocabulary of any kind: trained, opened again, made to write, saved; and its bits per byte."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bedplate.data.tokenize import Tokenizer
from bedplate.data.tokenize.unigram import Unigram
from bedplate.data.tokenize.word_bpe import WordBPE
from bedplate.data.tokenize.word_piece import WordPiece
from bedplate.language_model import load, tokenizer_of
from bedplate.models import build
from bedplate.recipes import find_recipe
from bedplate.recipes.run import start
from bedplate.recipes.text import prepare

LINES = [f"Line {number}:  the FOX saw {number * 7} grapes — and left.\n" for number in range(150)]
TINY = {
    "model.vocab_size": 120, "model.context_length": 16, "model.dim": 16, "model.num_layers": 1, "model.num_heads": 2,
    "steps": 2, "batch_size": 4, "micro_batch_size": 2, "evaluate_every": 2, "schedule.warmup_steps": 1,
}  # fmt: skip


def trained(kind: str) -> Tokenizer:
    if kind == "word":
        return WordBPE.train(LINES, vocab_size=80).with_special("<end>", end="<end>")
    return (
        WordPiece.train(LINES, vocab_size=80)
        if kind == "word piece"
        else Unigram.train(LINES, vocab_size=70, num_sentinels=20)
    )


@pytest.fixture(scope="module", params=["word", "word piece", "unigram"])
def case(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("vocabulary")
    tokenizer = trained(request.param)
    tokenizer.save(folder / "vocabulary")
    (folder / "text.txt").write_text("".join(LINES), encoding="utf-8")
    settings = {"data.corpus": str(folder / "text.txt"), "data.tokenizer": str(folder / "vocabulary")}
    return tokenizer, folder, TINY | settings


def test_a_run_with_any_vocabulary(case):
    tokenizer, folder, settings = case
    start(find_recipe("gpt2.quickstart", settings), folder / "run", watch=lambda metrics: None)
    opened = load(folder / "run")
    assert opened.tokenizer.digest == tokenizer.digest == tokenizer_of(folder / "run").digest
    ids = opened.generate("the fox", max_new_tokens=5, temperature=0.0).ids
    opened.save(folder / "saved")
    again = load(folder / "saved")
    assert again.generate("the fox", max_new_tokens=5, temperature=0.0).ids == ids
    assert again.tokenizer.digest == tokenizer_of(folder / "saved").digest == tokenizer.digest


def test_a_model_that_knows_nothing_pays_for_the_text(case):
    """All ids equally likely: log2(vocabulary) bits a token, over the bytes that the text really has."""
    tokenizer, _, settings = case
    recipe = find_recipe("gpt2.quickstart", settings)
    prepared = prepare(recipe)
    model = build(recipe.model)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    measured = prepared.measure(model)
    # A single document is cut at a line border near 90 % of its characters: the end of the lines is held out.
    whole = "".join(LINES)
    held_out = whole[whole.rfind("\n", len(whole) * 8 // 10, len(whole) * 9 // 10) + 1 :]
    tokens, size = len(tokenizer.encode(held_out)), len(held_out.encode())
    assert (measured["tokens"], measured["bytes"]) == (tokens, size)
    assert measured["bits_per_byte"] == pytest.approx(tokens * math.log2(120) / size, rel=1e-6)
