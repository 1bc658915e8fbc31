"""`report.html`: a run on one page, pictures included, readable with no network."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bedplate.files import read_json, write_text
from bedplate.train.run import read_metrics, read_run

REPORT, RESULT, SAMPLES, CONTRACTS = "report.html", "result.json", "samples.json", "contracts.json"
USAGE, PLAN = "usage.json", "plan.json"  # what a run took, and beside it what was predicted
HELD_OUT = "held_out_bits_per_byte"

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
div.bar { display: flex; height: 1.6rem; border-radius: 8px; overflow: hidden; margin-bottom: .6rem; }
i.key { display: inline-block; width: .7rem; height: .7rem; border-radius: 3px; margin-right: .5rem; }
dt { color: var(--soft); font-size: .85rem; } dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
"""
# The parts of a step as the loop logs them, and a color that is told apart on light and dark ground.
RESULTS = {  # what a run may have measured at its end
    "bits_per_byte": ("bits per byte, all held-out text", "{:.3f}"),
    "perplexity_per_token": ("perplexity per token, all held-out text", "{:.1f}"),
    "bleu": ("BLEU of held-out translations", "{:.1f}"),
    "accuracy": ("accuracy, all held-out items", "{:.1%}"),
    "masked_perplexity": ("perplexity of hidden tokens, held out", "{:.1f}"),
    "masked_accuracy": ("hidden tokens guessed, held out", "{:.1%}"),
    "next_sentence_accuracy": ("second spans judged rightly, held out", "{:.1%}"),
}
PARTS = {"data": "#c2410c", "forward": "#4a6fb5", "backward": "#7c5cbf", "optimizer": "#2f8f6b", "other": "#98a2b3"}


def write_report(folder: Path) -> Path:
    """Write the report of a run from the files in its folder; what is not there is left out."""
    record, metrics = read_run(folder), read_metrics(folder)
    result, plan, samples, contracts = (
        read_json(folder / name) if (folder / name).exists() else None for name in (RESULT, PLAN, SAMPLES, CONTRACTS)
    )
    parts = [
        f"<h1>{html.escape(record['recipe'])}</h1>",
        f'<p class="soft">{html.escape(_sentence(record, metrics))}</p>',
        _figures(metrics, result) if metrics else "",
        f'<h2>Learning</h2><img alt="Loss by step" src="data:image/png;base64,{_curves(metrics)}">' if metrics else "",
        _step_time(metrics),
        _samples(samples) if samples else "",
        _contracts(contracts) if contracts else "",
        _plan(plan) if plan else "",
        _settings(record),
    ]
    title = f"<title>{html.escape(record['recipe'])} - bedplate</title>"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">{title}<style>{STYLE}</style>'
    path = folder / REPORT
    write_text(path, f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>')
    return path


def _sentence(record: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    corpus = record["data"]["corpus"]
    minutes = sum(line["seconds"] for line in metrics) / 60
    environment = record["environment"]
    steps = metrics[-1]["step"] if metrics else 0
    return (
        f"{steps} steps in {minutes:.1f} minutes on {corpus['name']} ({corpus['bytes'] / 1e6:.1f} MB "
        f"of text, {corpus['documents']} documents, {corpus['held_out_documents']} of them held out). "
        f"torch {environment['torch']}, {environment['threads']} threads, {environment['device']}."
    )


def _figures(metrics: Sequence[Mapping[str, Any]], result: Mapping[str, Any] | None) -> str:
    speeds = sorted(line["items_per_second"] for line in metrics)
    figures = {"last training loss, nats per token": f"{metrics[-1]['loss']:.3f}"}
    if result:
        figures |= {title: form.format(result[name]) for name, (title, form) in RESULTS.items() if name in result}
    figures["tokens per second (median)"] = f"{speeds[len(speeds) // 2]:,.0f}"
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items())
    return f'<dl class="figures">{cells}</dl>'


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The training loss, and beside it what was measured on a sample of held-out text, as a PNG in base64."""
    from matplotlib.figure import Figure

    lines = [("training loss, nats per token", "loss", "#4a6fb5", "")]
    if any(HELD_OUT in m for m in metrics):
        lines.append(("held-out sample, bits per byte", HELD_OUT, "#c2410c", "o"))
    figure = Figure(figsize=(9, 3.2), dpi=110, layout="constrained")
    for axes, (title, key, color, marker) in zip(figure.subplots(1, len(lines), squeeze=False)[0], lines, strict=True):
        steps, values = [m["step"] for m in metrics if key in m], [m[key] for m in metrics if key in m]
        axes.plot(steps, values, color=color, linewidth=1.2, marker=marker, markersize=4)
        place = {"textcoords": "offset points", "xytext": (0, 8), "ha": "right"}
        axes.annotate(f"{values[-1]:.2f}", (steps[-1], values[-1]), color=color, **place)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e7ec")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def step_time(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of all steps by part; `other` is the rest of them. Empty for a log without parts."""
    parts = [part for part in PARTS if part != "other"]
    lines = [line for line in metrics if all(f"{part}_seconds" in line for part in parts)]
    if not lines:
        return {}
    spent = {part: sum(line[f"{part}_seconds"] for line in lines) for part in parts}
    return spent | {"other": max(0.0, sum(line["seconds"] for line in lines) - sum(spent.values()))}


def _step_time(metrics: Sequence[Mapping[str, Any]]) -> str:
    """A bar and a table: which share of a step goes where."""
    spent = step_time(metrics)
    if not (whole := sum(spent.values())):
        return ""
    bar = lines = ""
    for part, seconds in spent.items():
        share = 100 * seconds / whole
        bar += f'<div style="width:{share:.2f}%;background:{PARTS[part]}" title="{part} {share:.1f}%"></div>'
        key = f'<i class="key" style="background:{PARTS[part]}"></i>{part}'
        lines += f"<tr><td>{key}</td><td>{share:.1f}%</td><td>{1000 * seconds / len(metrics):.1f}</td></tr>"
    head = "<tr><th>part</th><th>share</th><th>milliseconds a step</th></tr>"
    note = (
        "Held-out measures and checkpoints are not counted. On a GPU a part is the time to start its work there, "
        "and other is the wait for the end of it."
    )
    bar = f'<div class="bar" role="img" aria-label="Step time by part">{bar}</div>'
    return f'<h2>Step time</h2><p class="soft">{note}</p>{bar}<table>{head}{lines}</table>'


def _samples(samples: Sequence[Sequence[str]]) -> str:
    blocks = "".join(f"<pre><b>{html.escape(prompt)}</b>{html.escape(text)}</pre>" for prompt, text in samples)
    note = "Prompts in grey; the rest is the model's. A model this small learns the look of a text, not its sense."
    return f'<h2>Samples</h2><p class="soft">{note}</p>{blocks}'


def _contracts(contracts: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in contracts:
        numbers = ["" if row[key] is None else f"{row[key]:.1e}".replace("0.0e+00", "0") for key in ("error", "bound")]
        verdict = f'<td class="{row["verdict"].split()[0]}">{row["verdict"]}</td>'
        cells = "".join(f"<td>{value}</td>" for value in (html.escape(row["contract"]), *numbers))
        lines.append(f'<tr>{cells}{verdict}<td class="soft">{html.escape(row["detail"])}</td></tr>')
    head = "<tr><th>contract</th><th>error</th><th>bound</th><th>verdict</th><th></th></tr>"
    note = "Equalities that hold for every right implementation, measured on this model; 0 asks for equal bits."
    return f'<h2>Numeric contracts</h2><p class="soft">{note}</p><table>{head}{"".join(lines)}</table>'


def _plan(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = "".join(
        f"<tr><td>{row['what']}</td><td>{_short(row['predicted'])}</td><td>{_short(row['measured'])}</td></tr>"
        for row in rows
    )
    note = (
        "Predicted as by bedplate plan: from the sizes of the model, the rate at which this machine multiplies large "
        "matrices, and the share of it that training usually reaches. On a CPU the measured memory includes what the C "
        "library keeps for later."
    )
    head = "<tr><th></th><th>predicted</th><th>measured</th></tr>"
    return f'<h2>Plan and run</h2><p class="soft">{note}</p><table>{head}{lines}</table>'


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _settings(record: Mapping[str, Any]) -> str:
    rows = {**record["settings"], "text sha256": record["data"]["corpus"]["sha256"]}
    unset = {"data.tokenizer": "trained on the text", "model.mlp_dim": "4 * dim"}
    shown = {key: unset.get(key, value) if value in (None, "") else value for key, value in rows.items()}
    lines = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(value))}</td></tr>" for key, value in shown.items()
    )
    return f"<h2>Settings</h2><table>{lines}</table>"
