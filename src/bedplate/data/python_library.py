"""Text that every Python brings along: documentation topics, docstrings and sources of its standard library."""

import ast
import importlib.util
import os
import sys
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

EXCLUDED = {"test", "tests", "idlelib", "lib2to3", "pydoc_data", "__pycache__", "site-packages"}
PACKAGES = ("asyncio", "email", "importlib", "multiprocessing", "unittest")  # enough text on both sides of a split
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Holder = ast.If | ast.Try | ast.ExceptHandler | ast.With | ast.For | ast.While  # statements that may hold definitions


def read_stdlib(skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    """The standard library's sources: path and text, in the order of the paths."""
    for name, source in _sources():
        if source.strip():
            yield name, source
        else:
            skipped["empty"] += 1


def read_packages(skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    """Of these only five packages, about a tenth of the text."""
    return (pair for pair in read_stdlib(skipped) if pair[0].partition("/")[0] in PACKAGES)


def read_pydocs(skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    """Topics of the language reference, then the docstrings of each module of the standard library."""
    for topic, text in sorted(_topics().items()):
        yield f"topics/{topic}", text.strip() + "\n"
    for path, source in _sources():
        name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if text := _docstrings(name, source):
            yield f"modules/{name}", text
        else:
            skipped["without docstrings"] += 1


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out; the docstrings remain
        return {}
    return topics


def _sources() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    paths: list[Path] = []
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in EXCLUDED]
        paths += [Path(parent, name).relative_to(root) for name in names if name.endswith(".py")]
    for path in sorted(paths, key=Path.as_posix):
        # The folder also holds files of this machine, such as build settings and site customization.
        if path.parts[0].removesuffix(".py") in sys.stdlib_module_names:
            yield path.as_posix(), importlib.util.decode_source((root / path).read_bytes())


def _docstrings(name: str, source: str) -> str:
    with warnings.catch_warnings(action="ignore"):  # old sources hold escapes that newer compilers warn about
        module = ast.parse(source)
    parts = [docstring] if (docstring := ast.get_docstring(module)) else []
    parts += _definitions(module, "")
    text = f"{name}\n{'=' * len(name)}\n\n" + "\n\n".join(parts) + "\n" if parts else ""
    return text.encode("utf-8", errors="replace").decode()  # a docstring may hold a lone surrogate


def _definitions(node: ast.AST, prefix: str) -> Iterator[str]:
    """Heading and docstring of each class and function in the order of the source, also inside `if` and `try`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            if docstring := ast.get_docstring(child):
                yield f"{_heading(child, prefix)}\n\n{textwrap.indent(docstring, '    ')}"
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, Holder):
            yield from _definitions(child, prefix)


def _heading(node: Definition, prefix: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"class {prefix}{node.name}({bases})" if bases else f"class {prefix}{node.name}"
    return f"def {prefix}{node.name}({ast.unparse(node.args)})"
