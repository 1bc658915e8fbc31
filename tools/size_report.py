"""Lines per file and per function against the ceilings; exit code 1 when one is crossed without a reason.

python tools/size_report.py            a summary per package, and everything near or over a ceiling
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "bedplate"
FUNCTION = 50

# The first pattern that a path (below src/bedplate or the root) matches gives its ceiling.
CEILINGS = (
    ("recipes/recipe.py", 300),  # the machinery of recipes, not a recipe
    ("recipes/text.py", 300),
    ("recipes/labeled.py", 300),
    ("recipes/masked_text.py", 300),
    ("recipes/encoder_task.py", 300),
    ("recipes/run.py", 300),
    ("recipes/pairs.py", 300),
    ("recipes/spans.py", 300),
    ("recipes/*.py", 60),
    ("experiments/*.py", 180),
    ("nn/**/*.py", 250),
    ("models/*.py", 350),
    ("objectives/*.py", 200),
    ("tests/parity/*.py", 80),
    ("**/*.py", 300),
)

# Ceilings crossed on purpose: path, or path:function, and why.
REASONS = {
    "recipes/bert.py": "pre-training at two sizes and three kinds of fine-tuning, one file per paper",
    "experiments/bert.py": "the paper has two theses, and each is tried",
    "models/bert.py": "one encoder under six published heads, each with its configuration and its table",
    "models/t5.py": "three families, T5, T5 1.1 with Flan-T5, and mT5, in fifteen published sizes",
    "tests/parity/test_t5.py": "the reference of three families",
    "recipes/gpt2.py": "five recipes of ten to fifteen lines, one file per paper",
    "train/loop.py:train": "the loop is one plain function, read from top to bottom",
}


@dataclass(frozen=True)
class Size:
    """Lines of a file or a function, and what is allowed."""

    name: str
    lines: int
    ceiling: int

    @property
    def verdict(self) -> str:
        """Empty while there is room."""
        if self.lines > self.ceiling:
            return f"over: {REASONS[self.name]}" if self.name in REASONS else "OVER, without a reason"
        return "near" if self.lines > 0.9 * self.ceiling else ""


def measure() -> list[Size]:
    """Every file of the package, the tools and the tests, each followed by its long functions."""
    paths = [*SOURCE.rglob("*.py"), *(ROOT / "tools").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    return [size for path in sorted(paths) for size in _sizes(path)]


def unreasoned(sizes: list[Size]) -> list[Size]:
    """What crosses a ceiling and has no reason."""
    return [size for size in sizes if size.verdict.startswith("OVER")]


def main() -> int:
    """Print the report; 1 when something must be split or argued for."""
    sizes = measure()
    files = [size for size in sizes if ":" not in size.name]
    for package in sorted({_package(size.name) for size in files}):
        own = [size.lines for size in files if _package(size.name) == package]
        print(f"{package:14}{len(own):4} files {sum(own):6} lines, longest {max(own)}")
    for size in sizes:
        if size.verdict:
            print(f"  {size.name}: {size.lines} of {size.ceiling} lines, {size.verdict}")
    return int(bool(unreasoned(sizes)))


def _sizes(path: Path) -> Iterator[Size]:
    text = path.read_text(encoding="utf-8")
    base = SOURCE if path.is_relative_to(SOURCE) else ROOT
    relative = path.relative_to(base)
    ceiling = next(ceiling for pattern, ceiling in CEILINGS if _matches(relative, pattern))
    yield Size(relative.as_posix(), len(text.splitlines()), ceiling)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > 0.9 * FUNCTION:
                yield Size(f"{relative.as_posix()}:{node.name}", lines, FUNCTION)


def _matches(path: Path, pattern: str) -> bool:
    """Whether a pattern fits from the first part on; `**` stands for any number of folders."""
    parts = path.parts
    folder, _, last = pattern.rpartition("/")
    if folder.endswith("**"):
        start = tuple(folder.removesuffix("**").strip("/").split("/")) if folder != "**" else ()
        return parts[: len(start)] == start and Path(parts[-1]).match(last)
    return "/".join(parts[:-1]) == folder and Path(parts[-1]).match(last)


def _package(name: str) -> str:
    return name.split("/")[0] if "/" in name else "top level"


if __name__ == "__main__":
    sys.exit(main())
