"""The difference of two systems: of code without docstrings, and of settings."""

import ast
import json
from pathlib import Path

import pytest

from bedplate.cli import main
from bedplate.errors import UserError
from bedplate.evaluate.systems import HERE, code_of, compare_systems, systems


@pytest.mark.parametrize("name", systems())
def test_only_docstrings_are_left_out(name: str) -> None:
    path = HERE / f"{name}.py"
    kept, text = code_of(path), path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(kept) < len(lines) and set(kept) <= set(lines) and not any('"""' in line for line in kept)
    docstrings = [ast.get_docstring(node) for node in ast.walk(ast.parse(text)) if hasattr(node, "body")
                  and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]  # fmt: skip
    words = sum(len(text.split()) for text in docstrings if text)
    quotes = 2 * sum(map(bool, docstrings))
    assert abs(sum(len(line.split()) for line in lines) - sum(len(line.split()) for line in kept) - words) <= quotes


def test_what_gpt2_changed_in_gpt1() -> None:
    found = compare_systems("gpt1", "gpt2")
    fields = {row["field"]: (row["gpt1"], row["gpt2"]) for row in found["fields"]}
    assert fields["vocab_size"] == ("40478", "50257") and fields["context_length"] == ("512", "1024")
    assert fields["scale_by_layer"] == ("-", "False") and "dim" not in fields
    moved = "x + self.dropout(self.attention(self.attention_norm(x), bias=bias, state=state))"
    assert any(line.startswith("+") and moved in line for line in found["code"])
    assert found["code"][:2] == ["--- models/gpt1.py", "+++ models/gpt2.py"]
    same = compare_systems("gpt2", "gpt2")
    assert not same["code"] and not same["fields"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "gpt1", "gpt2", "--json", str(tmp_path / "found.json")]) == 1
    printed = capsys.readouterr().out
    assert "final_norm" in printed and "context_length" in printed
    assert json.loads((tmp_path / "found.json").read_text()) == compare_systems("gpt1", "gpt2")
    assert main(["diff", "gpt2", "gpt2"]) == 0
    with pytest.raises(UserError, match="did you mean 'gpt2'"):
        compare_systems("gpt2", "gtp2")
