"""GPT-1's thesis at laptop scale: read first, then learn the task.

A language model reads the source code of five packages of Python's standard library. Then it is fine-tuned to tell
from which of the five a snippet is, with few labels, and measured on snippets of files that neither phase has seen.
Control: the same fine-tuning of a model that has read nothing. Both with and without language modeling beside the
task (lambda = 0.5 and 0), which the paper compares, too (table 5).

A second claim, which GPT-2 answered: the norms of GPT-1 stand after the residual sums, and such a model needs a warm-up.
"""

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bedplate.data.labeled import PACKAGES
from bedplate.data.python_library import read_stdlib
from bedplate.experiments.experiment import Verdict
from bedplate.files import read_json
from bedplate.models import gpt2
from bedplate.recipes.gpt1 import finetune, pydocs
from bedplate.recipes.recipe import Recipe
from bedplate.recipes.run import start
from bedplate.recipes.text import Text
from bedplate.train.report import RESULT
from bedplate.train.run import read_metrics
from bedplate.train.schedule import Constant, WarmupCosine, WarmupLinear

CLAIM = (
    "A model that was trained to predict text learns a task from few labels better than one that was not (section 5,"
    " table 5); and its norms after the residual sums need a warm-up, which norms before them do not (GPT-2)."
)
LAST = 20  # steps at the end over which a training loss is averaged
NEVER = 10**9


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to run, and what the claim asks for there."""

    dim: int
    num_layers: int
    steps: int  # of pre-training
    labels: int
    epochs: int
    seeds: int
    gain: float  # asked of pre-training, in accuracy
    norm_steps: int
    norm_dim: int
    gap: float  # asked between norms before and after, without warm-up, in nats per token


SCALES = {
    "smoke": Scale(
        dim=64, num_layers=2, steps=250, labels=100, epochs=10, seeds=1, gain=0.03, norm_steps=120, norm_dim=32, gap=0.1
    ),
    "small": Scale(
        dim=128,
        num_layers=3,
        steps=1500,
        labels=200,
        epochs=15,
        seeds=3,
        gain=0.1,
        norm_steps=500,
        norm_dim=64,
        gap=0.3,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Accuracies by seed, and final training losses by seed."""

    scale: str
    items: int
    accuracies: dict[str, tuple[float, ...]]  # by origin and lambda
    losses: dict[str, tuple[float, ...]]  # by norms and warm-up


def run(scale: str, *, watch: Callable[[str], None] = print) -> Result:
    """Pre-train once, fine-tune in each condition and seed; then train with either norm."""
    settings = SCALES[scale]
    accuracies: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text = Text(corpus=str(write_packages(folder / "packages")))
        for name, steps in (("pre-trained", settings.steps), ("new", 1)):
            watch(f"{name}: {steps} steps of reading")
            start(reading(settings, text, steps=steps), folder / name, watch=_nothing)
        for seed in range(settings.seeds):
            for origin in ("pre-trained", "new"):
                for weight in (0.5, 0.0):
                    condition, place = f"{origin}, lambda {weight}", folder / f"{origin} {weight} {seed}"
                    start(task(settings, folder / origin, weight=weight, seed=seed), place, watch=_nothing)
                    measured = read_json(place / RESULT)
                    accuracies.setdefault(condition, []).append(measured["accuracy"])
                    watch(f"seed {seed}: {condition}: {measured['accuracy']:.1%} right")
            for condition, recipe in norms(settings, text, seed=seed).items():
                start(recipe, folder / f"{condition} {seed}", watch=_nothing)
                metrics = read_metrics(folder / f"{condition} {seed}")
                losses.setdefault(condition, []).append(_mean([line["loss"] for line in metrics[-LAST:]]))
                watch(f"seed {seed}: {condition}: loss {losses[condition][-1]:.2f}")
    return Result(
        scale=scale, items=measured["items"],
        accuracies={name: tuple(values) for name, values in accuracies.items()},
        losses={name: tuple(values) for name, values in losses.items()},
    )  # fmt: skip


def write_packages(folder: Path) -> Path:
    """The files of the five packages, under the names that decide which of them are held out."""
    for name, text in read_stdlib(Counter()):
        if name.partition("/")[0] in PACKAGES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def reading(settings: Scale, text: Text, *, steps: int) -> Recipe:
    """Pre-training. After one step with almost no rate a model is new, but has the vocabulary."""
    recipe = _small(pydocs(), settings.dim, settings.num_layers)
    lr = 1e-3 if steps > 1 else 1e-12
    schedule = WarmupCosine(warmup_steps=steps // 10, final_fraction=0.0)
    return replace(recipe, data=text, optimizer=replace(recipe.optimizer, lr=lr), schedule=schedule, steps=steps)


def task(settings: Scale, origin: Path, *, weight: float, seed: int) -> Recipe:
    """Fine-tuning; the seed chooses the labels and the order, and begins the new rows and the head."""
    recipe = _small(finetune(), settings.dim, settings.num_layers)
    steps = settings.epochs * settings.labels // recipe.batch_size
    return replace(
        recipe, model=replace(recipe.model, dropout=0.1), start=str(origin), seed=seed, steps=steps,
        data=replace(recipe.data, labels=settings.labels, longest_text=recipe.model.context_length - 2),
        objective=replace(recipe.objective, language_weight=weight),
        optimizer=replace(recipe.optimizer, lr=1e-3), schedule=WarmupLinear(warmup_steps=steps // 10),
    )  # fmt: skip


def norms(settings: Scale, text: Text, *, seed: int) -> dict[str, Recipe]:
    """Eight layers at a rate of 3e-3 from the first step on, or after a warm-up: with GPT-2's block, or with GPT-1's."""
    found = {}
    for condition, recipe, warmup in (
        ("norms before", gpt2.quickstart(), 0),
        ("norms after", pydocs(), 0),
        ("norms after, warm-up", pydocs(), settings.norm_steps // 2),
    ):
        recipe = _small(recipe, settings.norm_dim, 8)
        optimizer, schedule = replace(recipe.optimizer, lr=3e-3), Constant(warmup_steps=warmup)
        recipe = replace(recipe, data=text, seed=seed, steps=settings.norm_steps)
        found[condition] = replace(recipe, optimizer=optimizer, schedule=schedule)
    return found


def _small(recipe: Recipe, dim: int, num_layers: int) -> Recipe:
    vocab_size = 1021 + 3 * hasattr(recipe.model, "num_classes")  # the marks of tasks
    sizes = {"vocab_size": vocab_size, "context_length": 64, "dim": dim, "num_layers": num_layers, "num_heads": 4}
    return replace(recipe, model=replace(recipe.model, **sizes), evaluate_every=NEVER, checkpoint_every=NEVER)


def check(result: Result) -> Verdict:
    """The better lambda of either origin, means over seeds: the gain reaches the bar and two standard errors; so does
    the gap between the norms without warm-up, and a warm-up closes it.
    """
    settings = SCALES[result.scale]
    means = {name: _mean(values) for name, values in result.accuracies.items()}
    loss = {name: _mean(values) for name, values in result.losses.items()}
    best = {origin: max(means[f"{origin}, lambda {weight}"] for weight in (0.5, 0.0)) for origin in ORIGINS}
    gain, margin = best["pre-trained"] - best["new"], 2 * math.sqrt(2 * 0.25 / result.items)
    gap = loss["norms after"] - loss["norms before"]
    closed = loss["norms after"] - loss["norms after, warm-up"]
    sentence = (
        f"Right labels of {result.items}: " + ", ".join(f"{name} {mean:.1%}" for name, mean in means.items()) + "; "
        f"gain {gain:+.1%} (bar {settings.gain:.0%}). Language modeling beside the task: "
        f"{means['pre-trained, lambda 0.5'] - means['pre-trained, lambda 0.0']:+.1%}. "
        "Final loss: " + ", ".join(f"{name} {mean:.2f}" for name, mean in loss.items()) + f" (bar {settings.gap} nats)."
    )
    return Verdict(holds=gain >= settings.gain and min(gap, closed) >= settings.gap, sentence=sentence)
