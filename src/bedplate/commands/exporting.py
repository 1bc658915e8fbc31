"""Commands that let other programs use our models: export, average, lm-eval."""

import argparse
from pathlib import Path

from bedplate.commands.options import Command, positive, program
from bedplate.errors import UserError


def export(options: argparse.Namespace) -> int:
    """Write a model as other programs open it, with golden prompts that tell whether they compute the same."""
    from bedplate.export import export as export_folder

    for path in export_folder(options.target, options.folder, format=options.format, dtype=options.dtype):
        print(f"{path.stat().st_size:>14,} bytes  {path}")
    print(f"Try, once a server has it open: {program()} diff {options.folder} http://localhost:8000")
    return 0


def average(options: argparse.Namespace) -> int:
    """Write a model whose weights are the mean of a run's last checkpoints (kept by train --keep N)."""
    from bedplate.language_model import LanguageModel
    from bedplate.recipes.run import load_run
    from bedplate.train.average import mean_of_checkpoints
    from bedplate.train.checkpoint import list_checkpoints

    model, tokenizer = load_run(options.run)
    checkpoints = list_checkpoints(options.run)[-options.last :]
    if len(checkpoints) < options.last:
        cause = f"{options.run} holds {len(checkpoints)} checkpoint(s), not {options.last}"
        raise UserError(cause, fix=f"train with --keep {options.last}, or average fewer with --last {len(checkpoints)}")
    mean_of_checkpoints(checkpoints, model)
    LanguageModel(model, tokenizer).save(options.folder)
    steps = ", ".join(checkpoint.name.removeprefix("step-").lstrip("0") for checkpoint in checkpoints)
    print(f"The mean of steps {steps}: {options.folder}")
    return 0


def lm_eval(options: argparse.Namespace) -> int:
    """EleutherAI's lm-evaluation-harness with our models: --model bedplate --model_args target=MODEL --tasks ..."""
    from bedplate.evaluate.harness import run
    from bedplate.language_model import load

    run(options.words, load)
    return 0


def register(command: Command) -> None:
    """Add these commands and their options."""
    one = command(export)
    one.add_argument("target", help="run, folder, shipped name (gpt2-tiny) or hub id")
    one.add_argument("folder", type=Path, help="where to write; an earlier export there is replaced")
    one.add_argument("--format", default="hf", metavar="NAME", help="hf (transformers, vLLM; the default) or gguf")
    formats = "float32 (default), bfloat16, float16, and for gguf q8_0 and q4_0"
    one.add_argument("--dtype", default="float32", metavar="NAME", help=formats)
    one = command(average)
    one.add_argument("run", type=Path, help="a run folder")
    one.add_argument("folder", type=Path, help="where to write")
    one.add_argument("--last", type=positive, default=5, metavar="N", help="checkpoints (default: 5)")
    one = command(lm_eval, prefix_chars="\0", add_help=False)  # every word is lm-eval's, those with dashes too
    one.add_argument("words", nargs=argparse.REMAINDER)
