"""Mistakes that a user can mend: one line with the cause and the fix, never a traceback."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class UserError(Exception):
    """Bad input. The command line prints `error: cause; fix` and exits with code 2."""

    def __init__(self, cause: str, *, fix: str) -> None:
        super().__init__(f"{cause}; {fix}")
        self.cause = cause
        self.fix = fix


def nearest(word: str, words: Iterable[str]) -> str:
    """A suggestion to append to a fix: `, did you mean 'x'?`, or the whole list when nothing is close."""
    known = sorted(words)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose from: {', '.join(known)}"


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional library, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this needs the library {module}", fix=f'pip install "bedplate[{extra}]"') from error
