"""Commands that prove: verify, reproduce."""

import argparse
import dataclasses
from pathlib import Path

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
    """Try a paper's claim on this machine; exit code 1 when it does not hold."""
    from bedplate.console import save_json
    from bedplate.experiments.experiment import find_experiment

    experiment = find_experiment(options.paper)
    if options.scale not in experiment.SCALES:
        raise UserError(f"there is no scale {options.scale!r}", fix=nearest(options.scale, experiment.SCALES))
    print(f"Claim: {experiment.CLAIM}")
    result = experiment.run(options.scale, watch=print)
    verdict = experiment.check(result)
    folder = options.out or Path("runs") / f"reproduce-{options.paper}-{options.scale}"
    folder.mkdir(parents=True, exist_ok=True)
    experiment.plot(result, folder / "plot.png")
    record = {"claim": experiment.CLAIM, "result": dataclasses.asdict(result), **dataclasses.asdict(verdict)}
    save_json(folder / "result.json", record)
    save_json(options.json, record)
    print(verdict.sentence)
    print(f"The claim {'holds' if verdict.holds else 'does NOT hold'} at scale {options.scale}.")
    print(f"Plot: {(folder / 'plot.png').resolve()}")
    return int(not verdict.holds)


def register(command: Command) -> None:
    """Add these commands and their options."""
    one = command(verify, json=True)
    one.add_argument(
        "target", nargs="?", default="gpt2", help="gpt2 (default), marian ..., a run, a folder, or gpt2-tiny"
    )
    one.add_argument("--kill", type=positive, metavar="N", nargs="?", const=20, help="kill a training process N times")
    one = command(reproduce, json=True)
    one.add_argument("paper", help="for instance gpt2")
    one.add_argument("--scale", default="smoke", help="smoke (seconds, default) or small (minutes)")
    one.add_argument("--out", type=Path, metavar="FOLDER")
