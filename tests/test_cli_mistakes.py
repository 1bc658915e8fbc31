"""Words that make no sense together end in one line and exit code 2."""

import json
from pathlib import Path

import pytest

from bedplate.cli import main


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "trained"
    folder.mkdir()
    record = {"recipe": "gpt2.quickstart", "settings": {"steps": 5}, "data": {}, "environment": {}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["train", "gpt2.stdlib", "--from", "RUN"], "is a run of gpt2.quickstart, not of gpt2.stdlib"),
        (["train", "--resume", "RUN", "--from", "RUN"], "--resume and --from"),
        (["train", "--resume", "RUN", "--out", "elsewhere"], "--resume and --out"),
        (["train", "--from", "nowhere/to/be"], "nowhere/to/be is not a run folder"),
        (["plan", "gpt2", "--device", "h100", "--utilization", "0"], "--utilization"),
        (["plan", "gpt2", "--device", "h100", "--tokens", "0"], "--tokens"),
    ],
)
def test_they_are_refused(
    run_folder: Path, words: list[str], cause: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_folder.parent)
    try:
        code = main([str(run_folder) if word == "RUN" else word for word in words])
    except SystemExit as stop:  # argparse's own
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and cause in error and "Traceback" not in error
