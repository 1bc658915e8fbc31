"""Mistakes that a user can mend: one line with the cause and the fix, never a traceback."""

import difflib
import functools
import importlib
from collections.abc import Iterable
from types import ModuleType, NoneType
from typing import Any, get_args, get_origin


class UserError(Exception):
    """Bad input. The command line prints `error: cause; fix` and exits with code 2."""

    def __init__(self, cause: str, *, fix: str) -> None:
        super().__init__(f"{cause}; {fix}")
        self.cause = cause
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(UserError, self.cause, fix=self.fix), ()  # sent between processes


LISTED = 8
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def nearest(word: str, words: Iterable[str]) -> str:
    """A fix for an unknown word: `did you mean 'x'?`, or what there is when nothing is close."""
    known = sorted(words)
    parts = [path for path in known if word == path.rpartition(".")[2]]  # `lr` for `optimizer.lr`
    if close := parts or difflib.get_close_matches(word, known, n=1, cutoff=0.5):
        return f"did you mean {close[0]!r}?"
    return f"choose from: {', '.join(known[:LISTED])}" + (", ..." if len(known) > LISTED else "")


def kind_in_words(kind: Any) -> str:
    """The type of a setting as a user would say it."""
    if get_origin(kind) is tuple:
        return f"{len(get_args(kind))} numbers"
    return " or ".join("none" if part is NoneType else KINDS[part] for part in get_args(kind) or (kind,))


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional library, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this needs the library {module}", fix=f'pip install "bedplate[{extra}]"') from error
