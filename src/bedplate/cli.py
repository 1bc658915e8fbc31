"""The command line: one parser and one way to end. Nothing heavy is imported before a command runs; --help is quick."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from bedplate import __version__
from bedplate.commands import (
    auditing,
    chatting,
    evaluating,
    exporting,
    measuring,
    proving,
    serving,
    showing,
    training,
    using,
)
from bedplate.errors import UserError, nearest


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

    def command(function: Any, *, json: bool = False, **parser_options: Any) -> argparse.ArgumentParser:
        name, help_text = function.__name__.replace("_", "-"), function.__doc__
        added = commands.add_parser(name, help=help_text, description=help_text, **parser_options)
        added.set_defaults(function=function)
        if json:
            added.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")
        return added

    for module in (showing, training, using, chatting, serving, exporting, evaluating, auditing, proving, measuring):
        module.register(command)
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
