"""What commands print: progress, tables, and the same tables as JSON."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bedplate.errors import UserError
from bedplate.files import write_json

console = Console(highlight=False)


@contextmanager
def training_progress(steps: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function to call with each logged line: a live bar on a terminal, some ten plain lines elsewhere."""
    if not console.is_terminal:
        yield _plain_progress(steps)
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=steps, status="")
        held_out = ""

        def watch(metrics: Mapping[str, Any]) -> None:
            nonlocal held_out
            held_out = _held_out(metrics) or held_out
            progress.update(task, completed=metrics["step"], status=_status(metrics) + held_out)

        yield watch


def _plain_progress(steps: int) -> Callable[[Mapping[str, Any]], None]:
    started, first = time.monotonic(), 0

    def watch(metrics: Mapping[str, Any]) -> None:
        nonlocal first
        step = metrics["step"]
        first = first or step - 1
        if step % max(1, steps // 10) == 0 or step == steps:
            remaining = (time.monotonic() - started) / (step - first) * (steps - step)
            print(f"step {step}/{steps}  {_status(metrics)}{_held_out(metrics)}  ETA {remaining:.0f} s", flush=True)

    return watch


def _status(metrics: Mapping[str, Any]) -> str:
    return f"loss {metrics['loss']:.3f}  {metrics['items_per_second']:,.0f} tokens/s"


def _held_out(metrics: Mapping[str, Any]) -> str:
    value = metrics.get("held_out_bits_per_byte")
    return "" if value is None else f"  held-out sample {value:.3f} bits/byte"


def print_table(rows: Sequence[Mapping[str, Any]], *, title: str = "", columns: Sequence[str] = ()) -> None:
    """Rows as a table; numbers are shortened, colors mark verdicts."""
    names = list(columns or rows[0])
    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in names:
        numeric = all(isinstance(row[name], (int, float)) or row[name] is None for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1e}" if value and abs(value) < 1e-2 else f"{value:,.2f}" if value else "0"
    if isinstance(value, int):
        return f"{value:,}"
    style = {"pass": "green", "fail": "bold red", "working": "green", "not yet": "dim", "not applicable": "dim"}.get(
        value
    )
    text = str(value).replace("[", r"\[")
    return f"[{style}]{text}[/]" if style else text


def short(value: Any) -> Any:
    """A number of any size with three digits or more, as text; anything else as it is."""
    if not isinstance(value, float):
        return value
    if value >= 1e12:
        return f"{value:.2e}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def save_json(path: Path | None, value: Any) -> None:
    """Write what was printed, if a file was named."""
    if path is not None:
        try:
            write_json(path, value)
        except OSError as error:
            raise UserError(
                f"cannot write {path} ({error.strerror})", fix="name a file in a folder that exists"
            ) from error
