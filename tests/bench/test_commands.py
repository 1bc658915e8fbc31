"""`bedplate plan` and `bedplate bench` as a user calls them."""

import json
import re
from pathlib import Path

import pytest

from bedplate.cli import main


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plan", "gpt9"], "gpt9"),
        (["plan", "gpt2.quickstrat"], "gpt2.quickstart"),
        (["plan", "gpt2", "--device", "h300"], "h200"),
        (["plan", "gpt2", "--gpus", "0"], "--gpus"),
        (["plan", "gpt2", "steps=3"], "no settings"),
        (["bench", "train", "--batch", "0"], "--batch"),
        (["bench", "train", "--precision", "fp8"], "fp8"),
        (["bench", "decode", "--size", "gpt2,gpt9"], "gpt9"),
    ],
)
def test_mistakes_are_one_clear_line(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("error: ") and expected in said.err


def test_plans_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["gpt2-xl", "--gpus", "8", "--device", "h200", "--batch", "512", "--parallel", "fsdp", "--tokens", "300e9"]
    assert main(["plan", *words, "--json", str(tmp_path / "plan.json")]) == 0
    assert re.search(r"time of the run +11\.\d +days", capsys.readouterr().out)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert {row["what"]: row["value"] for row in plan["work"]}["parameters"] == 1_557_611_200


def test_a_recipe_is_planned_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "gpt2.quickstart", "batch_size=64"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"tokens an update +8,192", said) and "Fits" in said
