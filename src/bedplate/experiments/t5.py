"""T5's thesis at laptop scale: a model that has filled in hidden spans of text learns a text-to-text task better.

The task is to write a sentence whose vowels are gone ("Rtrn th lngth f th lst." is "Return the length of the list."),
from a few hundred examples out of Python's documentation. One model comes from pre-training on other documents of it,
the other begins with random weights; both take the same steps on the same examples. No sentence that is measured was
seen before, hidden or not. Control: pre-training that hides single tokens, which makes targets longer (section 3.3.4).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bedplate.data.generated_translation import Pair
from bedplate.data.pairs import PairBatches
from bedplate.data.text import Document
from bedplate.experiments.experiment import Verdict, train_to_end
from bedplate.models.t5 import T5
from bedplate.recipes.pairs import likelihood_of_pairs
from bedplate.recipes.recipe import Recipe, with_settings
from bedplate.recipes.spans import PreparedSpans
from bedplate.recipes.t5 import pydocs
from bedplate.train.loop import Settings
from bedplate.train.schedule import Constant

CLAIM = "Pre-training by filling in hidden spans helps a text-to-text task with few examples (sections 3.1.4 and 3.3)."
SPANS, TOKENS, SCRATCH = "spans hidden", "tokens hidden", "no pre-training"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to run, and what the claim asks for there."""

    steps: int  # of pre-training
    task_steps: int
    batch_size: int
    examples: int
    seeds: int
    gain: float  # share of the bits per byte that pre-training must take off


SCALES = {
    "smoke": Scale(steps=50, task_steps=15, batch_size=16, examples=100, seeds=1, gain=0.0),
    "small": Scale(steps=300, task_steps=100, batch_size=32, examples=400, seeds=3, gain=0.05),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Bits per byte of held-out sentences, given what is left of them; by way of pre-training, a number a seed."""

    scale: str
    bits: dict[str, tuple[float, ...]]
    target_tokens: dict[str, int]  # that pre-training writes for a window


def run(scale: str, *, watch: Callable[[str], None] = print) -> Result:
    """Pre-train, then learn the task, for each way and seed."""
    settings = SCALES[scale]
    size = {"batch_size": settings.batch_size, "micro_batch_size": settings.batch_size}
    base = with_settings(pydocs(), {"steps": settings.steps, **size})
    ways = {SPANS: base, TOKENS: replace(base, data=replace(base.data, mean_span=1.0)), SCRATCH: base}
    bits: dict[str, list[float]] = {way: [] for way in ways}
    lengths = {}
    for seed in range(settings.seeds):
        for way, recipe in ways.items():
            recipe = replace(recipe, seed=seed)
            prepared = recipe.data.prepare(recipe)
            lengths[way] = prepared.source.batch(0)["targets"].shape[1]
            torch.manual_seed(seed)
            model = T5(recipe.model)
            if way != SCRATCH:
                _learn(model, prepared.source, recipe)
            bits[way].append(_task(model, prepared, recipe, settings))
            watch(f"seed {seed}, {way}: {bits[way][-1]:.3f} bits per byte")
    measured = {way: tuple(values) for way, values in bits.items()}
    return Result(scale=scale, bits=measured, target_tokens={way: lengths[way] for way in (SPANS, TOKENS)})


def _learn(model: T5, source: Any, recipe: Recipe) -> None:
    settings = Settings(
        steps=recipe.steps, micro_batch_size=recipe.batch_size, optimizer=recipe.optimizer, schedule=recipe.schedule,
        seed=recipe.seed, checkpoint_every=10**9,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        train_to_end(model, source, recipe.objective, settings, Path(folder))


def _task(model: T5, prepared: PreparedSpans, recipe: Recipe, settings: Scale) -> float:
    """Learn to write sentences without vowels; bits per byte of others."""
    # Examples come from documents that pre-training did not see: half of them to learn from, half to measure.
    sentences = list(dict.fromkeys(_sentences(prepared.corpus.held_out)))
    pairs = [Pair(re.sub(r"(?i)(?<!\b)[aeiou]", "", text), text) for text in sentences]
    sides = [pairs[::2][: settings.examples], pairs[1::2][: settings.examples]]
    learned, measured = (
        PairBatches(
            *(prepared.tokenizer.encode_batch([getattr(pair, name) for pair in side]) for name in ("source", "target")),
            length=recipe.model.context_length, batch_size=recipe.batch_size, seed=recipe.seed,
            start_id=recipe.model.start_id, end_id=prepared.tokenizer.end_id,
        )
        for side in sides
    )  # fmt: skip
    optimizer = replace(recipe.optimizer, lr=2e-3)
    task = replace(recipe, steps=settings.task_steps, optimizer=optimizer, schedule=Constant(warmup_steps=10))
    _learn(model, learned, task)
    return likelihood_of_pairs(model, measured, prepared.tokenizer).bits_per_byte


def _sentences(documents: Iterable[Document]) -> Iterable[str]:
    for document in documents:
        for line in document.text.splitlines():
            text = line.strip()
            if 30 <= len(text) <= 90 and re.fullmatch(r"[A-Z][A-Za-z ,']+\.", text):
                yield text


def check(result: Result) -> Verdict:
    """Means over seeds; with several seeds, each must gain."""
    gains = [1 - ours / plain for ours, plain in zip(result.bits[SPANS], result.bits[SCRATCH], strict=True)]
    bar = SCALES[result.scale].gain
    means = {way: mean(values) for way, values in result.bits.items()}
    longer = result.target_tokens[TOKENS] / result.target_tokens[SPANS]
    sentence = (
        f"Pre-training on hidden spans takes {mean(gains):.1%} off the bits per byte of the task (bar {bar:.0%}, "
        f"{len(gains)} seed(s), {min(gains):.1%} to {max(gains):.1%}): {means[SPANS]:.3f} instead of "
        f"{means[SCRATCH]:.3f}. Hiding single tokens gives {means[TOKENS]:.3f} with targets {longer:.2f} times as long."
    )
    return Verdict(holds=mean(gains) > bar and min(gains) > 0 and longer > 1, sentence=sentence)


def plot(result: Result, path: Path) -> None:
    """Bits per byte of the task by way of pre-training, a point a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    for place, values in enumerate(result.bits.values()):
        axes.bar(place, mean(values), width=0.6, color=("#4a6fb5", "#9db7e8", "#d0d5dd")[place])
        axes.scatter([place] * len(values), values, color="#1c2330", s=14, zorder=3)
        axes.annotate(f"{mean(values):.2f}", (place, mean(values)), ha="center", va="bottom")
    axes.set_xticks(range(len(result.bits)), list(result.bits))
    axes.set_ylabel("bits per byte of the task (lower is better)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
