"""What commands print: progress, tables, and the same tables as JSON."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bedplate.errors import UserError
from bedplate.files import write_json, write_text

console = Console(highlight=False)
STYLES = {
    "pass": "green", "fail": "bold red", "working": "green", "not yet": "dim", "not applicable": "dim",
    "finished": "green", "running": "cyan", "stopped": "yellow", "failed": "bold red", "damaged": "bold red",
}  # fmt: skip


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
            if spike := _spike(metrics):
                progress.console.print(spike)
            progress.update(task, completed=metrics["step"], status=_status(metrics) + held_out)

        yield watch


def _plain_progress(steps: int) -> Callable[[Mapping[str, Any]], None]:
    started, first = time.monotonic(), 0

    def watch(metrics: Mapping[str, Any]) -> None:
        nonlocal first
        step = metrics["step"]
        first = first or step - 1
        if spike := _spike(metrics):
            print(spike, flush=True)
        if step % max(1, steps // 10) == 0 or step == steps:
            remaining = (time.monotonic() - started) / (step - first) * (steps - step)
            print(f"step {step}/{steps}  {_status(metrics)}{_held_out(metrics)}  ETA {remaining:.0f} s", flush=True)

    return watch


def _spike(metrics: Mapping[str, Any]) -> str:
    """What to say of a loss that stands out, and how to see the batch that it came from."""
    if "spike" not in metrics:
        return ""
    step, loss = metrics["step"], f"{metrics['loss']:.3f} stands out by {metrics['spike']:.0f} deviations"
    return f"step {step}: loss {loss}; its batch: show-batch RECIPE --step {step - 1}"


def _status(metrics: Mapping[str, Any]) -> str:
    return f"loss {metrics['loss']:.3f}  {metrics['items_per_second']:,.0f} tokens/s"


def _held_out(metrics: Mapping[str, Any]) -> str:
    value = metrics.get("held_out_bits_per_byte")
    return "" if value is None else f"  held-out sample {value:.3f} bits/byte"


def print_table(
    rows: Sequence[Mapping[str, Any]], *, title: str = "", columns: Sequence[str] = (), folded: Sequence[str] = ()
) -> None:
    """Rows as a table; numbers are shortened, colors mark verdicts. `folded`: columns that alone take several lines."""
    names = list(columns or rows[0])
    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in names:
        numeric = all(isinstance(row[name], (int, float)) or row[name] is None for row in rows)
        whole = bool(folded) and name not in folded
        table.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    console.print(table)


def print_runs(rows: Sequence[Mapping[str, Any]], folder: Path, *, program: str) -> None:
    """Runs as a table, then why some failed and how to go on, in whole lines that can be copied."""
    table = []
    for row in rows:
        name = str(Path(row["run"]).relative_to(folder))
        progress = "" if row["step"] is None else f"{row['step']}/{row['steps']}"
        best = "" if row["best"] is None else f"{row['best']:.3f} @ {row['best_step']}"
        loss = "" if row["loss"] is None else f"{row['loss']:.3f}"
        line = {"run": row["run"] if name == "." else name, "recipe": row["recipe"] or "", "state": row["state"]}
        table.append(line | {"step": progress, "loss": loss, "best held-out": best, "age": _age(row["age"])})
    print_table(table, folded=("run",))
    for row in rows:
        if row["state"] == "failed":
            print(f"\n{row['run']} failed: {row['reason']}")
        elif row["state"] == "damaged":
            print(f"\n{row['reason']}")
    if commands := [row["resume"] for row in rows if row["resume"]]:
        print("\nTo go on:", *(program + command.removeprefix("bedplate") for command in commands), sep="\n  ")


def print_comparison(found: Mapping[str, Any]) -> None:
    """Where two runs differ: a table for each part that does, and the losses in a sentence."""
    print(f"left:  {found['left']}\nright: {found['right']}")
    for part in ("recipe", "settings", "data", "environment"):
        rows = [row for row in found["differences"] if row["part"] == part]
        if rows:
            print()
            print_table([_side_by_side(row, part) for row in rows])
    same = [part for part in ("recipe", "settings", "data", "environment") if not _has(found, part)]
    if same:
        print(f"\nThe same on both sides: {', '.join(same)}.")
    print(f"\n{_losses(found['loss'])}\n")
    print_table([_side_by_side(row, "result") for row in found["values"] if row["left"] is not None or row["right"]])
    print(f"\nThe runs {'agree in everything' if found['same'] else 'differ'}.")


def _has(found: Mapping[str, Any], part: str) -> bool:
    return any(row["part"] == part for row in found["differences"])


def _losses(loss: Mapping[str, Any]) -> str:
    steps = loss["common_steps"]
    if not steps:
        return "Loss: the runs have no step in common."
    if loss["first_different_step"] is None:
        return f"Loss: equal at all {steps:,} common steps, bit for bit."
    return (
        f"Loss: first differs at step {loss['first_different_step']:,} of {steps:,} common ones,\n"
        f"  left {loss['left']}, right {loss['right']}, by {loss['difference']:.1e}.\n"
        f"  It differs at {loss['different_steps']:,} steps; the largest relative difference is "
        f"{loss['largest_relative']:.1e}, at step {loss['largest_relative_step']:,}."
    )


def _side_by_side(row: Mapping[str, Any], title: str) -> dict[str, str]:
    """Both values as text; in full where shortening would make different ones look equal."""
    left, right = _short(row["left"]), _short(row["right"])
    if left == right and row["left"] != row["right"]:
        left, right = str(row["left"]), str(row["right"])
    return {title: row["name"], "left": left, "right": right}


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return f"{value[:12]}..."  # a hash
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return f"{value:.6g}" if isinstance(value, float) else "none" if value is None else str(value)


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1e}" if value and abs(value) < 1e-2 else f"{value:,.2f}" if value else "0"
    if isinstance(value, int):
        return f"{value:,}"
    style = STYLES.get(value)
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


def save_lines(path: Path, values: Iterable[Any]) -> None:
    """Write JSON values, one a line."""
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror})", fix="name a file in a folder that exists") from error
