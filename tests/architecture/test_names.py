"""Parts know no model and take no switches."""

import ast
import re

import pytest
from tests.architecture.tree import ROOT, SOURCE, name_of, parse, sources

PARTS = sorted((SOURCE / "nn").rglob("*.py"))
MODELS = {path.stem for path in (SOURCE / "models").glob("*.py")} - {"__init__"}
# Presence of a part, as torch's own layers have it; what is computed otherwise does not change.
PRESENCE = {"bias"}
SKIPPED = {".git", ".venv", "site", "dist", "build", "runs", "__pycache__"}


def constructors(path):
    for owner in ast.walk(parse(path)):
        if isinstance(owner, ast.ClassDef):
            for function in owner.body:
                if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                    yield owner.name, [*function.args.args[1:], *function.args.kwonlyargs]


def identifiers(tree):
    """Every name that a file uses, and every string that is not a docstring."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name"):
            if isinstance(value := getattr(node, field, None), str):
                yield value
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize("path", PARTS, ids=name_of)
def test_parts_do_not_know_models(path):
    words = {word for name in identifiers(parse(path)) for word in re.split(r"[^a-z0-9]+", name.lower())}
    assert not words & MODELS


@pytest.mark.parametrize("path", PARTS, ids=name_of)
def test_parts_take_sizes_not_kinds(path):
    for owner, arguments in constructors(path):
        assert len(arguments) <= 8, f"{owner} has {len(arguments)} constructor arguments"
        for argument in arguments:
            kinds = {node.id for node in ast.walk(argument) if isinstance(node, ast.Name)}
            switch = argument.arg.startswith(("use_", "is_", "with_", "no_")) or kinds & {"bool", "str"}
            assert not switch or argument.arg in PRESENCE, (
                f"{owner}({argument.arg}=) picks an algorithm; pass a function"
            )


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_public_classes_and_functions_say_what_they_do(path):
    for node in parse(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name_of(path)}:{node.lineno} {node.name} has no docstring"


def test_the_tree_holds_no_private_paths():
    private = re.compile(r"(?<![\w.}])/(?:" + "|".join(("work", "root", "home", "Users")) + r")/\w")
    for path in ROOT.rglob("*"):
        relative = path.relative_to(ROOT)
        hidden = any(part in SKIPPED or (part.startswith(".") and part != ".ci") for part in relative.parts)
        if hidden or not path.is_file() or path.suffix in {".safetensors", ".png"}:
            continue
        found = private.search(path.read_text(encoding="utf-8", errors="replace"))
        assert not found, f"{relative}: {found.group()}"
