"""Commands that show what there is: papers, show, show-batch, explain, runs, diff."""

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


def explain(options: argparse.Namespace) -> int:
    """What an attention head of a model computes for a text: queries, keys, scores, softmax and sums, and a picture."""
    from bedplate.console import print_table, save_json
    from bedplate.evaluate.attention import draw, explain_head
    from bedplate.language_model import load

    opened = load(options.model)
    head = explain_head(opened.model, opened.tokenizer, options.text, layer=options.layer, head=options.head)
    last = len(head.tokens) - 1
    place = last if options.token is None else options.token
    if not 0 <= place <= last:
        raise UserError(f"there is no token {place}", fix=f"choose --token from 0 to {last}")
    title, query, rows = (
        f"{options.model}, layer {options.layer}, head {options.head}",
        head.query[place],
        head.row(place),
    )
    print(f"{title}: what token {place}, {head.tokens[place]!r}, sees with the query {_begin(query.tolist())}\n")
    print_table([row | {"key": _begin(row["key"]), "value": _begin(row["value"])} for row in rows])
    print(f"\nThe sums are the layer's own output for this head, to {head.error:.0e} of its largest number.")
    if options.out:
        draw(head, options.out, title=title)
        print(f"Picture: {options.out}")
    record = {"rows": rows, "query": query.tolist(), "weights": head.weights.tolist(), "error": head.error}
    save_json(options.json, record)
    return 0


def _begin(numbers: list[float]) -> str:
    """The first four."""
    return " ".join(f"{number:.2f}" for number in numbers[:4]) + (" ..." if len(numbers) > 4 else "")


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
    """Where two runs differ, down to the first loss; or a server and a model, and why; or two systems, such as gpt1 and
    gpt2, in code and settings; 1 if they do.
    """
    from bedplate.console import print_comparison, save_json
    from bedplate.evaluate.systems import systems
    from bedplate.train.runs import compare_runs

    if options.right.startswith(("http://", "https://")):
        return _diff_server(options)
    if options.served or options.key:
        raise UserError("--served and --key are for servers", fix="give the URL of one, such as http://localhost:8000")
    if not Path(options.left).exists() and {options.left, options.right} <= set(systems()):
        return _diff_systems(options)
    found = compare_runs(Path(options.left), Path(options.right))
    print_comparison(found)
    save_json(options.json, found)
    return int(not found["same"])


def _diff_systems(options: argparse.Namespace) -> int:
    """What the model file and the settings of one system change in those of another."""
    from bedplate.console import print_table, save_json
    from bedplate.evaluate.systems import compare_systems

    found = compare_systems(options.left, options.right)
    print("\n".join(found["code"]))
    if found["fields"]:
        print()
        print_table(found["fields"], title="Settings and their defaults, where they differ")
    save_json(options.json, found)
    return int(bool(found["code"]))


def _diff_server(options: argparse.Namespace) -> int:
    """The golden prompts of an export, or those that a model answers now, replayed against a server."""
    from bedplate.console import print_table, save_json
    from bedplate.evaluate.golden import FILE, golden_prompts, read_golden
    from bedplate.evaluate.replay import in_words, replay
    from bedplate.evaluate.server import CompletionServer
    from bedplate.language_model import load

    key = (options.key.read_text(encoding="utf-8").split() or [""])[0] if options.key else ""
    server = CompletionServer(options.right, model=options.served, key=key)
    path = Path(options.left) / FILE
    golden = read_golden(path) if path.exists() else golden_prompts(load(options.left))
    found = replay(golden, server)
    columns = ("prompt", "verdict", "cause", "equal_tokens", "largest")
    title = f"{options.left} ({golden.receipt['dtype']}) and {server.model} at {server.url}"
    print_table(found["prompts"], title=title, columns=columns)
    print("\n" + "\n".join(in_words(found)))
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
    one = command(explain, json=True)
    one.add_argument("what", choices=("attention",))
    one.add_argument("model", help="a run, a folder, a shipped name or hub id")
    one.add_argument("text")
    one.add_argument("--layer", type=int, default=0, metavar="L", help="from 0 (default)")
    one.add_argument("--head", type=int, default=0, metavar="H", help="from 0 (default)")
    one.add_argument("--token", type=int, metavar="N", help="whose row is printed (default: the last)")
    one.add_argument("--out", type=Path, metavar="FILE", help="draw the weights of all tokens here (PNG)")
    one = command(runs, json=True)
    one.add_argument("folder", nargs="?", type=Path, default=RUNS, help="where to look, and below (default: runs)")
    one = command(diff, json=True)
    one.add_argument(
        "left",
        metavar="RUN",
        help="a run folder, or its run.json; for a server any model, or an export; or a system such as gpt1",
    )
    one.add_argument(
        "right",
        metavar="RUN_OR_URL",
        help="another run, an OpenAI-style server (http://localhost:8000), or another system",
    )
    one.add_argument("--key", type=Path, metavar="FILE", help="begins with the key that the server asks for")
    one.add_argument("--served", metavar="NAME", help="the server's name of the model (default: the first it lists)")
