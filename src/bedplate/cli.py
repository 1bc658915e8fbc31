"""The command line. Nothing heavy is imported before a command runs, so that --help answers at once."""

import argparse
import dataclasses
import io
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from bedplate import __version__
from bedplate.errors import UserError, nearest

DEFAULT_MODEL = "gpt2-tiny"
RUNS = Path("runs")
PROMPTS = ("def read_text(self, encoding=None)\n", "The *key* argument", "Raises ValueError if")


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


def quickstart(options: argparse.Namespace) -> int:
    """Train GPT-2 on Python's documentation, verify it, let it write, and leave a report: about two minutes."""
    from bedplate.console import print_table
    from bedplate.files import write_json
    from bedplate.language_model import load
    from bedplate.recipes.recipe import find_recipe, folder_of, parse_overrides
    from bedplate.train.report import CONTRACTS, SAMPLES, write_report
    from bedplate.verify.contracts import verify

    recipe = find_recipe("gpt2.quickstart", parse_overrides(options.settings))
    folder = options.out or folder_of(recipe)
    print(f"1. Train {recipe.name} on {recipe.data.corpus} ({recipe.steps} steps, {recipe.precision}, in {folder})")
    if code := _train_new(recipe, folder):
        return code
    language_model = load(folder)
    print("\n2. Verify the trained model")
    rows = [dataclasses.asdict(row) for row in verify(language_model.model)]
    print_table(rows)
    print("\n3. Let it write (so small a model learns the look of a text, not its sense)")
    samples = [
        (prompt, language_model.generate(prompt, max_new_tokens=60, temperature=0.7, seed=1).text) for prompt in PROMPTS
    ]
    for prompt, text in samples:
        print(f"  {prompt.strip()} ...{text}".replace("\n", "\n  "), end="\n\n")
    write_json(folder / CONTRACTS, rows)
    write_json(folder / SAMPLES, samples)
    print(f"Report with pictures: {write_report(folder).resolve()}\n\nTry next:")
    print(f'  {_program()} generate "The open function" --model {folder}')
    print(f"  {_program()} reproduce gpt2")
    print(f"  {_program()} train gpt2.pydocs data.corpus=FILE_OR_FOLDER_OF_YOURS")
    return int(any(row["verdict"] == "fail" for row in rows))


def train(options: argparse.Namespace) -> int:
    """Train a recipe, with any setting changed by key=value; without a recipe, list them."""
    from bedplate.recipes.recipe import find_recipe, folder_of, list_recipes, parse_overrides, settings_of
    from bedplate.train.run import RECORD, read_run

    if options.resume:
        return _resume(options)
    overrides: dict[str, Any] = parse_overrides(options.settings)
    name = options.recipe
    if options.source:
        folder = options.source if options.source.is_dir() else options.source.parent
        record = read_run(folder)
        if name and "=" in name:
            overrides, name = parse_overrides([name]) | overrides, ""
        name, overrides = name or record["recipe"], record["settings"] | overrides
    if not name:
        for known, description in list_recipes().items():
            print(f"{known:20}{description}")
        print(f"\n{_program()} train RECIPE key=value ...; with --keys it shows the keys")
        return 0
    recipe = find_recipe(name, overrides)
    if options.keys:
        for key, value in settings_of(recipe).items():
            print(f"{key}={value}")
        return 0
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    folder = options.out or folder_of(recipe, last=restarted)
    if restarted and (folder / RECORD).exists():
        options.resume, options.recipe, options.settings = folder, None, []
        return _resume(options)
    print(f"{recipe.name}: {recipe.steps} steps, {recipe.precision}, on {recipe.data.corpus}, in {folder}")
    if code := _train_new(recipe, folder, **_execution(options)):
        return code
    print(f'Try: {_program()} generate "..." --model {folder}')
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
        print_runs(rows, options.folder, program=_program())
    else:
        print(f"There are no runs in {options.folder}. {_program()} train RECIPE makes one.")
    return 0


def diff(options: argparse.Namespace) -> int:
    """Name every difference between two runs, down to the first loss that is not equal; 1 when there is one."""
    from bedplate.console import print_comparison, save_json
    from bedplate.train.runs import compare_runs

    found = compare_runs(options.left, options.right)
    print_comparison(found)
    save_json(options.json, found)
    return int(not found["same"])


def generate(options: argparse.Namespace) -> int:
    """Continue a prompt with a trained model; one ships with bedplate."""
    from bedplate.language_model import load

    language_model = load(options.model)
    prompts = [sys.stdin.read() if prompt == "-" else prompt for prompt in options.prompts] or [PROMPTS[0]]
    for number, prompt in enumerate(prompts):
        pieces = language_model.stream(prompt, seed=options.seed + number, **_sampling(options))
        print("\n" * (number > 0) + prompt, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
    return 0


def chat(options: argparse.Namespace) -> int:
    """Continue what you type, line by line, until an empty line or Ctrl-D: plain completion."""
    from bedplate.language_model import load

    language_model = load(options.model)
    print(
        "Type the beginning of a text; an empty line ends. The model continues it (it has not been taught to answer)."
    )
    seed = options.seed
    sampling = _sampling(options)
    while prompt := _ask("> "):
        try:
            pieces = language_model.stream(prompt, seed=seed, **sampling)
        except UserError as error:  # such as a line longer than the context
            print(f"error: {error}")
            continue
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        seed += 1
    return 0


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
    """Measure training or decoding beside transformers, in one process: medians and ratios (above 1 = ours better).

    For training, sizes, precisions, batches, strategies and ranks may be lists such as gpt2,gpt2-medium.
    """
    from bedplate.bench.measure import table
    from bedplate.console import print_table, save_json
    from bedplate.models import published_sizes

    sizes = options.size.split(",")
    for size in sizes:
        if size not in published_sizes():
            raise UserError(f"there is no size {size!r}", fix=nearest(size, published_sizes()))
    if options.what == "decode":
        from bedplate.bench.decode import run

        rows = [row for size in sizes for row in run(size=size, repeats=options.repeats)]
    else:
        rows = _bench_training(sizes, options)
    result = table(rows)
    shown = ("name", "ours", "peer", "unit", "ratio", "mfu", "efficiency")
    print_table([{key: row.get(key) for key in shown if any(key in row for row in rows)} for row in rows])
    print(", ".join(f"{key} {value}" for key, value in result.items() if key != "rows"))
    save_json(options.json, result)
    return 0


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


def _train_new(recipe: Any, folder: Path, **execution: Any) -> int:
    from bedplate.console import training_progress
    from bedplate.recipes.run import start

    print("Reading and tokenizing the text ...", flush=True)
    with training_progress(recipe.steps) as watch:
        outcome = start(recipe, folder, watch=watch, **execution)
    return _after(outcome, folder)


def _resume(options: argparse.Namespace) -> int:
    from bedplate.console import training_progress
    from bedplate.recipes.recipe import find_recipe, parse_overrides
    from bedplate.recipes.run import resume
    from bedplate.train.checkpoint import list_checkpoints, newest_checkpoint
    from bedplate.train.run import read_run

    words = [options.recipe, *options.settings] if options.recipe else options.settings
    record = read_run(options.resume)
    found = list_checkpoints(options.resume)
    if found and (good := newest_checkpoint(options.resume)) != found[-1]:
        print(f"{found[-1].name} is damaged; going on from {good.name}")
    with training_progress(find_recipe(record["recipe"], record["settings"]).steps) as watch:
        settings = parse_overrides(words)
        outcome = resume(options.resume, watch=watch, settings=settings, **_execution(options))
    return _after(outcome, options.resume)


def _execution(options: argparse.Namespace) -> dict[str, Any]:
    """How a run is computed, which changes nothing that it learns."""
    from bedplate.train.parallel import Parallel

    if options.keep < 1:
        raise UserError(f"--keep {options.keep} keeps nothing", fix="give a number from 1 up")
    parallel = Parallel(
        strategy=options.parallel, offload=options.offload, checkpointing=options.checkpointing, compile=options.compile
    )
    track = [name for words in options.track for name in words.split(",") if name]
    return {"parallel": parallel, "keep": options.keep, "skip_spikes": options.skip_spikes, "track": track}


def _after(outcome: Any, folder: Path) -> int:
    from bedplate.bench.plan import compare_with_plan
    from bedplate.files import read_json, write_json
    from bedplate.train.report import PLAN, RESULT, write_report
    from bedplate.train.runs import resume_words

    if outcome.interrupted:
        words = shlex.join(resume_words(folder))
        print(f"Stopped after step {outcome.step}, saved. Go on with: {_program()} {words}")
        return 130
    if int(os.environ.get("RANK", "0")):
        return 0  # rank 0 tells
    held_out = read_json(folder / RESULT)["bits_per_byte"]
    write_json(folder / PLAN, compare_with_plan(folder))
    print(f"Trained {outcome.step} steps; all held-out text: {held_out:.3f} bits/byte. Report: {write_report(folder)}")
    return 0


def _program() -> str:
    """How the user called us, for commands to try next."""
    called = sys.argv[0]
    return called if Path(called).name == "bedplate" and called != shutil.which("bedplate") else "bedplate"


def _sampling(options: argparse.Namespace) -> dict[str, Any]:
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "stop", "truncate")
    return {name: getattr(options, name) for name in names}


def _ask(prompt: str) -> str:
    try:
        return input(prompt)
    except EOFError:
        return ""


def _positive(word: str) -> int:
    """A number from 1 up, for options that count."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def _numbers(words: str) -> list[int]:
    """Numbers from 1 up, with commas between."""
    return [_positive(word) for word in words.split(",")]


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors that suggest the nearest word."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, fix=f"see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise UserError(
                f"there is no {action.metavar or action.dest} {value!r}", fix=nearest(value, action.choices)
            )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bedplate", description="The foundation-model canon as working, fast, verified software.")
    parser.add_argument("--version", action="version", version=f"bedplate {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)

    def command(function: Any, *, json: bool = False) -> argparse.ArgumentParser:
        name, help_text = function.__name__.replace("_", "-"), function.__doc__
        added = commands.add_parser(name, help=help_text, description=help_text)
        added.set_defaults(function=function)
        if json:
            added.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")
        return added

    command(papers, json=True)
    one = command(quickstart)
    one.add_argument("settings", nargs="*", metavar="key=value")
    one.add_argument("--out", type=Path, metavar="FOLDER", help="run folder (default: runs/gpt2.quickstart)")
    one = command(train)
    one.add_argument("recipe", nargs="?", help="for instance gpt2.pydocs")
    one.add_argument("settings", nargs="*", metavar="key=value", help="for instance steps=200 optimizer.lr=1e-3")
    one.add_argument("--out", type=Path, metavar="FOLDER", help="run folder (default: runs/RECIPE)")
    one.add_argument("--resume", type=Path, metavar="RUN", help="go on with an interrupted run")
    one.add_argument("--from", dest="source", type=Path, metavar="RUN", help="repeat a run: its folder or run.json")
    one.add_argument("--keys", action="store_true", help="show the settings instead of training")
    one.add_argument("--parallel", default="ddp", metavar="HOW", help="under torchrun: ddp (default), fsdp or tp")
    one.add_argument("--offload", action="store_true", help="fsdp: parameters and moments wait in the CPU's memory")
    one.add_argument("--checkpointing", action="store_true", help="compute activations again instead of keeping them")
    one.add_argument("--compile", action="store_true", help="compile each block")
    one.add_argument("--keep", type=int, default=2, metavar="N", help="newest checkpoints to keep (default: 2)")
    one.add_argument("--skip-spikes", action="store_true", help="make no update from a batch whose loss stands out")
    one.add_argument(
        "--track", action="append", default=[], metavar="WHERE", help="also to wandb or mlflow; repeatable"
    )
    one = command(runs, json=True)
    one.add_argument("folder", nargs="?", type=Path, default=RUNS, help="where to look, and below (default: runs)")
    one = command(diff, json=True)
    one.add_argument("left", type=Path, metavar="RUN", help="a run folder, or its run.json")
    one.add_argument("right", type=Path, metavar="RUN", help="another one")
    for function in (generate, chat):
        one = command(function)
        if function is generate:
            one.add_argument("prompts", nargs="*", metavar="prompt", help="text(s) to continue; - reads standard input")
        one.add_argument(
            "--model", default=DEFAULT_MODEL, help=f"run, folder, shipped name or hub id ({DEFAULT_MODEL})"
        )
        default = "(default: %(default)s)"
        one.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help=default)
        one.add_argument("--temperature", type=float, default=0.7, metavar="T", help=f"0 = likeliest token {default}")
        one.add_argument("--top-k", type=int, default=0, metavar="K", help="keep the K likeliest tokens (default: all)")
        one.add_argument(
            "--top-p", type=float, default=1.0, metavar="P", help="keep the likeliest that reach P together"
        )
        one.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1 repeats less")
        one.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
        one.add_argument("--truncate", action="store_true", help="drop the beginning of a prompt that is too long")
        one.add_argument("--seed", type=int, default=0, metavar="N", help=default)
    one = command(verify, json=True)
    one.add_argument("target", nargs="?", default="gpt2", help="gpt2 (default), a run, a folder, or gpt2-tiny")
    one.add_argument("--kill", type=_positive, metavar="N", nargs="?", const=20, help="kill a training process N times")
    one = command(reproduce, json=True)
    one.add_argument("paper", help="gpt2")
    one.add_argument("--scale", default="smoke", help="smoke (seconds, default) or small (minutes)")
    one.add_argument("--out", type=Path, metavar="FOLDER")
    command(show, json=True).add_argument("model", help="gpt2, gpt2-medium, gpt2-large, gpt2-xl, a run or a folder")
    one = command(show_batch, json=True)
    one.add_argument("recipe")
    one.add_argument("settings", nargs="*", metavar="key=value")
    one.add_argument("--step", type=int, default=0, metavar="N", help="which batch (default: the first)")
    one.add_argument("--row", type=int, default=0, metavar="N", help="which window of the batch (default: the first)")
    one.add_argument("--tokens", type=int, default=24, metavar="N", help="how many tokens to print (default: 24)")
    one = command(plan, json=True)
    one.add_argument("target", metavar="model", help="gpt2 ... gpt2-xl, gpt3-small ... gpt3, bloom, palm, or a recipe")
    one.add_argument("settings", nargs="*", metavar="key=value", help="of the recipe")
    one.add_argument("--gpus", type=_positive, metavar="N", help="devices (default: 1)")
    one.add_argument("--device", default="cpu", help="h200, h100, a100 ... or cpu: this machine (default)")
    one.add_argument("--batch", type=_positive, metavar="N", help="sequences an update, over all devices")
    one.add_argument("--micro-batch", type=_positive, metavar="N", help="sequences on a device at a time")
    one.add_argument("--length", type=_positive, metavar="N", help="tokens a sequence (default: the context length)")
    one.add_argument("--precision", help="bf16 (default) or fp32")
    one.add_argument("--parallel", default="ddp", metavar="HOW", help="ddp (default), zero1, zero2, fsdp or tp")
    one.add_argument("--tensor", type=_positive, metavar="N", help="devices that split every layer")
    one.add_argument("--pipeline", type=_positive, metavar="N", help="devices that hold different blocks")
    one.add_argument("--checkpointing", action="store_true", help="compute activations again instead of keeping them")
    one.add_argument(
        "--masters", action="store_true", help="bf16 weights beside float32 masters, as Megatron keeps them"
    )
    one.add_argument("--tokens", type=float, metavar="N", help="of the whole run, such as 300e9")
    one.add_argument("--utilization", type=float, metavar="X", help="share of the matrix rate reached (default: 0.4)")
    one = command(bench, json=True)
    one.add_argument("what", choices=("train", "decode"), metavar="benchmark", help="train or decode")
    one.add_argument("--size", default="gpt2", help="published sizes (default: gpt2)")
    one.add_argument("--repeats", type=_positive, default=5, metavar="N", help="measurements of each side (default: 5)")
    one.add_argument("--precision", default="fp32,bf16", help="training (default: fp32,bf16)")
    one.add_argument(
        "--batch", type=_numbers, default=[4], metavar="N,N", help="training: sequences a rank (default: 4)"
    )
    one.add_argument("--length", type=_positive, default=256, metavar="N", help="training: tokens each (default: 256)")
    one.add_argument("--parallel", default="ddp", metavar="HOW,HOW", help="training on several ranks: ddp, fsdp, tp")
    one.add_argument("--ranks", type=_numbers, default=[1], metavar="N,N", help="training: processes (default: 1)")
    one.add_argument("--checkpointing", action="store_true", help="training: compute activations again")
    one.add_argument("--compile", action="store_true", help="training: compile blocks, and the peer's model")
    one.add_argument("--out", type=Path, metavar="FOLDER", help="training: write train.csv and train.png here")
    return parser


def _job() -> AbstractContextManager[object]:
    """The job of several processes that this one belongs to, if it does."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return nullcontext()
    from bedplate.train.ranks import joined

    return joined()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if hasattr(options, "settings"):  # argparse takes words in one place only
        options.settings = [*options.settings, *(word for word in unknown if "=" in word and word[0] != "-")]
        unknown = [word for word in unknown if word not in options.settings]
    if unknown:
        name = options.function.__name__.replace("_", "-")
        raise UserError(f"bedplate {name} does not take {unknown[0]!r}", fix=f"see bedplate {name} --help")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for a red table, 2 for bad input, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no error
    rank = int(os.environ.get("RANK", "0"))
    if rank > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends; rank 0 speaks for all
    try:
        options = _parse(arguments)
        with _job():
            return options.function(options)
    except UserError as error:
        print(f"rank {rank}: " * (rank > 0) + f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left; nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place, reason = error.filename or "a file", error.strerror or error
        print(
            f"error: cannot read or write {place} ({reason}); check the path, its permissions and the space there",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
