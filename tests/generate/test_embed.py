"""Vectors of texts: those of transformers' pipeline steps, whatever the company of a text."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from bedplate import load
from bedplate.cli import main
from bedplate.data.tokenize.word_piece import WordPiece
from bedplate.errors import UserError
from bedplate.language_model import LanguageModel
from bedplate.models import build
from bedplate.models.bert import MaskedConfig, PooledConfig

TEXTS = ["the cat sat", "a cat", "the mat sat on the cat on the mat", "on a mat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    tokenizer = WordPiece.train(TEXTS * 9, vocab_size=26)
    torch.manual_seed(0)
    size = {"vocab_size": 30, "context_length": 16, "dim": 16, "num_layers": 3, "num_heads": 2, "mlp_dim": 24}
    LanguageModel(build(PooledConfig(**size)).eval(), tokenizer).save(place)
    return place


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_vectors_of_transformers(folder: Path, pooling: str) -> None:
    ours = load(folder).embed(TEXTS, layers=[0, -2, -1], pooling=pooling)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    encoded = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**encoded, output_hidden_states=True).hidden_states
    weights = encoded["attention_mask"][..., None].float()
    for place, layer in enumerate((0, -2, -1)):
        mean = (states[layer] * weights).sum(1) / weights.sum(1)
        expected = mean if pooling == "mean" else states[layer][:, 0]
        torch.testing.assert_close(ours[:, place], expected, rtol=1e-5, atol=1e-5)


def test_a_text_gives_the_same_alone(folder: Path) -> None:
    lm = load(folder)
    together = lm.embed(TEXTS)
    assert together.shape == (4, 1, 16)
    for text, vectors in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(lm.embed(text), vectors, rtol=1e-6, atol=1e-6)


def test_too_long_a_text_is_an_error_or_is_cut(folder: Path) -> None:
    lm, text = load(folder), "the cat sat on the mat " * 9
    with pytest.raises(UserError, match="the model takes 16"):
        lm.embed(text)
    torch.testing.assert_close(
        lm.embed(text, truncate=True), lm.embed("the cat sat on the mat the cat sat on the mat the cat")
    )


@pytest.mark.parametrize("options", [{"layers": [4]}, {"layers": [-5]}, {"pooling": "max"}])
def test_senseless_options_are_user_errors(folder: Path, options: dict[str, object]) -> None:
    with pytest.raises(UserError):
        load(folder).embed("a cat", **options)


def test_what_is_no_encoder_is_refused() -> None:
    with pytest.raises(UserError, match="no encoder"):
        load("gpt2-tiny").embed("a cat")


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "a cat", "on a mat", "--model", str(folder), "--layers", "-2", "-1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["a cat", "on a mat"] and len(lines[0]["vector"]) == 32


def test_a_head_stays_out_of_the_way(folder: Path) -> None:
    lm = load(folder)
    torch.manual_seed(0)
    masked = build(MaskedConfig(**vars(lm.config))).eval()
    masked.bert.load_state_dict(lm.model.bert.state_dict())
    torch.testing.assert_close(LanguageModel(masked, lm.tokenizer).embed(TEXTS), lm.embed(TEXTS))
