"""Pictures of benchmarks. Training: after the reading group's session on GPUs, speed, memory, use of the machine."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLORS = ("#4a6fb5", "#c2410c", "#157f3c", "#7c3aed", "#b45309", "#0e7490", "#be185d", "#475569")
PANELS = (
    ("tokens/s of the job", "ours", 1.0),
    ("memory of a process, GB", "memory", 1.0),
    ("model FLOPs utilization, % of the measured matrix rate", "mfu", 100.0),
    ("scaling efficiency, % of one rank", "efficiency", 100.0),
)


def plot_training(rows: Sequence[Mapping[str, Any]], path: Path) -> Any:
    """A panel for each measure against the batch of a rank, a line for each combination of the rest."""
    from matplotlib.figure import Figure

    lines = _lines(rows)
    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained")
    for axes, (title, key, factor) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for color, (name, points) in zip(COLORS * len(lines), lines.items(), strict=False):
            shown = sorted((point["batch"], factor * point[key]) for point in points if point.get(key) is not None)
            if shown:
                axes.plot(*zip(*shown, strict=True), "o-", color=color, label=name, linewidth=1.4)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("sequences on each rank")
        axes.set_xticks(sorted({point["batch"] for points in lines.values() for point in points}))
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e7ec")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.savefig(path)
    return figure


def plot_decoding(rows: Sequence[Mapping[str, Any]], path: Path) -> Any:
    """Tokens a second of each form of weights and of mixed requests, ours beside the peers."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row["unit"] == "tokens/s"]
    figure = Figure(figsize=(11, 0.6 * len(shown) + 1.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(shown):
        axes.barh(place - 0.2, row["ours"], 0.38, color=COLORS[0], label="bedplate" if place == 0 else None)
        axes.barh(place + 0.2, row["peer"], 0.38, color=COLORS[1], label="the peer" if place == 0 else None)
        axes.text(row["ours"], place - 0.2, f" {row['ours']:.0f}", va="center", fontsize=8)
        text = f" {row['peer']:.0f}  {row['peer name']}; we are {row['ratio']:.2f} times as fast"
        axes.text(row["peer"], place + 0.2, text, va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [row["name"] for row in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("tokens/s, more is better")
    axes.set_xlim(right=1.6 * max(max(row["ours"], row["peer"]) for row in shown))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path)
    return figure


def _lines(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The measured cells by all but their batch; where there is a peer, its speed and memory are a line, too."""
    memory = {row["name"]: row for row in rows if row["unit"] == "GB"}
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["unit"] != "tokens/s":
            continue
        extras = row["name"].split(", ", 1)[1:]
        name = ", ".join([f"{row['size']} {row['precision']}", *extras])
        used = memory[f"{row['name']}, peak memory"]
        lines[name].append({**row, "memory": used["ours"]})
        if row["peer"] is not None:
            lines[f"transformers: {name}"].append({"batch": row["batch"], "ours": row["peer"], "memory": used["peer"]})
    return lines
