"""Functions of Python's standard library with labels that their syntax decides, the deciding words taken out."""

import ast
import io
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from bedplate.data.python_library import read_stdlib
from bedplate.data.text import is_held_out

LOOPS = {"for", "while", "break", "continue", "in", "else"}
LINES = (4, 20)  # of a function


@dataclass(frozen=True, kw_only=True)
class Function:
    """The text of one function, and whether it contains a loop."""

    text: str
    loops: bool
    held_out: bool  # decided by the file that it is from


def read_functions() -> Iterator[Function]:
    """Functions of a few lines, in the order of the sources. Comprehensions are no loops, but their words are taken
    out, too, and so are comments and strings, which would tell.
    """
    for name, source in read_stdlib(Counter()):
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source)
        lines = source.splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                body = lines[node.lineno - 1 : node.end_lineno]
                if LINES[0] <= len(body) <= LINES[1] and (text := _without_tells(body)):
                    loops = any(isinstance(child, ast.For | ast.While) for child in ast.walk(node))
                    yield Function(text=text, loops=loops, held_out=is_held_out(name))


def _without_tells(lines: list[str]) -> str:
    """The words of a function with single spaces between them; empty where it cannot be read by itself."""
    words = []
    try:
        for token in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
            if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER) and token.string not in LOOPS:
                words.append(token.string)
    except (tokenize.TokenError, IndentationError):
        return ""
    return " ".join(words)
