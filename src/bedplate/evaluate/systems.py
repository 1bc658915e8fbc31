"""What one system changes in another: the difference of two model files without docstrings, and of their Configs."""

import ast
import dataclasses
import difflib
from pathlib import Path
from typing import Any

from bedplate import models
from bedplate.errors import UserError, nearest

HERE = Path(models.__file__).parent
ABSENT = "-"


def systems() -> list[str]:
    """Those with a model file, by its name."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem != "__init__")


def compare_systems(left: str, right: str) -> dict[str, Any]:
    """`fields`: name, type and default on either side, where they differ; `code`: a unified diff, as lines."""
    for name in (left, right):
        if name not in systems():
            raise UserError(f"there is no system {name!r}", fix=nearest(name, systems()))
    files = [code_of(HERE / f"{name}.py") for name in (left, right)]
    code = difflib.unified_diff(*files, fromfile=f"models/{left}.py", tofile=f"models/{right}.py", lineterm="")
    return {"left": left, "right": right, "fields": _fields(left, right), "code": list(code)}


def code_of(path: Path) -> list[str]:
    """The lines of a file without docstrings, and without the blank lines that these leave."""
    text = path.read_text(encoding="utf-8")
    dropped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            first = node.body[0]
            dropped |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines = [line for number, line in enumerate(text.splitlines(), start=1) if number not in dropped]
    return [line for place, line in enumerate(lines) if line.strip() or (place and lines[place - 1].strip())]


def _fields(left: str, right: str) -> list[dict[str, str]]:
    mine, theirs = (_defaults(models.config_of(name)) for name in (left, right))
    names = [*mine, *(name for name in theirs if name not in mine)]
    rows = [{"field": name, left: mine.get(name, ABSENT), right: theirs.get(name, ABSENT)} for name in names]
    return [row for row in rows if row[left] != row[right]]


def _defaults(config: type) -> dict[str, str]:
    """Every field with its default, as it would be written."""
    return {
        field.name: "required" if field.default is dataclasses.MISSING else repr(field.default)
        for field in dataclasses.fields(config)
    }
