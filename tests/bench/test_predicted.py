"""What a finished run took, beside what was predicted for it."""

from pathlib import Path

import pytest

from bedplate.bench import predicted
from bedplate.bench.predicted import compare_with_plan
from bedplate.bench.shape import shape_of
from bedplate.files import read_json, write_json
from bedplate.recipes import find_recipe
from bedplate.recipes.run import start
from bedplate.train.report import PLAN, USAGE, write_report
from bedplate.train.run import read_metrics

SETTINGS = {
    "model.vocab_size": 300, "model.context_length": 64, "model.dim": 64, "model.num_layers": 2, "model.num_heads": 2,
    "steps": 6, "batch_size": 10, "micro_batch_size": 4, "evaluate_every": 6, "checkpoint_every": 6,
}  # fmt: skip


def test_a_run_is_compared_with_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With batches that micro-batches do not divide; the rate is given, so that every number can be told."""
    monkeypatch.setattr(predicted, "matrix_rate", lambda *_, **__: 0.1)
    recipe = find_recipe("gpt2.quickstart", SETTINGS)
    start(recipe, tmp_path / "run", watch=lambda metrics: None)
    rows = {row["what"]: row for row in compare_with_plan(tmp_path / "run")}
    operations = shape_of(recipe.model).operations(64) * 640
    seconds = sorted(line["seconds"] for line in read_metrics(tmp_path / "run"))
    median = (seconds[2] + seconds[3]) / 2
    step, share = rows["seconds a step"], rows["model FLOPs utilization, %"]
    assert step["predicted"] == pytest.approx(operations / (0.5 * 0.1e12))
    assert step["measured"] == pytest.approx(median)
    assert share["predicted"] == pytest.approx(50) and share["measured"] == pytest.approx(operations / median / 1e9)
    used = read_json(tmp_path / "run" / USAGE)
    memory = rows["memory at most, GB a process"]
    assert used["execution"] == {"gpus": 1, "strategy": "ddp", "checkpointing": False}
    assert 0.1 < used["memory_before"] < memory["predicted"]
    assert memory["measured"] == used["memory_peak"] >= used["memory_before"]
    write_json(tmp_path / "run" / PLAN, list(rows.values()))
    (tmp_path / "run" / "metrics.jsonl").rename(tmp_path / "log")
    assert compare_with_plan(tmp_path / "run") == []
    (tmp_path / "log").rename(tmp_path / "run" / "metrics.jsonl")
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "Plan and run" in page and "seconds a step" in page
