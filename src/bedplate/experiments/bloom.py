"""ALiBi's title at laptop scale: train short, test long.

Three models that differ in nothing but how they know positions learn Python's documentation in windows of 64 tokens:
linear biases (BLOOM), the Transformer's sinusoids, and learned positions. Then they predict held-out text in windows of
up to eight times that length. All predict the same tokens; longer windows only let more of them be seen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bedplate.data.source import sequential_windows
from bedplate.evaluate.language import likelihood
from bedplate.experiments.experiment import Verdict, train_to_end
from bedplate.models.bloom import BLOOM
from bedplate.models.transformer import Sinusoids
from bedplate.nn.attend import Bias
from bedplate.nn.position import CAUSAL
from bedplate.recipes.bloom import pydocs
from bedplate.recipes.recipe import Recipe
from bedplate.train.loop import Settings, Source

CLAIM = (
    "With linear biases a model that was trained on short texts predicts longer ones at least as well; with sinusoids "
    "it does not, and learned positions end where training did (Press et al. 2022, sections 1 and 4.1)."
)
ALIBI, SINUSOIDS, LEARNED = "ALiBi", "sinusoids", "learned positions"
BATCH = 2048  # tokens that are evaluated together
SEES = 0.05  # nats a token that longer windows may cost with ALiBi
IN_LENGTH = 0.03  # that ALiBi may be behind learned positions where these work


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to run, and what the claim asks for there."""

    steps: int
    batch_size: int
    seeds: int
    tokens: int  # held-out ones that are predicted
    factors: tuple[int, ...]  # of the length of training
    fails: float  # nats that longer windows must cost with sinusoids


SCALES = {
    # Too short for positions to matter much: shows that everything runs, and the direction.
    "smoke": Scale(steps=120, batch_size=12, seeds=1, tokens=16_384, factors=(1, 8), fails=0.05),
    "small": Scale(steps=600, batch_size=24, seeds=3, tokens=131_072, factors=(1, 2, 4, 8), fails=0.3),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Nats a held-out token, by positions and length of the window, a number a seed."""

    scale: str
    trained_length: int
    nats: Mapping[str, Mapping[int, tuple[float, ...]]]


class Placed(nn.Module):
    """Token embeddings with positions added, the tokens at the Transformer's scale beside its sinusoids."""

    def __init__(self, tokens: nn.Embedding, positions: nn.Module) -> None:
        super().__init__()
        self.tokens, self.positions = tokens, positions

    @property
    def weight(self) -> Tensor:
        """What is also the output layer."""
        return self.tokens.weight

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length dim"]:
        scale = self.tokens.embedding_dim**0.5 if isinstance(self.positions, Sinusoids) else 1.0
        return self.tokens(ids) * scale + self.positions(torch.arange(ids.shape[1], device=ids.device)[None])


class Positioned(BLOOM):
    """BLOOM with positions added to its embeddings instead of biases."""

    def __init__(self, config: Any, positions: nn.Module) -> None:
        super().__init__(config)
        self.token_embedding: Any = Placed(self.token_embedding, positions)

    def bias(self, documents: Tensor | None) -> Bias:
        """Only what a token may see."""
        return CAUSAL


def run(scale: str, *, watch: Callable[[str], None] = print) -> Result:
    """Train each model with each seed, and measure it at each length."""
    settings = SCALES[scale]
    size = settings.batch_size
    base = replace(pydocs(), steps=settings.steps, batch_size=size, micro_batch_size=size)
    length, prepared = base.model.context_length, base.data.prepare(base)
    nats: dict[str, dict[int, tuple[float, ...]]] = {name: {} for name in (ALIBI, SINUSOIDS, LEARNED)}
    for seed in range(settings.seeds):
        for name, by_length in nats.items():
            recipe = replace(base, seed=seed)
            model = _learn(name, recipe, recipe.data.prepare(recipe, tokenizer=prepared.tokenizer).source)
            for factor in settings.factors if name != LEARNED else (1,):
                long = factor * length
                windows = sequential_windows(prepared.parts[0].held_out, length=long, batch_size=BATCH // long)
                found = likelihood(model, islice(windows, settings.tokens // BATCH))
                by_length[long] = *by_length.get(long, ()), found.nats / found.tokens
            told = ", ".join(f"{values[-1]:.3f} at {each}" for each, values in by_length.items())
            watch(f"seed {seed}, {name}: {told}")
    return Result(scale=scale, trained_length=length, nats=nats)


def _learn(name: str, recipe: Recipe, source: Source) -> nn.Module:
    torch.manual_seed(recipe.seed)
    if name == ALIBI:
        model: nn.Module = BLOOM(recipe.model)
    elif name == SINUSOIDS:
        model = Positioned(recipe.model, Sinusoids(recipe.model.dim))
    else:
        table = nn.Embedding(recipe.model.context_length, recipe.model.dim)
        nn.init.normal_(table.weight, std=(3 * recipe.model.dim) ** -0.5)
        model = Positioned(recipe.model, table)
    settings = Settings(
        steps=recipe.steps, micro_batch_size=recipe.micro_batch_size, optimizer=recipe.optimizer,
        schedule=recipe.schedule, seed=recipe.seed, checkpoint_every=10**9,
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        train_to_end(model, source, recipe.objective, settings, Path(folder))
    return model.eval()


def check(result: Result) -> Verdict:
    """Means over seeds: what the longest windows cost, and how well each does at the length of training."""
    fails = SCALES[result.scale].fails
    short, long = result.trained_length, max(result.nats[ALIBI])
    costs = {name: mean(result.nats[name][long]) - mean(result.nats[name][short]) for name in (ALIBI, SINUSOIDS)}
    behind = mean(result.nats[ALIBI][short]) - mean(result.nats[LEARNED][short])
    sentence = (
        f"Trained at {short} tokens and read at {long}, a token costs {costs[ALIBI]:+.3f} nats with ALiBi (bar at most "
        f"{SEES:+}), {costs[SINUSOIDS]:+.3f} with sinusoids (bar at least {fails:+}); at {short} ALiBi is "
        f"{behind:+.3f} from learned positions (bar at most {IN_LENGTH:+}); {len(result.nats[ALIBI][short])} seed(s)."
    )
    holds = costs[ALIBI] <= SEES and costs[SINUSOIDS] >= fails and behind <= IN_LENGTH
    return Verdict(holds=holds, sentence=sentence)


def plot(result: Result, path: Path) -> None:
    """Loss over the length that is read, a point a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    for (name, by_length), color in zip(result.nats.items(), ("#4a6fb5", "#c2410c", "#1c2330"), strict=True):
        lengths = list(by_length)
        axes.plot(lengths, [mean(values) for values in by_length.values()], marker="o", color=color, label=name)
        for length, values in by_length.items():
            axes.scatter([length] * len(values), values, color=color, s=12)
    axes.axvline(result.trained_length, color="#667085", linewidth=1, linestyle=":", label="length of training")
    axes.set_xscale("log", base=2, subs=())
    axes.set_xticks(list(result.nats[ALIBI]), [str(length) for length in result.nats[ALIBI]])
    axes.set(xlabel="tokens read at a time", ylabel="nats a held-out token")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
