"""The Transformer's choices at laptop scale: rows of its table 3, on a translation task whose answers are known.

German sentences of a small grammar (`data.generated_translation`) are translated into English. Verbs move, articles and
adjectives agree, and no test sentence was trained on. Each row of the table is one change to the base model; a row is
trained as often as there are seeds, all on the same pairs.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from bedplate.evaluate.translation import bleu, translate
from bedplate.experiments.experiment import Verdict, train_to_end
from bedplate.models.transformer import Transformer
from bedplate.recipes.recipe import Recipe
from bedplate.recipes.transformer import quickstart
from bedplate.train.average import mean_of_checkpoints
from bedplate.train.checkpoint import list_checkpoints
from bedplate.train.loop import Settings

CLAIM = (
    "Attention alone learns to translate; label smoothing hurts perplexity but not BLEU (section 5.4); the mean of the "
    "last checkpoints is better than the last one (section 6.1)."
)
BASE, SHARP = "base", "label smoothing 0"
ROWS: dict[str, dict[str, Any]] = {  # of table 3, scaled: settings that differ from the base model's
    BASE: {},
    SHARP: {"objective.label_smoothing": 0.0},
    "label smoothing 0.2": {"objective.label_smoothing": 0.2},
    "1 head": {"model.num_heads": 1},
    "16 heads": {"model.num_heads": 16},
    "head size 8": {"model.head_dim": 8},
    "1 layer": {"model.num_layers": 1, "model.num_decoder_layers": 1},
    "3 layers": {"model.num_layers": 3, "model.num_decoder_layers": 3},
    "width 48": {"model.dim": 48},
    "MLP 192": {"model.mlp_dim": 192},
    "dropout 0": {"model.dropout": 0.0},
    "dropout 0.2": {"model.dropout": 0.2},
    "learned positions": {},
    "no warm-up": {"schedule.warmup_steps": 0},
}
CHECKPOINTS = 5  # that are averaged, as the paper does for its base model


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to run, and what the claim asks for there."""

    steps: int
    batch_size: int
    seeds: int
    sentences: int
    rows: tuple[str, ...]
    bleu: float = 80.0  # that the base model must reach
    loss_of_bleu: float = 0.7  # that smoothing may cost
    gain: float = 0.0  # share of perplexity that averaging must take off


SCALES = {
    # Too short to translate, or to average while the loss still falls steeply: shows that everything runs.
    "smoke": Scale(
        steps=110, batch_size=32, seeds=1, sentences=60, rows=(BASE, SHARP), bleu=1.0, loss_of_bleu=5.0, gain=-0.05
    ),
    "small": Scale(steps=450, batch_size=64, seeds=3, sentences=300, rows=(BASE, SHARP)),
    "table3": Scale(steps=450, batch_size=64, seeds=1, sentences=300, rows=tuple(ROWS)),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training run."""

    perplexity: float  # per token of held-out targets, without smoothing
    averaged_perplexity: float  # the same of the mean of the last checkpoints
    bleu: float
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """Rows of the table, a run for each seed."""

    scale: str
    rows: Mapping[str, tuple[Row, ...]]
    signature: str


def run(scale: str, *, watch: Callable[[str], None] = print) -> Result:
    """Train every row with every seed."""
    settings = SCALES[scale]
    size = settings.batch_size
    base = replace(quickstart(), steps=settings.steps, batch_size=size, micro_batch_size=size)
    base = _changed(base, {"schedule.warmup_steps": settings.steps // 4})
    rows: dict[str, tuple[Row, ...]] = {}
    signature = ""
    for name in settings.rows:
        runs = []
        for seed in range(settings.seeds):
            recipe = replace(_changed(base, ROWS[name]), seed=seed)
            row, signature = _learn(recipe, name, settings.sentences)
            watch(f"{name}, seed {seed}: perplexity {row.perplexity:.3f}, BLEU {row.bleu:.1f}")
            runs.append(row)
        rows[name] = tuple(runs)
    return Result(scale=scale, rows=rows, signature=signature)


def _changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """With other values of keys such as model.mlp_dim, also of those that the paper fixes."""
    for key, value in changes.items():
        part, name = key.split(".")
        recipe = replace(recipe, **{part: replace(getattr(recipe, part), **{name: value})})
    return recipe


def _learn(recipe: Recipe, name: str, sentences: int) -> tuple[Row, str]:
    prepared = recipe.data.prepare(recipe)
    torch.manual_seed(recipe.seed)
    model: Any = Transformer(recipe.model)
    if name == "learned positions":
        model.positions = nn.Embedding(recipe.model.context_length, recipe.model.dim)
    every = max(1, recipe.steps // 70)  # the paper's last five span some 7 % of its 12 hours
    settings = Settings(
        steps=recipe.steps, micro_batch_size=recipe.batch_size, optimizer=recipe.optimizer, schedule=recipe.schedule,
        seed=recipe.seed, checkpoint_every=every, keep=CHECKPOINTS,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        train_to_end(model, prepared.source, recipe.objective, settings, Path(folder))
        pairs = prepared.text.held_out[:sentences]
        texts = translate(model, prepared.tokenizer, [pair.source for pair in pairs], width=1)
        score = bleu(texts, [pair.target for pair in pairs])
        perplexity = prepared.likelihood(model).perplexity_per_token
        mean_of_checkpoints(list_checkpoints(Path(folder))[-CHECKPOINTS:], model)
    averaged = prepared.likelihood(model).perplexity_per_token
    parameters = sum(parameter.numel() for parameter in model.parameters())
    row = Row(perplexity=perplexity, averaged_perplexity=averaged, bleu=score.score, parameters=parameters)
    return row, score.signature


def check(result: Result) -> Verdict:
    """Means over seeds: the three parts of the claim."""
    scale, smooth, sharp = SCALES[result.scale], result.rows[BASE], result.rows[SHARP]
    score, other = (mean(row.bleu for row in rows) for rows in (smooth, sharp))
    ratio = mean(row.perplexity for row in smooth) / mean(row.perplexity for row in sharp)
    gain = 1 - mean(row.averaged_perplexity / row.perplexity for row in smooth)
    sentence = (
        f"BLEU {score:.1f} on sentences never seen (bar {scale.bleu:.0f}; {len(smooth)} seed(s)); without smoothing "
        f"{other:.1f} (bar: at most {scale.loss_of_bleu} more). Smoothing raises perplexity by {ratio - 1:.1%} (bar "
        f"3%). The mean of the last {CHECKPOINTS} checkpoints lowers it by {gain:.1%} (bar {scale.gain:.0%})."
    )
    holds = score >= scale.bleu and other - score <= scale.loss_of_bleu and ratio >= 1.03 and gain > scale.gain
    return Verdict(holds=holds, sentence=sentence)


def plot(result: Result, path: Path) -> None:
    """Perplexity and BLEU of each row, a point a seed."""
    from matplotlib.figure import Figure

    names, runs = list(result.rows), list(result.rows.values())
    figure = Figure(figsize=(8, 1.6 + 0.32 * len(names)), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, title, values in (
        (left, "held-out perplexity (lower is better)", [[row.perplexity for row in rows] for rows in runs]),
        (right, "BLEU (higher is better)", [[row.bleu for row in rows] for rows in runs]),
    ):
        axes.barh(names, [mean(each) for each in values], color="#9db7e8", height=0.6)
        for place, each in enumerate(values):
            axes.scatter(each, [place] * len(each), color="#1c2330", s=12, zorder=3)
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_xlim(left=1)
    left.invert_yaxis()
    figure.savefig(path)
