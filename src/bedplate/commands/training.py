"""Commands that train: quickstart, train."""

import argparse
import dataclasses
import os
import shlex
from pathlib import Path
from typing import Any

from bedplate.commands.options import Command, program
from bedplate.errors import UserError

# What a quickstart lets its model go on from.
PROMPTS = (
    "def read_text(self, encoding=None)\n",
    "The *key* argument",
    "Raises ValueError if",
)


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
    print(f"1. Train {recipe.name} on {recipe.data.title} ({recipe.steps} steps, {recipe.precision}, in {folder})")
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
    print(f'  {program()} generate "The open function" --model {folder}')
    print(f"  {program()} reproduce gpt2")
    print(f"  {program()} train gpt2.pydocs data.corpus=FILE_OR_FOLDER_OF_YOURS")
    return int(any(row["verdict"] == "fail" for row in rows))


def train(options: argparse.Namespace) -> int:
    """Train a recipe, with any setting changed by key=value; without a recipe, list them."""
    from bedplate.recipes.recipe import find_recipe, folder_of, list_recipes, parse_overrides, settings_of
    from bedplate.train.run import RECORD, read_run

    if options.resume:
        for given, word in ((options.source, "--from"), (options.out, "--out")):
            if given:
                fix = f"leave {word} out: a run goes on in its own folder"
                raise UserError(f"--resume and {word} do not go together", fix=fix)
        return _resume(options)
    words, name = options.settings, options.recipe
    if name and "=" in name:
        words, name = [name, *words], ""
    overrides: dict[str, Any] = parse_overrides(words)
    if options.source:
        record = read_run(options.source.parent if options.source.is_file() else options.source)
        if name and name != record["recipe"]:
            cause = f"{options.source} is a run of {record['recipe']}, not of {name}"
            raise UserError(cause, fix="leave the recipe out, or leave --from out")
        name, overrides = record["recipe"], record["settings"] | overrides
        options.skip_spikes = options.skip_spikes or record.get("skip_spikes", False)
    if not name:
        for known, description in list_recipes().items():
            print(f"{known:20}{description}")
        print(f"\n{program()} train RECIPE key=value ...; with --keys it shows the keys")
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
    print(f"{recipe.name}: {recipe.steps} steps, {recipe.precision}, on {recipe.data.title}, in {folder}")
    if code := _train_new(recipe, folder, **_execution(options)):
        return code
    print(f'Try: {program()} {getattr(recipe.data, "used_by", "generate")} "..." --model {folder}')
    return 0


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
    from bedplate.train.run import METRICS, log_is_gone, read_run

    words = [options.recipe, *options.settings] if options.recipe else options.settings
    record = read_run(options.resume)
    found = list_checkpoints(options.resume)
    if log_is_gone(options.resume):
        print(f"The log of the steps so far is gone ({options.resume / METRICS}); it begins anew")
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
    from bedplate.bench.predicted import compare_with_plan
    from bedplate.files import read_json, write_json
    from bedplate.train.report import PLAN, RESULT, write_report
    from bedplate.train.runs import resume_words

    if outcome.interrupted:
        words = shlex.join(resume_words(folder))
        print(f"Stopped after step {outcome.step}, saved. Go on with: {program()} {words}")
        return 130
    if int(os.environ.get("RANK", "0")):
        return 0  # rank 0 tells
    result = read_json(folder / RESULT)
    write_json(folder / PLAN, compare_with_plan(folder))
    words = {"bits_per_byte": "{:.3f} bits/byte", "bleu": "{:.1f} BLEU", "accuracy": "{:.1%} right"}
    words |= {"masked_accuracy": "{:.1%} of hidden tokens guessed", "next_sentence_accuracy": "{:.1%} of second spans"}
    measured = ", ".join(form.format(result[name]) for name, form in words.items() if name in result)
    print(f"Trained {outcome.step} steps; all held-out text: {measured}. Report: {write_report(folder)}")
    return 0


def register(command: Command) -> None:
    """Add these commands and their options."""
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
