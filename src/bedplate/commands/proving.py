"""Commands that prove: verify, reproduce."""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

from bedplate.commands.options import Command, positive
from bedplate.errors import UserError, nearest


def verify(options: argparse.Namespace) -> int:
    """Measure the numeric contracts on a model name, a run, a folder or a shipped checkpoint; 1 when one fails."""
    from bedplate.console import print_table, save_json
    from bedplate.verify.contracts import verify as verify_model
    from bedplate.verify.kill import verify_kills
    from bedplate.verify.target import find_target

    if options.kill:
        rows = [dataclasses.asdict(verify_kills(options.kill, watch=print))]
        print_table(rows, title="Training that is killed")
    else:
        model, description = find_target(options.target)
        rows = [dataclasses.asdict(row) for row in verify_model(model)]
        print_table(rows, title=f"Contracts of {description}")
    save_json(options.json, rows)
    return int(any(row["verdict"] == "fail" for row in rows))


def reproduce(options: argparse.Namespace) -> int:
    """Try a paper's claim on this machine, or all of them; exit code 1 when one does not hold."""
    from bedplate.console import print_table, save_json
    from bedplate.experiments.experiment import find_experiment, list_experiments

    if (options.paper is None) != options.all:
        raise UserError("name a paper, or give --all", fix=f"choose from: {', '.join(list_experiments())}")
    if options.out and options.all:
        raise UserError("--out is for one paper", fix="leave it out: each gets a folder in runs")
    if not options.all:
        record = _reproduced(options.paper, options.scale, options.out)
        save_json(options.json, record)
        return int(not record["holds"])
    papers = [name for name in list_experiments() if options.scale in find_experiment(name).SCALES]
    if not papers:
        raise UserError(f"no experiment has a scale {options.scale!r}", fix="use smoke or small")
    records = {}
    for paper in papers:
        started = time.perf_counter()
        records[paper] = _reproduced(paper, options.scale, None) | {"seconds": time.perf_counter() - started}
        print()
    words = {True: "holds", False: "does NOT hold"}
    rows = [
        {"paper": name, "claim": words[each["holds"]], "seconds": each["seconds"]} for name, each in records.items()
    ]
    print_table(rows, title=f"Claims at scale {options.scale}")
    save_json(options.json, records)
    return int(not all(each["holds"] for each in records.values()))


def _reproduced(paper: str, scale: str, out: Path | None) -> dict[str, Any]:
    """Claim, result and verdict, which are printed, written and drawn."""
    from bedplate.console import save_json
    from bedplate.experiments.experiment import find_experiment

    experiment = find_experiment(paper)
    if scale not in experiment.SCALES:
        raise UserError(f"there is no scale {scale!r}", fix=nearest(scale, experiment.SCALES))
    print(f"Claim: {experiment.CLAIM}")
    result = experiment.run(scale, watch=print)
    verdict = experiment.check(result)
    folder = out or Path("runs") / f"reproduce-{paper}-{scale}"
    folder.mkdir(parents=True, exist_ok=True)
    experiment.plot(result, folder / "plot.png")
    record = {"claim": experiment.CLAIM, "result": dataclasses.asdict(result), **dataclasses.asdict(verdict)}
    save_json(folder / "result.json", record)
    print(verdict.sentence)
    print(f"The claim {'holds' if verdict.holds else 'does NOT hold'} at scale {scale}.")
    print(f"Plot: {(folder / 'plot.png').resolve()}")
    return record


def register(command: Command) -> None:
    """Add these commands and their options."""
    one = command(verify, json=True)
    one.add_argument(
        "target", nargs="?", default="gpt2", help="gpt2 (default), marian ..., a run, a folder, or gpt2-tiny"
    )
    one.add_argument("--kill", type=positive, metavar="N", nargs="?", const=20, help="kill a training process N times")
    one = command(reproduce, json=True)
    one.add_argument("paper", nargs="?", help="for instance gpt2")
    one.add_argument("--all", action="store_true", help="every paper that has the scale")
    one.add_argument("--scale", default="smoke", help="smoke (seconds, default) or small (minutes)")
    one.add_argument("--out", type=Path, metavar="FOLDER")
