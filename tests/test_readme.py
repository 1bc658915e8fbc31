"""What the README shows is run as it stands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bedplate.papers import PAPERS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    result = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert (tmp_path / "exported" / "config.json").exists()


def test_the_two_commands_are_targets_and_ci_runs_the_same() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in README and re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", re.findall(r"^\| `bedplate ([a-z-]+)", README, flags=re.MULTILINE))
def test_commands_of_the_table_exist(command: str) -> None:
    result = subprocess.run([sys.executable, "-m", "bedplate", command, "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "usage: bedplate" in result.stdout


def test_measured_speeds_are_those_of_the_benchmark_files() -> None:
    page = (ROOT / "docs" / "papers" / "gpt2.md").read_text(encoding="utf-8").partition("## Speed")[2]
    lines = [line for line in page.splitlines() if re.match(r"\| .* \| [\d.]", line)]
    shown = [[cell.split()[0] for cell in line.split("|")[2:5] if cell.strip()] for line in lines]
    files = [json.loads((ROOT / "benchmarks" / f"{name}.json").read_text()) for name in ("train", "decode")]
    rows = [row for file in files for row in file["rows"]]
    assert len(shown) == len(rows) > 15
    for texts, row in zip(shown, rows, strict=True):
        measured = [row[key] for key in ("ours", "peer", "ratio") if row.get(key) is not None]
        for text, value in zip(texts, measured, strict=True):
            assert float(text) == pytest.approx(value, abs=0.51 * 10 ** -len(text.partition(".")[2]))
    claimed = re.findall(r"([\d.]+) x(?: faster| as fast|,)", README)
    ratios = [row["ratio"] for row in rows if row.get("ratio")]
    assert len(claimed) > 4
    for text in claimed:
        assert any(f"{ratio:.{len(text.partition('.')[2])}f}" == text for ratio in ratios), text


def test_no_number_is_pending_and_counts_are_true() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    unfilled = r"\b(PENDING|TODO|MEASURED|SMALL[A-Z]?|SPEED)\b"
    assert not [page.name for page in pages if re.search(unfilled, page.read_text(encoding="utf-8"))]
    assert f"all {len(PAPERS)} " in README
    named = re.search(r"Working today: (.*?)\.\*\*", README, flags=re.DOTALL)
    assert named and named[1].replace("\n", " ").split("; ") == [p.system for p in PAPERS if p.state == "working"]
