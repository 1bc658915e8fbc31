"""What was predicted for a run, beside what was measured."""

import statistics
from pathlib import Path
from typing import Any

import torch

from bedplate.bench.devices import CPU_UTILIZATION, GPU_UTILIZATION, Device, matrix_rate
from bedplate.bench.plan import job_of, memory, mfu, seconds_of_update
from bedplate.bench.shape import plannable
from bedplate.files import read_json
from bedplate.recipes.recipe import find_recipe
from bedplate.train.report import USAGE
from bedplate.train.run import read_metrics, read_run


def compare_with_plan(folder: Path) -> list[dict[str, Any]]:
    """What was predicted for a finished run and what was measured, as rows for its report.

    Time is predicted from the rate at which this machine multiplies matrices, measured now, and from the share of it
    that a device usually reaches; memory from what the process held before it built the model.
    """
    record, used, log = read_run(folder), read_json(folder / USAGE), read_metrics(folder)
    recipe = find_recipe(record["recipe"], record["settings"])
    if not log or not plannable(recipe.model):  # somebody removed it
        return []
    where = "cuda" if torch.cuda.is_available() else "cpu"
    rate = matrix_rate(recipe.precision, device=where)
    device = Device(
        name=where, memory=0.0, rates={recipe.precision: rate}, process=used["memory_before"],
        utilization=CPU_UTILIZATION if where == "cpu" else GPU_UTILIZATION,
    )  # fmt: skip
    job = job_of(recipe, device, **used["execution"])
    seconds = statistics.median(line["seconds"] for line in log)
    planned, tokens = seconds_of_update(job), job.batch * job.window
    rows: list[tuple[str, float, float]] = [
        ("memory at most, GB a process", memory(job)["peak"], used["memory_peak"]),
        ("seconds a step", planned, seconds),
        ("tokens a second", tokens / planned, tokens / seconds),
        ("model FLOPs utilization, %", 100 * mfu(job, planned), 100 * mfu(job, seconds)),
    ]
    return [{"what": name, "predicted": predicted, "measured": measured} for name, predicted, measured in rows]
