"""What commands share: types of options, and how the user called us."""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

# Adds a command by its function, whose name and docstring are those of the command; json=True: it takes --json FILE.
Command = Callable[..., argparse.ArgumentParser]


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
