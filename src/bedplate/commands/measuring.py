"""Commands that plan and measure: plan, bench, fertility."""

import argparse
from pathlib import Path
from typing import Any

from bedplate.commands.options import Command, above_zero, numbers, positive
from bedplate.errors import UserError, nearest


def plan(options: argparse.Namespace) -> int:
    """What training a published size or a recipe will take: memory by term, operations, time, messages, energy."""
    from bedplate.bench.devices import find_device
    from bedplate.bench.plan import Job, job_of
    from bedplate.bench.plan import plan as plan_job
    from bedplate.bench.shape import find_shape
    from bedplate.console import print_table, save_json, short
    from bedplate.recipes.recipe import find_recipe, list_recipes, parse_overrides

    device = find_device(options.device)
    names = ("gpus", "batch", "micro_batch", "length", "precision", "tensor", "pipeline", "tokens", "utilization")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    given |= {"checkpointing": options.checkpointing, "masters": options.masters, "strategy": options.parallel}
    if options.target in list_recipes():
        job = job_of(find_recipe(options.target, parse_overrides(options.settings)), device, **given)
    else:
        if options.settings:
            raise UserError(f"{options.target} has no settings", fix="use options such as --batch, or name a recipe")
        job = Job(shape=find_shape(options.target, others=list_recipes()), device=device, **given)
    result = plan_job(job)
    title = f"{options.target} on {job.gpus} x {device.name}, {job.precision}, {job.strategy}"
    for rows, name in ((result["memory"], title), (result["work"], "")):
        print_table([{key: short(value) for key, value in row.items()} for row in rows], title=name)
        print()
    print(f"{result['advice'][0].upper()}{result['advice'][1:]}.")
    save_json(options.json, result)
    return 0


def bench(options: argparse.Namespace) -> int:
    """Measure training, decoding or one model beside transformers: medians and ratios (above 1 = ours better).

    Sizes, precisions, batches, and for training strategies and ranks, may be lists such as gpt2,gpt2-medium.
    """
    from bedplate.bench.measure import table
    from bedplate.console import print_table, save_json
    from bedplate.models import published_sizes

    usual = "bert-base" if options.what == "model" else "gpt2"
    sizes = str(options.size or usual).split(",")
    for size in sizes:
        if size not in published_sizes():
            raise UserError(f"there is no size {size!r}", fix=nearest(size, published_sizes()))
    if options.what == "decode":
        rows = _bench_decoding(sizes, options)
    elif options.what == "model":
        rows = _bench_models(sizes, options)
    else:
        rows = _bench_training(sizes, options)
    result = table(rows)
    shown = ("name", "ours", "peer", "unit", "ratio", "peer name", "of bandwidth", "mfu", "efficiency")
    print_table([{key: row.get(key) for key in shown if any(key in row for row in rows)} for row in rows])
    print(", ".join(f"{key} {value}" for key, value in result.items() if key != "rows"))
    save_json(options.json, result)
    return 0


def _bench_decoding(sizes: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    from bedplate.bench.decode import run
    from bedplate.bench.plots import plot_decoding

    rows = [row for size in sizes for row in run(size=size, repeats=options.repeats)]
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        plot_decoding(rows, options.out / "decode.png")
        print(f"Plot: {(options.out / 'decode.png').resolve()}")
    return rows


def _bench_models(sizes: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    from bedplate.bench.model import Cell
    from bedplate.bench.model import bench as bench_model
    from bedplate.bench.retention import bench as bench_retention
    from bedplate.models import retnet

    cells = [
        Cell(size=size, precision=precision, batch=batch, length=options.length)
        for size in sizes
        if size not in retnet.SIZES
        for precision in options.precision.split(",")
        for batch in options.batch
    ]
    rows = [row for cell in cells for row in bench_model(cell, repeats=options.repeats)]
    alone = [size for size in sizes if size in retnet.SIZES]  # transformers has none of them
    return rows + [row for size in alone for row in bench_retention(size, repeats=options.repeats)]


def _bench_training(sizes: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    from bedplate.bench.plots import plot_training
    from bedplate.bench.train import cells, run, write_csv
    from bedplate.train.parallel import STRATEGIES
    from bedplate.train.precision import PRECISIONS

    precisions, strategies = options.precision.split(","), options.parallel.split(",")
    for known, words in ((PRECISIONS, precisions), (STRATEGIES, strategies)):
        for word in words:
            if word not in known:
                raise UserError(f"{word!r} is unknown", fix=nearest(word, known))
    extras = {"length": options.length, "checkpointing": options.checkpointing, "compile": options.compile}
    grid = cells(sizes, precisions, options.batch, strategies, options.ranks, **extras)
    rows = run(grid, repeats=options.repeats)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_csv(rows, options.out / "train.csv")
        plot_training(rows, options.out / "train.png")
        print(f"Table and plots: {options.out.resolve()}")
    return rows


def fertility(options: argparse.Namespace) -> int:
    """Tokens a word and a byte, and the share of unknown ones, of each tokenizer on each language of a folder."""
    from bedplate.console import print_table, save_json
    from bedplate.evaluate.fertility import compare, read_samples
    from bedplate.language_model import tokenizer_of

    rows = compare({name: tokenizer_of(name) for name in options.tokenizer}, read_samples(options.data))
    short_names = {name: Path(name).name for name in options.tokenizer}
    if len(set(short_names.values())) == len(short_names):
        shown = [row | {"tokenizer": short_names[row["tokenizer"]]} for row in rows]
    else:
        shown = rows
    print_table(shown, columns=("language", "tokenizer", "tokens a word", "tokens a byte", "unknown"))
    save_json(options.json, rows)
    return 0


def register(command: Command) -> None:
    """Add these commands and their options."""
    one = command(plan, json=True)
    one.add_argument("target", metavar="model", help="a size such as gpt2-xl, gpt3 or palm-540b, or a recipe")
    one.add_argument("settings", nargs="*", metavar="key=value", help="of the recipe")
    one.add_argument("--gpus", type=positive, metavar="N", help="devices (default: 1)")
    one.add_argument("--device", default="cpu", help="h200, h100, a100 ... or cpu: this machine (default)")
    one.add_argument("--batch", type=positive, metavar="N", help="sequences an update, over all devices")
    one.add_argument("--micro-batch", type=positive, metavar="N", help="sequences on a device at a time")
    one.add_argument("--length", type=positive, metavar="N", help="tokens a sequence (default: the context length)")
    one.add_argument("--precision", help="bf16 (default) or fp32")
    one.add_argument("--parallel", default="ddp", metavar="HOW", help="ddp (default), zero1, zero2, fsdp or tp")
    one.add_argument("--tensor", type=positive, metavar="N", help="devices that split every layer")
    one.add_argument("--pipeline", type=positive, metavar="N", help="devices that hold different blocks")
    one.add_argument("--checkpointing", action="store_true", help="compute activations again instead of keeping them")
    one.add_argument(
        "--masters", action="store_true", help="bf16 weights beside float32 masters, as Megatron keeps them"
    )
    one.add_argument("--tokens", type=above_zero, metavar="N", help="of the whole run, such as 300e9")
    one.add_argument(
        "--utilization", type=above_zero, metavar="X", help="share of the matrix rate reached (default: 0.4; a CPU 0.5)"
    )
    one = command(bench, json=True)
    one.add_argument(
        "what",
        choices=("train", "decode", "model"),
        metavar="benchmark",
        help="train; decode; model: a pass and a step of BERT, T5, BLOOM, without its biases too; RetNet's other forms",
    )
    one.add_argument("--size", help="published sizes (default: gpt2, of model bert-base)")
    one.add_argument("--repeats", type=positive, default=5, metavar="N", help="measurements of each side (default: 5)")
    one.add_argument("--precision", default="fp32,bf16", help="training (default: fp32,bf16)")
    one.add_argument(
        "--batch", type=numbers, default=[4], metavar="N,N", help="training: sequences a rank (default: 4)"
    )
    one.add_argument("--length", type=positive, default=256, metavar="N", help="training: tokens each (default: 256)")
    one.add_argument("--parallel", default="ddp", metavar="HOW,HOW", help="training on several ranks: ddp, fsdp, tp")
    one.add_argument("--ranks", type=numbers, default=[1], metavar="N,N", help="training: processes (default: 1)")
    one.add_argument("--checkpointing", action="store_true", help="training: compute activations again")
    one.add_argument("--compile", action="store_true", help="training: compile blocks, and the peer's model")
    one.add_argument("--out", type=Path, metavar="FOLDER", help="write plots here, for training a table too")
    one = command(fertility, json=True)
    one.add_argument("tokenizer", nargs="+", help="folders of vocabularies, runs, or shipped checkpoints")
    one.add_argument(
        "--data", type=Path, required=True, metavar="PATH", help="a file (.txt, .conllu, .conllu.xz) for each language"
    )
