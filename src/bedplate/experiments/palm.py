"""PaLM's blocks at laptop scale: what is simpler costs nothing.

Three models of equal size learn Python's documentation. PaLM's own: attention and MLP side by side on one norm, all
queries on one head of keys and values. The same with attention and MLP one after the other, each on a norm of its own.
The same with a head of keys and values for every head of queries, and an MLP that is narrower by these parameters. They
are compared by held-out bits per byte, seed by seed; the size of their caches is read off, and steps are timed.
"""

import itertools
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bedplate.bench.measure import take_turns
from bedplate.experiments.experiment import Verdict, train_to_end
from bedplate.models.palm import Block, Config, PaLM
from bedplate.nn.norm import LayerNorm
from bedplate.recipes.palm import quickstart
from bedplate.recipes.recipe import Recipe
from bedplate.train.loop import Settings

CLAIM = (
    "Attention and MLP side by side, and one head of keys and values for all queries, are as good as one after the"
    " other and a head each; the one head divides the cache by the number of heads (section 2)."
)
OURS, SERIAL, HEADS = "PaLM", "one after the other", "a head of keys each"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to run, and what the claim asks for there."""

    sizes: dict[str, int]
    steps: int
    seeds: int
    bar: float  # bits per byte by which PaLM may be worse than either, in the mean over seeds


SCALES = {
    "smoke": Scale(
        sizes={"vocab_size": 512, "context_length": 64, "dim": 64, "num_layers": 2, "head_dim": 16, "mlp_dim": 256},
        steps=40, seeds=1, bar=0.1,
    ),
    "small": Scale(sizes={"mlp_dim": 512}, steps=300, seeds=3, bar=0.02),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Result:
    """By kind of model."""

    scale: str
    num_heads: int
    bits_per_byte: dict[str, tuple[float, ...]]  # by seed
    parameters: dict[str, int]
    cache: dict[str, int]  # bytes a token
    seconds: dict[str, float]  # of a forward and backward pass; PaLM and the serial one


class SerialBlock(Block):
    """The MLP reads what attention has added."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.mlp_norm = LayerNorm(config.dim, eps=config.norm_eps, bias=False)

    def forward(
        self, x: Float[Tensor, "batch length dim"], *, bias: Any, rotary: Any, state: Any
    ) -> Float[Tensor, "batch length dim"]:
        x = x + self.attention(self.norm(x), bias=bias, rotary=rotary, state=state)
        return x + self.mlp(self.mlp_norm(x))


def models(config: Config) -> dict[str, PaLM]:
    """The three, of equally many parameters but for the second norms."""
    serial = PaLM(config)
    serial.blocks = nn.ModuleList(SerialBlock(config) for _ in range(config.num_layers))
    serial.initialize()
    saved = 2 * (config.num_heads - config.num_kv_heads) * config.head_dim  # columns, of which the MLP has three sorts
    narrower = (config.mlp_dim or 4 * config.dim) - saved // 3
    heads = PaLM(replace(config, num_kv_heads=config.num_heads, mlp_dim=narrower))
    return {OURS: PaLM(config), SERIAL: serial, HEADS: heads}


def run(scale: str, *, watch: Callable[[str], None] = print) -> Result:
    """Train each kind with each seed on the same batches."""
    settings, found = SCALES[scale], dict[str, tuple[float, ...]]()
    recipe = quickstart()
    recipe = replace(recipe, model=replace(recipe.model, **settings.sizes), steps=settings.steps)
    torch.manual_seed(0)
    fresh = models(recipe.model)
    for seed, name in itertools.product(range(settings.seeds), fresh):
        found[name] = (*found.get(name, ()), _learned(replace(recipe, seed=seed), name))
        watch(f"seed {seed}: {name}: {found[name][-1]:.3f} bits per byte")
    ids = torch.randint(recipe.model.vocab_size, (recipe.batch_size, recipe.model.context_length))
    turns = take_turns(_pass(fresh[OURS], ids), _pass(fresh[SERIAL], ids), repeats=7)
    return Result(
        scale=scale,
        num_heads=recipe.model.num_heads,
        bits_per_byte=found,
        parameters={name: sum(each.numel() for each in model.parameters()) for name, model in fresh.items()},
        cache={name: _cache(model) for name, model in fresh.items()},
        seconds=dict(zip((OURS, SERIAL), turns, strict=True)),
    )


def _learned(recipe: Recipe, name: str) -> float:
    """Held-out bits per byte after training."""
    prepared = recipe.data.prepare(recipe)
    torch.manual_seed(recipe.seed)
    model = models(recipe.model)[name]
    settings = Settings(
        steps=recipe.steps, micro_batch_size=recipe.micro_batch_size, optimizer=recipe.optimizer,
        schedule=replace(recipe.schedule, warmup_steps=recipe.steps // 10), seed=recipe.seed,
        checkpoint_every=recipe.steps,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        train_to_end(model, prepared.source, recipe.objective, settings, Path(folder))
    return prepared.probe(model)[prepared.best]


def _pass(model: PaLM, ids: Tensor) -> Callable[[], None]:
    return lambda: model(ids).logsumexp(-1).sum().backward()


def _cache(model: PaLM) -> int:
    return sum(each.nbytes for layer in model.new_state(1, capacity=1) for each in (layer.keys, layer.values))


def check(result: Result) -> Verdict:
    """In the mean over seeds not worse than either by more than the bar; the cache is smaller by the heads exactly."""
    worse = {name: _worse(result, name) for name in (SERIAL, HEADS)}
    smaller = result.cache[HEADS] / result.cache[OURS]
    told = ", ".join(f"{mean:+.3f} +- {error:.3f} against {name!r}" for name, (mean, error) in worse.items())
    share = result.seconds[OURS] / result.seconds[SERIAL]
    sentence = (
        f"PaLM's blocks: {fmean(result.bits_per_byte[OURS]):.3f} bits per byte, {told} (bar "
        f"{SCALES[result.scale].bar:+.2f}; {len(result.bits_per_byte[OURS])} seed(s)); the cache is {smaller:g} times"
        f" smaller with {result.num_heads} heads; a pass takes {share:.2f} of the serial time."
    )
    good = all(mean <= SCALES[result.scale].bar for mean, _ in worse.values())
    return Verdict(holds=good and smaller == result.num_heads, sentence=sentence)


def _worse(result: Result, name: str) -> tuple[float, float]:
    """By how many bits per byte PaLM is worse, seed by seed: mean and its standard error (of one seed: 0)."""
    pairs = zip(result.bits_per_byte[OURS], result.bits_per_byte[name], strict=True)
    gaps = [ours - other for ours, other in pairs]
    return fmean(gaps), stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0


def plot(result: Result, path: Path) -> None:
    """Bits per byte, a point a seed, and the bytes that a token takes in the cache."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, (name, values) in enumerate(result.bits_per_byte.items()):
        left.scatter([place] * len(values), values, s=18, color="#4a6fb5", zorder=3)
        left.hlines(fmean(values), place - 0.3, place + 0.3, color="#1c2330")
        right.bar(place, result.cache[name], width=0.6, color="#9db7e8")
    left.set_ylabel("held-out bits per byte")
    right.set_ylabel("cache, bytes a token")
    for axes in (left, right):
        axes.set_xticks(range(3), [name.replace(" of ", "\nof ").replace(" the ", "\nthe ") for name in result.cache])
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
