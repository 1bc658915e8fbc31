"""GPT-3's two curves at laptop scale: loss falls with size as a power law, and larger models make more of the context.

Models of several sizes read the same batches of Python's documentation. The law is fitted to the losses of all but the
largest, which it then must predict. What a model makes of the context is how much better it predicts tokens late in a
window than its first ones, which is what the paper calls learning from the prompt in its plainest form (figure 1.1).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F

from bedplate.data.source import sequential_windows
from bedplate.evaluate.scaling import Law, fit, hold_out
from bedplate.experiments.experiment import Verdict, train_to_end
from bedplate.models.gpt3 import GPT3
from bedplate.recipes.gpt3 import pydocs
from bedplate.recipes.recipe import Recipe
from bedplate.train.loop import Settings, Source

CLAIM = (
    "The loss falls with the number of parameters as a power law (figure 3.1), and the larger the model the more it "
    "makes of its context (figure 1.2)."
)
EARLY, LATE = 8, 32  # the first positions of a window, and those from here on
BATCH = 2048  # tokens that are evaluated together


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to run, and what the claim asks for there."""

    sizes: tuple[tuple[int, int], ...]  # dim and layers
    steps: int
    seeds: int
    tokens: int  # held out
    fit: float  # R^2
    context: float  # nats by which the largest model does better late in a window; 0: not asked
    error: float  # share by which the law may miss the largest model


SCALES = {
    # Too short to make anything of the context.
    "smoke": Scale(sizes=((16, 2), (32, 2), (64, 3)), steps=80, seeds=1, tokens=8192, fit=0.8, context=0.0, error=0.15),
    "small": Scale(
        sizes=((16, 2), (24, 2), (32, 2), (64, 3), (128, 4)), steps=1000, seeds=2, tokens=65_536, fit=0.93,
        context=0.15, error=0.05,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Result:
    """By number of parameters without embeddings, a number a seed."""

    scale: str
    nats: Mapping[int, tuple[float, ...]]  # a held-out token
    gains: Mapping[int, tuple[float, ...]]  # nats that tokens late in a window are easier than early ones


def run(scale: str, *, watch: Callable[[str], None] = print) -> Result:
    """Train every size with every seed."""
    settings, base = SCALES[scale], replace(pydocs(), steps=SCALES[scale].steps)
    prepared = base.data.prepare(base)
    nats, gains = dict[int, tuple[float, ...]](), dict[int, tuple[float, ...]]()
    for dim, layers in settings.sizes:
        for seed in range(settings.seeds):
            sizes = {"dim": dim, "num_layers": layers, "num_heads": max(1, dim // 16)}
            recipe = replace(base, seed=seed, model=replace(base.model, **sizes))
            recipe = replace(recipe, optimizer=replace(recipe.optimizer, lr=min(4e-3, 0.25 / dim)))
            source = recipe.data.prepare(recipe, tokenizer=prepared.tokenizer).source
            model = _learn(recipe, source)
            count = sum(parameter.numel() for parameter in model.blocks.parameters())
            loss, gain = _measure(model, prepared.parts[0].held_out, settings.tokens)
            nats[count], gains[count] = (*nats.get(count, ()), loss), (*gains.get(count, ()), gain)
            watch(f"{count:,} parameters, seed {seed}: {loss:.3f} nats a token, {gain:.3f} fewer late in a window")
    return Result(scale=scale, nats=nats, gains=gains)


def _learn(recipe: Recipe, source: Source) -> GPT3:
    torch.manual_seed(recipe.seed)
    model = GPT3(recipe.model)
    settings = Settings(
        steps=recipe.steps, micro_batch_size=recipe.micro_batch_size, optimizer=recipe.optimizer,
        schedule=recipe.schedule, seed=recipe.seed, checkpoint_every=10**9,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        train_to_end(model, source, recipe.objective, settings, Path(folder))
    return model.eval()


def _measure(model: GPT3, held_out: Any, tokens: int) -> tuple[float, float]:
    """Nats a token, and how many fewer those late in a window cost."""
    length = model.config.context_length
    windows = sequential_windows(held_out, length=length, batch_size=BATCH // length)
    found = []
    for batch in islice(windows, tokens // BATCH):
        if (batch["targets"] >= 0).all():  # whole windows
            with torch.inference_mode():
                logits = model(batch["ids"])
            found.append(F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), reduction="none"))
    by_place = torch.cat(found).unflatten(0, (-1, length)).double().mean(dim=0)
    return by_place.mean().item(), (by_place[:EARLY].mean() - by_place[LATE:].mean()).item()


def law_of(result: Result) -> Law:
    """Of all runs."""
    return fit([(count, loss) for count, losses in result.nats.items() for loss in losses])


def check(result: Result) -> Verdict:
    """Means over seeds fall and gains grow from size to size; the law fits, and foresees the largest."""
    scale, sizes = SCALES[result.scale], sorted(result.nats)
    losses = [fmean(result.nats[size]) for size in sizes]
    gains = [fmean(result.gains[size]) for size in sizes]
    law = law_of(result)
    (largest,) = hold_out([(size, loss) for size in sizes for loss in result.nats[size]], 1)
    error = largest.predicted / largest.loss - 1
    sentence = (
        f"{len(sizes)} sizes, {len(result.nats[sizes[0]])} seed(s): {losses[0]:.3f} to {losses[-1]:.3f} nats a token, "
        f"{law} of the parameters, R^2 {law.fit:.3f} (bar {scale.fit}). The smaller foresee {largest.predicted:.3f} "
        f"for the largest ({error:+.1%}, bar {scale.error:.0%}). Late in a window tokens cost {gains[0]:.3f} to "
        f"{gains[-1]:.3f} nats less (bar {scale.context or 'none'})."
    )
    falls = all(before > after for before, after in zip(losses, losses[1:], strict=False))
    grows = all(before < after for before, after in zip(gains, gains[1:], strict=False))
    context = not scale.context or (grows and gains[-1] >= scale.context)
    holds = falls and context and law.fit >= scale.fit and abs(error) <= scale.error
    return Verdict(holds=holds, sentence=sentence)


def plot(result: Result, path: Path) -> None:
    """Losses with the law, and what the context gives, a point a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 3.4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes, law = sorted(result.nats), law_of(result)
    left.plot(sizes, [law.at(size) for size in sizes], color="#1c2330", linewidth=1, label=str(law))
    for axes, values in ((left, result.nats), (right, result.gains)):
        for size in sizes:
            axes.scatter([size] * len(values[size]), values[size], s=18, color="#4a6fb5", zorder=3)
        axes.set_xscale("log")
        axes.set_xlabel("parameters without embeddings")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("nats a held-out token")
    left.legend(frameon=False)
    right.set_ylabel(f"nats that tokens {LATE} to 63 cost less than 0 to {EARLY - 1}")
    figure.savefig(path)
