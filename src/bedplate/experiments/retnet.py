"""RetNet's "impossible triangle" at laptop scale: learned in parallel, written at a constant cost, and as good.

RetNet and a Transformer of the same size (GPT-2's blocks, learned positions) learn Python's documentation on the same
batches of short windows and predict held-out text. RetNet is then measured in windows four times as long, where learned
positions end. Tokens are written behind short and long texts: the Transformer's grow slower with its cache, RetNet's
state stays as it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from bedplate.bench.measure import take_turns
from bedplate.data.source import sequential_windows
from bedplate.evaluate.language import likelihood
from bedplate.experiments.experiment import Verdict, train_to_end
from bedplate.models import gpt2, retnet
from bedplate.recipes.recipe import Recipe
from bedplate.recipes.retnet import pydocs
from bedplate.train.loop import Settings, Source

CLAIM = (
    "Retention predicts text at least as well as attention of equal size, and writing a token costs the same behind a "
    "text of any length (sections 2 and 3)."
)
RETNET, TRANSFORMER = "RetNet", "Transformer"
FACTOR = 4  # by which windows are longer than in training
LONGER = 0.15  # nats a token that these may cost
BATCH = 2048  # tokens that are evaluated together


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to run, and what the claim asks for there."""

    steps: int
    seeds: int
    tokens: int  # held out
    ahead: float  # nats a token by which RetNet must be better
    position: int  # far one at which writing is timed
    flat: float  # times that a token may take there, compared with one at position 64


SCALES = {
    # RetNet begins more slowly: shows that everything runs. Timed where others may be at work.
    "smoke": Scale(steps=80, seeds=1, tokens=8192, ahead=-0.2, position=2048, flat=1.5),
    "small": Scale(steps=600, seeds=3, tokens=131_072, ahead=0.03, position=4096, flat=1.15),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Nats a held-out token by model, a number a seed, and milliseconds a step of writing, near and far."""

    scale: str
    parameters: Mapping[str, int]  # of the blocks
    nats: Mapping[str, tuple[float, ...]]
    longer: tuple[float, ...]  # RetNet's in long windows
    milliseconds: Mapping[str, tuple[float, float]]  # at position 64, and far out
    state: Mapping[str, tuple[int, int]]  # bytes a sequence that a token reads, at the same two


def run(scale: str, *, watch: Callable[[str], None] = print) -> Result:
    """Train both with each seed, measure them, and time them."""
    settings, base = SCALES[scale], pydocs()
    base = replace(base, steps=settings.steps)
    prepared = base.data.prepare(base)
    nats: dict[str, tuple[float, ...]] = {RETNET: (), TRANSFORMER: ()}
    longer: tuple[float, ...] = ()
    models: dict[str, Any] = {}
    for seed in range(settings.seeds):
        recipe = replace(base, seed=seed)
        source = recipe.data.prepare(recipe, tokenizer=prepared.tokenizer).source
        for name in nats:
            models[name] = model = _learn(name, recipe, source)
            held_out = prepared.parts[0].held_out
            nats[name] = *nats[name], _nats(model, held_out, base.model.context_length, settings.tokens)
            watch(f"seed {seed}, {name}: {nats[name][-1]:.3f} nats a token")
        longer = *longer, _nats(models[RETNET], held_out, FACTOR * base.model.context_length, settings.tokens)
        watch(f"seed {seed}, {RETNET} in windows {FACTOR} times as long: {longer[-1]:.3f}")
    near, far = 64, settings.position
    sizes = {"vocab_size": 64, "context_length": far + 64, "dim": 256, "num_layers": 4, "num_heads": 4}
    wide = retnet.Config(**sizes, value_dim=512, mlp_dim=512)
    timed = {RETNET: retnet.RetNet(wide), TRANSFORMER: gpt2.GPT2(gpt2.Config(**sizes))}
    seconds = {name: take_turns(_writing(each, near), _writing(each, far), repeats=25) for name, each in timed.items()}
    return Result(
        scale=scale,
        parameters={name: sum(p.numel() for p in model.blocks.parameters()) for name, model in models.items()},
        nats=nats,
        longer=longer,
        milliseconds={name: (1e3 * one, 1e3 * other) for name, (one, other) in seconds.items()},
        state={name: (_bytes(each, near), _bytes(each, far)) for name, each in timed.items()},
    )


def _learn(name: str, recipe: Recipe, source: Source) -> nn.Module:
    torch.manual_seed(recipe.seed)
    config = recipe.model
    sizes = {key: getattr(config, key) for key in ("vocab_size", "context_length", "dim", "num_layers")}
    twin = gpt2.Config(**sizes, num_heads=4, dropout=0.0)
    model: nn.Module = retnet.RetNet(config) if name == RETNET else gpt2.GPT2(twin)
    settings = Settings(
        steps=recipe.steps, micro_batch_size=recipe.micro_batch_size, optimizer=recipe.optimizer,
        schedule=recipe.schedule, seed=recipe.seed, checkpoint_every=10**9,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        train_to_end(model, source, recipe.objective, settings, Path(folder))
    return model.eval()


def _nats(model: nn.Module, held_out: Any, length: int, tokens: int) -> float:
    windows = sequential_windows(held_out, length=length, batch_size=BATCH // length)
    found = likelihood(model, islice(windows, tokens // BATCH))
    return found.nats / found.tokens


def _writing(model: Any, position: int, *, batch: int = 8) -> Callable[[], None]:
    """A token behind so many others in each of several sequences. What these were costs the same: they are nothing."""
    model = model.eval()
    state = model.new_state(batch, capacity=position + 64)
    for layer in state:
        layer.count(position)
    token = torch.zeros(batch, 1, dtype=torch.long)

    def step() -> None:
        with torch.inference_mode():
            model(token, state=state)

    return step


def _bytes(model: Any, position: int) -> int:
    return sum(layer.nbytes for layer in model.new_state(1, capacity=position))


def check(result: Result) -> Verdict:
    """Means over seeds, and medians of times."""
    scale = SCALES[result.scale]
    ahead = mean(result.nats[TRANSFORMER]) - mean(result.nats[RETNET])
    cost = mean(result.longer) - mean(result.nats[RETNET])
    slower = {name: far / near for name, (near, far) in result.milliseconds.items()}
    grows = {name: far / near for name, (near, far) in result.state.items()}
    sentence = (
        f"RetNet {mean(result.nats[RETNET]):.3f} nats a token, Transformer {mean(result.nats[TRANSFORMER]):.3f} "
        f"({ahead:+.3f}, bar {scale.ahead:+}; {len(result.longer)} seed(s)); in windows {FACTOR} times as long RetNet "
        f"costs {cost:+.3f} (bar {LONGER:+}). A token at {scale.position} takes {slower[RETNET]:.2f} times that at 64 "
        f"(bar {scale.flat}), a Transformer's {slower[TRANSFORMER]:.2f}; what it reads is {grows[RETNET]:g} and "
        f"{grows[TRANSFORMER]:g} times as large."
    )
    holds = ahead >= scale.ahead and cost <= LONGER and slower[RETNET] <= scale.flat and grows[RETNET] == 1
    return Verdict(holds=holds and slower[RETNET] < slower[TRANSFORMER], sentence=sentence)


def plot(result: Result, path: Path) -> None:
    """Losses, a point a seed, and times of writing a token."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    values = {TRANSFORMER: result.nats[TRANSFORMER], RETNET: result.nats[RETNET], f"RetNet, {FACTOR} x": result.longer}
    for place, each in enumerate(values.values()):
        left.scatter([place] * len(each), each, s=18, color="#4a6fb5", zorder=3)
        left.hlines(mean(each), place - 0.3, place + 0.3, color="#1c2330")
    left.set_xticks(range(len(values)), list(values))
    left.set_ylabel("nats a held-out token")
    places = ["64", str(SCALES[result.scale].position)]
    for name, color in ((TRANSFORMER, "#c2410c"), (RETNET, "#4a6fb5")):
        right.plot(places, result.milliseconds[name], marker="o", color=color, label=name)
    right.set(xlabel="position", ylabel="milliseconds a token, 8 sequences", ylim=(0, None))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
