"""report.html stands alone: pictures inside, user text escaped, nothing fetched."""

import json
import re
from pathlib import Path

from bedplate.files import write_json
from bedplate.train.report import CONTRACTS, SAMPLES, write_report


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
