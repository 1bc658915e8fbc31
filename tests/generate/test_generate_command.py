"""The ways to decode on the command line: each prints what the library gives."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.generate.tiny import random_model

from bedplate.cli import main
from bedplate.errors import UserError
from bedplate.language_model import LanguageModel, load

TEXT = "The open function"
SHORT = ["generate", TEXT, "--max-new-tokens", "12"]


@pytest.fixture(scope="module")
def amateur(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model of the shipped vocabulary."""
    folder = tmp_path_factory.mktemp("amateur")
    model = random_model(vocab_size=1024, context_length=64, dim=16, num_layers=1).float()
    LanguageModel(model, load("gpt2-tiny").tokenizer).save(folder)
    return str(folder)


def test_every_way_prints_what_the_library_gives(amateur: str, capsys: pytest.CaptureFixture[str]) -> None:
    expert, other = load("gpt2-tiny"), load(amateur)
    plain: dict[str, Any] = {"max_new_tokens": 12}
    drawn = plain | {"temperature": 0.7, "seed": 3}
    for words, generation in (
        (["--draft", "lookup", "--seed", "3"], expert.speculate(TEXT, **drawn)),
        (["--draft", amateur, "--seed", "3"], expert.speculate(TEXT, draft=other, **drawn)),
        (["--amateur", amateur], expert.contrast(TEXT, amateur=other, **plain)),
        (["--amateur", amateur, "--beams", "3"], expert.contrast(TEXT, amateur=other, width=3, **plain)),
        (["--contrastive-search", "0.6"], expert.contrastive_search(TEXT, **plain)),
        (["--contrastive-search", "0.9", "--top-k", "7"], expert.contrastive_search(TEXT, alpha=0.9, top_k=7, **plain)),
    ):
        assert main([*SHORT, *words]) == 0
        printed = capsys.readouterr()
        assert printed.out == f"{TEXT}{generation.text}\n"
        assert ("proposals accepted" in printed.err) == ("--draft" in words)


def test_a_look_up_leaves_the_likeliest_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--temperature", "0"]) == main([*SHORT, "--temperature", "0", "--draft", "lookup"]) == 0
    one, other = capsys.readouterr().out.removesuffix("\n").split(f"\n{TEXT}")
    assert f"{TEXT}{other}" == one


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--draft", "lookup", "--beams", "2"], "--draft and --beams exclude each other"),
        (["--draft", "lookup", "--amateur", "x"], "--draft and --amateur exclude each other"),
        (["--contrastive-search", "0.5", "--beams", "2"], "--contrastive-search and --beams exclude each other"),
        (["--contrastive-search", "0.5", "--amateur", "x", "--beams", "2"], "exclude each other"),
        (["--amateur", "gpt2-tiny"], "names the model itself"),
        (["--draft", "nowhere"], "no folder or checkpoint 'nowhere'"),
        (["--contrastive-search", "1.5"], "alpha is 1.5"),
    ],
)
def test_contradictions_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_the_examples_of_the_page_run(amateur: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "parts" / "decoding.md"
    names: dict[str, Any] = {}
    first, *others = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(first, names)
    assert set(json.loads(capsys.readouterr().out)) == {"n"}
    names["small"] = load(amateur)
    for example in others:
        exec(example, names)
    assert len(others) == 3


def test_texts_are_held_to_schemas_and_expressions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = {"properties": {"read": {"type": "boolean"}}, "required": ["read"]}
    schema = {"type": "object", "additionalProperties": False} | read
    language_model = load("gpt2-tiny")
    written = language_model.generate("options = ", schema=schema, max_new_tokens=30, temperature=0).text
    assert set(json.loads(written)) == {"read"}
    assert "".join(language_model.stream("options = ", schema=schema, max_new_tokens=30, temperature=0)) == written
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    words = ["generate", "options = ", "--temperature", "0", "--max-new-tokens", "30"]
    assert main([*words, "--schema", str(tmp_path / "schema.json")]) == 0
    assert capsys.readouterr().out == f"options = {written}\n"
    assert main([*words, "--regex", "[0-9]{3}"]) == 0
    assert re.fullmatch(r"options = [0-9]{3}\n", capsys.readouterr().out)
    assert main([*words, "--schema", str(tmp_path / "none.json")]) == 2
    assert "name a file" in capsys.readouterr().err
    assert main([*words, "--regex", "x", "--draft", "lookup"]) == 2
    assert "exclude each other" in capsys.readouterr().err
    with pytest.raises(UserError, match="give one of them"):
        language_model.generate("x", schema={}, regex="x")
