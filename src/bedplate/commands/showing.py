"""Commands that show what there is: papers, show, show-batch, runs, diff."""

import argparse
import dataclasses
from pathlib import Path

from bedplate.commands.options import Command, program
from bedplate.errors import UserError

RUNS = Path("runs")


def papers(options: argparse.Namespace) -> int:
    """List every system of the canon, with its state."""
    from bedplate.console import print_table, save_json
    from bedplate.papers import PAPERS

    rows = [dataclasses.asdict(paper) for paper in PAPERS]
    print_table(rows, columns=("row", "system", "state"))
    working = sum(row["state"] == "working" for row in rows)
    print(f"{working} of {len(rows)} working")
    save_json(options.json, rows)
    return 0


def show(options: argparse.Namespace) -> int:
    """Sizes, parameters by part and memory of a published size, a run, a folder or a shipped checkpoint."""
    from bedplate.console import print_table, save_json
    from bedplate.show import describe_model

    description = describe_model(options.model)
    print_table(
        [{"setting": key, "value": str(value)} for key, value in description["config"].items()], title=options.model
    )
    print()
    print_table(description["parameters"])
    print()
    print_table(description["memory"])
    save_json(options.json, description)
    return 0


def show_batch(options: argparse.Namespace) -> int:
    """What a recipe feeds its model: ids, texts, targets and documents of a batch, and the policy at their ends."""
    from bedplate.console import print_table, save_json
    from bedplate.recipes.recipe import find_recipe, parse_overrides
    from bedplate.show import describe_batch

    if options.step < 0 or options.tokens < 1:
        raise UserError("there is no such batch", fix="give --step from 0 up and --tokens from 1 up")
    recipe = find_recipe(options.recipe, parse_overrides(options.settings))
    rows, policy = describe_batch(recipe, step=options.step, row=options.row)
    print_table(rows[: options.tokens], title=f"{recipe.name}, step {options.step}, window {options.row}")
    print(policy)
    save_json(options.json, {"rows": rows, "policy": policy})
    return 0


def runs(options: argparse.Namespace) -> int:
    """List the runs in a folder with their state and values, and the commands that go on with them."""
    from bedplate.console import print_runs, save_json
    from bedplate.train.runs import list_runs

    if options.folder != RUNS and not options.folder.is_dir():
        raise UserError(f"there is no folder {options.folder}", fix="name one that holds runs (default: runs)")
    rows = list_runs(options.folder)
    save_json(options.json, rows)
    if rows:
        print_runs(rows, options.folder, program=program())
    else:
        print(f"There are no runs in {options.folder}. {program()} train RECIPE makes one.")
    return 0


def diff(options: argparse.Namespace) -> int:
    """Name every difference between two runs, down to the first loss that is not equal; 1 when there is one."""
    from bedplate.console import print_comparison, save_json
    from bedplate.train.runs import compare_runs

    found = compare_runs(options.left, options.right)
    print_comparison(found)
    save_json(options.json, found)
    return int(not found["same"])


def register(command: Command) -> None:
    """Add these commands and their options."""
    command(papers, json=True)
    command(show, json=True).add_argument("model", help="gpt2, gpt2-medium, gpt2-large, gpt2-xl, a run or a folder")
    one = command(show_batch, json=True)
    one.add_argument("recipe")
    one.add_argument("settings", nargs="*", metavar="key=value")
    one.add_argument("--step", type=int, default=0, metavar="N", help="which batch (default: the first)")
    one.add_argument("--row", type=int, default=0, metavar="N", help="which window of the batch (default: the first)")
    one.add_argument("--tokens", type=int, default=24, metavar="N", help="how many tokens to print (default: 24)")
    one = command(runs, json=True)
    one.add_argument("folder", nargs="?", type=Path, default=RUNS, help="where to look, and below (default: runs)")
    one = command(diff, json=True)
    one.add_argument("left", type=Path, metavar="RUN", help="a run folder, or its run.json")
    one.add_argument("right", type=Path, metavar="RUN", help="another one")
