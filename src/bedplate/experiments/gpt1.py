"""GPT-1's thesis at laptop scale: read first, then learn the task.

A language model reads source code of Python's standard library. Then it is fine-tuned to tell from which of five
packages a snippet is, with few labels, and measured on snippets of files that neither phase has seen. Control: the
same fine-tuning of a model that has read nothing. Both with language modeling beside the task, as in the paper's
table 5, and both without.

A second claim, which GPT-2 answered: the norms of GPT-1 stand after the residual sums, and so it needs a warm-up.
"""

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from bedplate.adapt.start_from import start_from
from bedplate.evaluate.tasks import accuracy
from bedplate.experiments.experiment import Verdict, train_to_end
from bedplate.models import build
from bedplate.objectives.fine_tuning import FineTuning
from bedplate.recipes import Recipe, Text, gpt2
from bedplate.recipes.gpt1 import finetune, pydocs
from bedplate.train.loop import Settings
from bedplate.train.run import read_metrics
from bedplate.train.schedule import Constant

CLAIM = (
    "A model that was trained to predict text learns a task from few labels better than one that was not (section 5,"
    " table 5); and with its norms after the residual sums it needs a warm-up, as GPT-2 does not."
)
ORIGINS = ("pre-trained", "new")
NORMS = ("norms before", "norms after", "norms after, warm-up")
LAST = 20  # steps at the end over which a training loss is averaged


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to run, and what the claim asks for there."""

    corpus: str  # stdlib, or packages: only the five, which is what small models have time for
    sizes: dict[str, int]  # of the model that reads and learns
    vocab_size: int
    steps: int  # of reading
    labels: int
    lambdas: tuple[float, ...]  # weights of language modeling beside the task; the claim is about the first
    seeds: int
    gain: float  # asked of reading, in accuracy
    norms: tuple[str, ...]
    norm_dim: int
    norm_steps: int
    gap: float  # asked between norms before and after, and of a warm-up, in nats per token


SCALES = {
    "smoke": Scale(
        corpus="packages", sizes={"context_length": 64, "dim": 64, "num_layers": 1}, vocab_size=509, steps=500,
        labels=100, lambdas=(0.5,), seeds=1, gain=0.05, norms=NORMS[:2], norm_dim=32, norm_steps=60, gap=0.1,
    ),
    "small": Scale(
        corpus="stdlib", sizes={}, vocab_size=2045, steps=1500,
        labels=200, lambdas=(0.5, 0.0), seeds=3, gain=0.1, norms=NORMS, norm_dim=64, norm_steps=500, gap=0.3,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Result:
    """Accuracies by origin and lambda, and final training losses by norms, each by seed."""

    scale: str
    items: int
    accuracies: dict[str, tuple[float, ...]]
    losses: dict[str, tuple[float, ...]]


def run(scale: str, *, watch: Callable[[str], None] = print) -> Result:
    """Read once, fine-tune in each condition and seed; then train with either norm."""
    settings, items = SCALES[scale], 0
    accuracies, losses = dict[str, tuple[float, ...]](), dict[str, tuple[float, ...]]()
    recipe = reading(settings)
    read = recipe.data.prepare(recipe)
    watch(f"reading {recipe.steps} steps")
    reader, _ = trained(recipe, read.source)
    for seed, weight in itertools.product(range(settings.seeds), settings.lambdas):
        recipe = task(settings, weight, seed)
        texts = recipe.data.prepare(recipe, tokenizer=read.tokenizer)
        for origin in ORIGINS:
            model, _ = trained(recipe, texts.source, origin=reader if origin == "pre-trained" else None)
            name, items = f"{origin}, lambda {weight}", len(texts.held_out)
            accuracies[name] = (*accuracies.get(name, ()), accuracy(model, texts.held_out))
            watch(f"seed {seed}: {name}: {accuracies[name][-1]:.1%} right")
    for seed, name in itertools.product(range(settings.seeds), settings.norms):
        recipe = norms(settings, name, seed)
        _, log = trained(recipe, recipe.data.prepare(recipe).source)
        losses[name] = (*losses.get(name, ()), fmean(log[-LAST:]))
        watch(f"seed {seed}: {name}: loss {losses[name][-1]:.2f}")
    return Result(scale=scale, items=items, accuracies=accuracies, losses=losses)


def trained(recipe: Recipe, source: Any, *, origin: torch.nn.Module | None = None) -> tuple[Any, list[float]]:
    """The model that a recipe trains, from the origin or from nothing, and its losses."""
    torch.manual_seed(recipe.seed)
    model = build(recipe.model)
    if origin is not None:
        start_from(model, origin)
    settings = Settings(
        steps=recipe.steps, micro_batch_size=recipe.micro_batch_size, optimizer=recipe.optimizer,
        schedule=recipe.schedule, seed=recipe.seed, checkpoint_every=recipe.steps,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        train_to_end(model, source, recipe.objective, settings, Path(folder))
        return model, [line["loss"] for line in read_metrics(Path(folder))]


def reading(settings: Scale) -> Recipe:
    """Pre-training."""
    recipe = pydocs()
    model = replace(recipe.model, vocab_size=settings.vocab_size, **settings.sizes)
    schedule = replace(recipe.schedule, warmup_steps=settings.steps // 10)
    return replace(recipe, model=model, data=Text(corpus=settings.corpus), schedule=schedule, steps=settings.steps)


def task(settings: Scale, weight: float, seed: int) -> Recipe:
    """Fine-tuning for ten epochs; the seed chooses the labels and their order, and draws new rows and the head."""
    recipe = finetune()
    model = replace(recipe.model, vocab_size=settings.vocab_size + 3, **settings.sizes)  # and the marks of tasks
    data = replace(recipe.data, labels=settings.labels, longest_text=model.context_length - 2)
    objective, steps = FineTuning(language_weight=weight), 10 * settings.labels // recipe.batch_size
    return replace(recipe, model=model, data=data, objective=objective, steps=steps, seed=seed)


def norms(settings: Scale, name: str, seed: int) -> Recipe:
    """GPT-2's eight blocks, or GPT-1's, at the full rate of 3e-3 from the first step on, or after a warm-up."""
    recipe, steps = gpt2.quickstart() if name == "norms before" else pydocs(), settings.norm_steps
    sizes = {"vocab_size": 509, "context_length": 64, "dim": settings.norm_dim, "num_layers": 8}
    recipe = replace(recipe, model=replace(recipe.model, **sizes), data=Text(corpus="packages"), steps=steps, seed=seed)
    schedule = Constant(warmup_steps=steps // 2 if "warm-up" in name else 0)
    return replace(recipe, optimizer=replace(pydocs().optimizer, lr=3e-3), schedule=schedule)


def check(result: Result) -> Verdict:
    """Means over seeds: reading gains what is asked where both origins learn with the first lambda, and norms after the
    sums lag as much as is asked without a warm-up behind those before, and behind themselves with one.
    """
    settings = SCALES[result.scale]
    right = {name: fmean(values) for name, values in result.accuracies.items()}
    loss = {name: fmean(values) for name, values in result.losses.items()}
    gain, *_ = (right[f"pre-trained, lambda {each}"] - right[f"new, lambda {each}"] for each in settings.lambdas)
    gap = loss["norms after"] - max(value for name, value in loss.items() if name != "norms after")
    sentence = (
        f"Right labels of {result.items}: {_listed(right, '.1%')}; gain {gain:+.1%} (bar {settings.gain:.0%}). "
        f"Final loss: {_listed(loss, '.2f')}; gap {gap:.2f} (bar {settings.gap})."
    )
    return Verdict(holds=gain >= settings.gain and gap >= settings.gap, sentence=sentence)


def plot(result: Result, path: Path) -> None:
    """Accuracies and losses by condition, a point a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.8), dpi=120, layout="constrained")
    panels = (result.accuracies, f"right labels ({result.items})"), (result.losses, "final loss, nats per token")
    for axes, (values, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for place, points in enumerate(values.values()):
            axes.bar(place, fmean(points), width=0.6, color="#9db7e8")
            axes.scatter([place] * len(points), points, color="#1c2330", s=14, zorder=3)
        axes.set_xticks(range(len(values)), [name.replace(", ", "\n") for name in values], fontsize=8)
        axes.set(ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _listed(means: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {mean:{form}}" for name, mean in means.items())
