"""`bedplate reproduce`: one claim or all, and the exit code when one does not hold."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bedplate.cli import main
from bedplate.experiments import experiment
from bedplate.experiments.experiment import Verdict


@dataclass(frozen=True)
class Result:
    """What a claim measured."""

    value: int


def claim(name: str, value: int, scales: tuple[str, ...]) -> ModuleType:
    module: Any = ModuleType(f"bedplate.experiments.{name}")
    module.CLAIM, module.SCALES = f"{name} is even", dict.fromkeys(scales)
    module.run = lambda scale, watch: Result(value)
    module.check = lambda result: Verdict(holds=result.value % 2 == 0, sentence=f"{result.value} was measured")
    module.plot = lambda result, path: path.write_bytes(b"picture")
    return module


@pytest.fixture(autouse=True)
def claims(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    modules = {"two": claim("two", 2, ("smoke", "small")), "three": claim("three", 3, ("smoke",))}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"bedplate.experiments.{name}", module)
    monkeypatch.setattr(experiment, "list_experiments", lambda: list(modules))
    monkeypatch.chdir(tmp_path)


def test_one_claim(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "two", "--json", "one.json"]) == 0
    assert "2 was measured" in capsys.readouterr().out
    assert json.loads(Path("one.json").read_text())["holds"] is True
    assert Path("runs/reproduce-two-smoke/plot.png").exists()
    assert main(["reproduce", "three"]) == 1


def test_all_claims_of_a_scale(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--all", "--json", "all.json"]) == 1
    shown = capsys.readouterr().out
    assert "Claims at scale smoke" in shown and "does NOT hold" in shown
    found = json.loads(Path("all.json").read_text())
    assert {name: record["holds"] for name, record in found.items()} == {"two": True, "three": False}
    assert main(["reproduce", "--all", "--scale", "small"]) == 0
    assert "three" not in capsys.readouterr().out.partition("Claims at scale small")[2]


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ([], "name a paper, or give --all"),
        (["two", "--all"], "name a paper, or give --all"),
        (["--all", "--out", "here"], "--out is for one paper"),
        (["--all", "--scale", "tiny"], "no experiment has a scale 'tiny'"),
    ],
)
def test_mistakes(words: list[str], cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *words]) == 2
    assert cause in capsys.readouterr().err
