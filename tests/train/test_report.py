"""report.html stands alone: pictures inside, user text escaped, nothing fetched."""

import json
import re
from pathlib import Path

import pytest

from bedplate.files import write_json
from bedplate.train.report import CONTRACTS, SAMPLES, step_time, write_report


def make_run(folder: Path) -> None:
    record = {
        "recipe": "gpt2.quickstart",
        "settings": {"steps": 3, "data.corpus": "<b>mine</b>"},
        "data": {
            "corpus": {"name": "<b>mine</b>", "bytes": 10**6, "documents": 9, "held_out_documents": 1, "sha256": "0"}
        },
        "environment": {"torch": "2", "threads": 2, "device": "cpu"},
    }
    (folder / "run.json").write_text(json.dumps(record))
    lines = [{"step": n, "loss": 5.0 / n, "seconds": 0.1, "items_per_second": 100.0} for n in (1, 2, 3)]
    lines[-1]["held_out_bits_per_byte"] = 2.5
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_report_is_one_page_with_its_pictures(tmp_path: Path) -> None:
    make_run(tmp_path)
    row = {"contract": "cached = uncached", "error": 1e-16, "bound": 1e-10, "verdict": "pass", "detail": ""}
    write_json(tmp_path / SAMPLES, [("a < b", " and & so on")])
    write_json(tmp_path / CONTRACTS, [row])
    page = write_report(tmp_path).read_text("utf-8")
    assert "data:image/png;base64," in page
    assert not re.search(r"(src|href)=[\"']?https?:", page)
    assert "a &lt; b" in page and "<b>mine</b>" not in page
    assert "1.0e-16" in page and 'class="pass"' in page


def test_a_report_of_a_run_without_held_out_measures(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 5.0, "seconds": 0.1, "items_per_second": 9.0}\n')
    assert "bits per byte" not in write_report(tmp_path).read_text("utf-8")


def test_a_report_of_a_run_whose_log_is_gone(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    page = write_report(tmp_path).read_text("utf-8")
    assert "Settings" in page and "<img" not in page


def test_a_report_shows_where_step_time_goes(tmp_path: Path) -> None:
    make_run(tmp_path)
    parts = {"data_seconds": 0.1, "forward_seconds": 0.2, "backward_seconds": 0.5, "optimizer_seconds": 0.15}
    lines = [{"step": n, "loss": 1.0, "seconds": 1.0, "items_per_second": 9.0, **parts} for n in (1, 2)]
    spent = step_time(lines)
    assert spent == pytest.approx({"data": 0.2, "forward": 0.4, "backward": 1.0, "optimizer": 0.3, "other": 0.1})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_report(tmp_path).read_text("utf-8")
    assert "width:50.00%" in page and "<td>50.0%</td><td>500.0</td>" in page


def test_a_log_without_parts_of_steps_shows_none(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert "Step time" not in write_report(tmp_path).read_text("utf-8")
