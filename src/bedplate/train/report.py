"""`report.html`: a run on one page, pictures included, readable with no network."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bedplate.train.run import read_metrics, read_run

REPORT = "report.html"

STYLE = """
:root { --ink: #1c2330; --soft: #667085; --line: #e4e7ec; --ground: #ffffff; --band: #f7f8fa;
  --good: #157f3c; --bad: #b42318; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2b3240; --ground: #12161d; --band: #1a202a;
    --good: #4ade80; --bad: #f97066; } }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--ground);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p.soft, td.soft { color: var(--soft); } img { max-width: 100%; border-radius: 8px; background: #fff; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); font-size: .85rem; }
.pass { color: var(--good); } .fail { color: var(--bad); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--band); border-radius: 8px; padding: .8rem 1rem;
  font: 14px/1.5 ui-monospace, monospace; } pre b { color: var(--soft); font-weight: 600; }
dl.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; margin: 1.2rem 0; }
dl.figures div { background: var(--band); border-radius: 8px; padding: .7rem .9rem; }
dt { color: var(--soft); font-size: .85rem; } dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
"""


def write_report(
    folder: Path, *, samples: Sequence[tuple[str, str]] = (), contracts: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Write the report of a run; `samples` are prompts with what the model wrote, `contracts` the rows of verify."""
    record, metrics = read_run(folder), read_metrics(folder)
    result_file = folder / "result.json"
    result = json.loads(result_file.read_text()) if result_file.exists() else {}
    parts = [
        f"<h1>{html.escape(record['recipe'])}</h1>",
        f'<p class="soft">{html.escape(_sentence(record, metrics))}</p>',
        _figures(metrics, result),
        f'<h2>Loss</h2><img alt="Loss by step" src="data:image/png;base64,{_loss_curve(metrics)}">',
        _samples(samples),
        _contracts(contracts),
        _settings(record),
    ]
    title = f"<title>{html.escape(record['recipe'])} - bedplate</title>"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">{title}<style>{STYLE}</style>'
    path = folder / REPORT
    path.write_text(f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>', "utf-8")
    return path


def _sentence(record: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    corpus = record["data"]["corpus"]
    minutes = sum(line["seconds"] for line in metrics) / 60
    environment = record["environment"]
    return (
        f"{metrics[-1]['step']} steps in {minutes:.1f} minutes on {corpus['name']} ({corpus['bytes'] / 1e6:.1f} MB "
        f"of text, {corpus['documents']} documents, {corpus['held_out_documents']} of them held out). "
        f"torch {environment['torch']}, {environment['threads']} threads, {environment['device']}."
    )


def _figures(metrics: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> str:
    speeds = sorted(line["items_per_second"] for line in metrics)
    figures = {"final training loss, nats per token": f"{metrics[-1]['loss']:.3f}"}
    if result:
        figures["held-out bits per byte"] = f"{result['bits_per_byte']:.3f}"
        figures["held-out perplexity per token"] = f"{result['perplexity_per_token']:.1f}"
    figures["tokens per second (median)"] = f"{speeds[len(speeds) // 2]:,.0f}"
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items())
    return f'<dl class="figures">{cells}</dl>'


def _loss_curve(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The training loss in nats per token and the held-out text in bits per byte, as a PNG in base64."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot([m["step"] for m in metrics], [m["loss"] for m in metrics], color="#9db7e8", linewidth=1)
    axes.set(xlabel="step", ylabel="training loss, nats per token")
    axes.yaxis.label.set_color("#4a6fb5")
    measured = [m for m in metrics if "held_out_bits_per_byte" in m]
    if measured:
        right = axes.twinx()
        steps, values = [m["step"] for m in measured], [m["held_out_bits_per_byte"] for m in measured]
        right.plot(steps, values, color="#c2410c", marker="o", markersize=4)
        right.annotate(
            f"{values[-1]:.2f}", (steps[-1], values[-1]), textcoords="offset points", xytext=(0, 8), ha="center"
        )
        right.set_ylabel("held-out bits per byte", color="#c2410c")
        right.spines["top"].set_visible(False)
    axes.spines["top"].set_visible(False)
    axes.grid(axis="y", color="#e4e7ec")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _samples(samples: Sequence[tuple[str, str]]) -> str:
    if not samples:
        return ""
    blocks = "".join(f"<pre><b>{html.escape(prompt)}</b>{html.escape(text)}</pre>" for prompt, text in samples)
    return f'<h2>Samples</h2><p class="soft">Prompts in grey; the rest is the model\'s.</p>{blocks}'


def _contracts(contracts: Sequence[Mapping[str, Any]]) -> str:
    if not contracts:
        return ""
    lines = []
    for row in contracts:
        numbers = ["" if row[key] is None else f"{row[key]:.1e}" for key in ("error", "bound")]
        verdict = f'<td class="{row["verdict"].split()[0]}">{row["verdict"]}</td>'
        cells = "".join(f"<td>{value}</td>" for value in (html.escape(row["contract"]), *numbers))
        lines.append(f'<tr>{cells}{verdict}<td class="soft">{html.escape(row["detail"])}</td></tr>')
    head = "<tr><th>contract</th><th>error</th><th>bound</th><th>verdict</th><th></th></tr>"
    return f"<h2>Numeric contracts</h2><table>{head}{''.join(lines)}</table>"


def _settings(record: Mapping[str, Any]) -> str:
    rows = {**record["settings"], "text sha256": record["data"]["corpus"]["sha256"]}
    lines = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>" for key, value in rows.items()
    )
    return f"<h2>Settings</h2><table>{lines}</table>"
