"""GPT-2's thesis at laptop scale: tasks without training for them.

A model is trained on text alone (Python's documentation). Then it takes a two-way test that nobody trained it for:
which of two lines comes next? The two lines are nearly equally long, and both come from held-out documents. It answers
with the line whose log-likelihood the context raises more, log p(line | context) - log p(line): the normalization of
GPT-3, section 2.4, without which a model this small mostly prefers the more ordinary line. Controls: that plain
likelihood, and an untrained model (chance).
"""

import math
import random
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bedplate.data.text import Document, open_corpus
from bedplate.data.tokenize import Tokenizer
from bedplate.evaluate.language import continuation_logprobs
from bedplate.experiments.experiment import Verdict
from bedplate.models import build
from bedplate.recipes.gpt2 import quickstart
from bedplate.recipes.run import load_run, start

CLAIM = (
    "A language model trained on text alone performs tasks it was not trained for, by likelihood (sections 1 and 3)."
)
CONTEXT_LINES = 6


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to run, and what the claim asks for there."""

    steps: int
    seeds: int
    pairs: int
    bar: float  # mean accuracy over seeds; chance is 0.5


SCALES = {
    "smoke": Scale(steps=120, seeds=1, pairs=400, bar=0.55),
    "small": Scale(steps=1000, seeds=3, pairs=300, bar=0.75),
}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What went before, the line that came next, and a line from elsewhere."""

    context: str
    true: str
    other: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """Accuracies by seed."""

    scale: str
    pairs: int
    trained: tuple[float, ...]
    plain_likelihood: tuple[float, ...]  # the same trained models, without the normalization
    untrained: tuple[float, ...]


def run(scale: str, *, watch: Callable[[str], None] = print) -> Result:
    """Train one model a seed and give each the same questions."""
    settings = SCALES[scale]
    rows: list[tuple[float, float, float]] = []
    for seed in range(settings.seeds):
        watch(f"seed {seed}: training {settings.steps} steps")
        recipe = replace(quickstart(), steps=settings.steps, seed=seed, evaluate_every=10**9, checkpoint_every=10**9)
        questions = make_questions(open_corpus(recipe.data.corpus).held_out, number=settings.pairs)
        torch.manual_seed(seed)
        untrained = build(recipe.model).eval()
        with tempfile.TemporaryDirectory() as folder:
            start(recipe, Path(folder) / "run", watch=_every(settings.steps // 4, watch))
            trained, tokenizer = load_run(Path(folder) / "run")
        rows.append((*accuracies(trained, tokenizer, questions), accuracies(untrained, tokenizer, questions)[0]))
        watch(
            f"seed {seed}: {rows[-1][0]:.3f} right; {rows[-1][1]:.3f} by plain likelihood; untrained {rows[-1][2]:.3f}"
        )
    by_condition = list(zip(*rows, strict=True))
    return Result(
        scale=scale,
        pairs=settings.pairs,
        trained=by_condition[0],
        plain_likelihood=by_condition[1],
        untrained=by_condition[2],
    )


def make_questions(documents: Iterable[Document], *, number: int) -> list[Question]:
    """Questions from held-out documents, the same for every seed; a wrong line comes from another document."""
    chooser = random.Random(0)
    places = []
    for document in documents:
        lines = [line for line in document.text.splitlines() if line.strip()]
        for index in range(CONTEXT_LINES, len(lines)):
            if 30 <= len(lines[index]) <= 80:
                places.append((document.name, "\n".join(lines[index - CONTEXT_LINES : index]) + "\n", lines[index]))
    questions = []
    for name, context, true in chooser.sample(places, number):
        others = [line for other, _, line in places if other != name and abs(len(line) - len(true)) <= 2]
        questions.append(Question(context=context, true=true, other=chooser.choice(others)))
    return questions


def accuracies(model: Any, tokenizer: Tokenizer, questions: Sequence[Question]) -> tuple[float, float]:
    """Share of questions answered rightly: by what the context adds to the log-likelihood, and by plain likelihood."""
    room = model.config.context_length
    with_context, alone = [], []
    for question in questions:
        context = tokenizer.encode(question.context)
        for line in (question.true, question.other):
            ids = tokenizer.encode(line)[: room - 1]
            with_context.append((context[-(room - len(ids)) :], ids))
            alone.append(([tokenizer.end_id], ids))
    plain = continuation_logprobs(model, with_context)
    added = [given - prior for given, prior in zip(plain, continuation_logprobs(model, alone), strict=True)]
    return _share_right(added), _share_right(plain)


def _share_right(scores: Sequence[float]) -> float:
    right = [true > other for true, other in zip(scores[::2], scores[1::2], strict=True)]
    return sum(right) / len(right)


def check(result: Result) -> Verdict:
    """The mean over seeds reaches the bar, and beats the untrained model by more than two standard errors."""
    mean, plain, untrained = (_mean(part) for part in (result.trained, result.plain_likelihood, result.untrained))
    bar = SCALES[result.scale].bar
    margin = 2 * math.sqrt(2 * 0.25 / result.pairs)  # of a difference of two proportions; seeds share the questions
    sentence = (
        f"The true next line was chosen in {mean:.1%} of {result.pairs} questions (bar {bar:.0%}; "
        f"{len(result.trained)} seed(s), {min(result.trained):.1%} to {max(result.trained):.1%}); "
        f"untrained {untrained:.1%} (margin asked {margin:.1%}); by plain likelihood {plain:.1%}."
    )
    return Verdict(holds=mean >= bar and mean > untrained + margin, sentence=sentence)


def plot(result: Result, path: Path) -> None:
    """Accuracy of the three conditions, a point a seed, with chance and the bar."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    parts = {
        "untrained": result.untrained,
        "trained,\nplain likelihood": result.plain_likelihood,
        "trained": result.trained,
    }
    for place, values in enumerate(parts.values()):
        axes.bar(place, _mean(values), width=0.6, color=("#d0d5dd", "#9db7e8", "#4a6fb5")[place])
        axes.scatter([place] * len(values), values, color="#1c2330", s=14, zorder=3)
    axes.axhline(0.5, color="#667085", linewidth=1, linestyle=":", label="chance")
    axes.axhline(SCALES[result.scale].bar, color="#c2410c", linewidth=1, linestyle="--", label="bar of the claim")
    axes.set_xticks(range(3), list(parts))
    axes.set(ylim=(0, 1), ylabel=f"true next line chosen ({result.pairs} pairs)")
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _every(steps: int, watch: Callable[[str], None]) -> Callable[[dict[str, Any]], None]:
    def tell(metrics: dict[str, Any]) -> None:
        if metrics["step"] % max(1, steps) == 0:
            watch(f"  step {metrics['step']}: loss {metrics['loss']:.3f}")

    return tell
