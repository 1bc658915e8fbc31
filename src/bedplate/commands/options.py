"""What commands share: types of options, and how the user called us."""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Adds a command by its function, whose name and docstring are those of the command; json=True: it takes --json FILE.
Command = Callable[..., argparse.ArgumentParser]

DEFAULT_MODEL = "gpt2-tiny"


def positive(word: str) -> int:
    """A number from 1 up, for options that count."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def above_zero(word: str) -> float:
    """A number above 0, for options whose 0 means nothing."""
    number = float(word)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{word} is not above 0")
    return number


def numbers(words: str) -> list[int]:
    """Numbers from 1 up, with commas between."""
    return [positive(word) for word in words.split(",")]


def program() -> str:
    """How the user called us, for commands to try next."""
    called = sys.argv[0]
    return called if Path(called).name == "bedplate" and called != shutil.which("bedplate") else "bedplate"


def add_generation(parser: argparse.ArgumentParser) -> None:
    """The model that writes, and how it chooses tokens."""
    default = "(default: %(default)s)"
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"run, folder, shipped name or hub id ({DEFAULT_MODEL})")
    add_weights(parser)
    parser.add_argument("--max-new-tokens", type=positive, default=100, metavar="N", help=default)
    parser.add_argument("--temperature", type=float, default=0.7, metavar="T", help=f"0 = likeliest token {default}")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="keep the K likeliest tokens (default: all)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="the likeliest that reach P together")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1 repeats less")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=default)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """In how many bits weights are held."""
    text = "hold weights in bf16, int8 or int4: smaller and faster; what it costs is measured and printed"
    parser.add_argument("--weights", choices=("bf16", "int8", "int4"), metavar="KIND", help=text)


def open_model(target: str, weights: str | None, **options: Any) -> Any:
    """The model, quantized when asked, with a line on standard error about what that cost."""
    from bedplate.language_model import load

    language_model = load(target, **options)
    if weights:
        print(f"{target}: {language_model.quantize(weights)}", file=sys.stderr)
    return language_model


def generation_of(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_generation` asked, but for the model and the seed."""
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "stop")
    return {name: getattr(options, name) for name in names}
