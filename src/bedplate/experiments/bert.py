"""BERT's two theses at laptop scale.

Both sides are better than one: of two models of the same sizes, which see the same sentences in the same steps, one
learns to guess hidden words from both sides, the other every next word from the left. Then both guess the same hidden
words of new sentences. German of a small grammar makes the difference plain: an article agrees with the noun behind it.

Pre-training spares labels: does a function of Python's standard library contain a loop, the words that say so taken
out? A classifier learns from a hundred labels, once from what guessing hidden tokens of other functions left, and once
from nothing.
"""

import math
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bedplate.adapt.start_from import start_from
from bedplate.data.encoder_rows import LabeledRows, Row, text_row
from bedplate.data.generated_translation import generated_pair
from bedplate.data.hidden_rows import HiddenRows, NextRows, stacked
from bedplate.data.masking import Marks
from bedplate.data.python_functions import Function, read_functions
from bedplate.data.tokenize.word_piece import WordPiece
from bedplate.experiments.experiment import Verdict, train_to_end
from bedplate.models import build
from bedplate.models.bert import ClassifierConfig, MaskedConfig
from bedplate.models.gpt1 import Config as LeftToRightConfig
from bedplate.objectives.classification import Classification
from bedplate.objectives.masked import Masked
from bedplate.objectives.next_token import NextToken
from bedplate.train.loop import Settings
from bedplate.train.optimizer import AdamW
from bedplate.train.schedule import WarmupLinear

CLAIM = (
    "Guessing hidden words from both sides beats guessing them from the left (section 5.1); scale `labels`: what it "
    "learns spares labels (section 4)."
)
MARKS, PAD, MASK = ("[CLS]", "[SEP]", "[MASK]", "[PAD]"), 3, 2
LEARNED = 10_000  # sentences
NEW = 10**9  # sentences from this number on are not trained on
TESTED = 3000  # sentences, a hidden word in each
SIZE = {"num_layers": 2, "num_heads": 4, "dropout": 0.0}
LONGEST = 64  # tokens of a function


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much to run, and what the claim asks for there; of each thesis 0 seeds: it is not tried."""

    seeds: int = 0
    dim: int = 64
    steps: int = 0  # of both models that guess words
    margin: float = 0.0  # of right guesses: from both sides against from the left
    label_seeds: int = 0
    labels: int = 0
    pretraining_steps: int = 0
    gain: float = 0.0  # of accuracy, by pre-training


SCALES = {
    "smoke": Scale(seeds=1, dim=64, steps=400, margin=0.02),
    "small": Scale(seeds=3, dim=64, steps=1000, margin=0.04),
    "labels": Scale(labels=100, pretraining_steps=1500, label_seeds=5, gain=0.05),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """Shares of right answers by seed."""

    scale: str
    both_sides: tuple[float, ...]
    left_side: tuple[float, ...]
    pretrained: tuple[float, ...] = ()
    from_nothing: tuple[float, ...] = ()


def run(scale: str, *, watch: Callable[[str], None] = print) -> Result:
    """The thesis that the scale is for."""
    settings = SCALES[scale]
    guesses, labeled = [], []
    for seed in range(settings.seeds):
        guesses.append(guess_words(settings, seed))
        watch(
            f"seed {seed}: of hidden words {guesses[-1][0]:.3f} guessed from both sides, {guesses[-1][1]:.3f} from left"
        )
    if settings.label_seeds:
        labeled = few_labels(settings, watch)
    return Result(
        scale=scale,
        both_sides=tuple(both for both, _ in guesses),
        left_side=tuple(left for _, left in guesses),
        pretrained=tuple(after for after, _ in labeled),
        from_nothing=tuple(before for _, before in labeled),
    )


def guess_words(scale: Scale, seed: int) -> tuple[float, float]:
    """The share of hidden words of new sentences that each model guesses."""
    sentences = [_words(number) for number in (*range(LEARNED), *range(NEW, NEW + TESTED))]
    ids = {word: number for number, word in enumerate((*MARKS, *sorted({word for each in sentences for word in each})))}
    marks = Marks(start=0, separator=1, mask=MASK, pad=PAD, vocab_size=len(ids))
    rows = [np.array([0, *(ids[word] for word in each), 1]) for each in sentences]
    chance, tested = np.random.default_rng(0), rows[LEARNED:]
    places = torch.tensor([int(chance.integers(1, len(row) - 2)) for row in tested])  # the last word is a full stop
    true, every = stacked(tested, PAD), torch.arange(TESTED)
    size = {"vocab_size": len(ids), "context_length": max(map(len, rows)), "dim": scale.dim, **SIZE}
    source = {"batch_size": 64, "seed": seed}

    torch.manual_seed(seed)
    masked = build(MaskedConfig(**size, mlp_dim=4 * scale.dim, attention_dropout=0.0))
    learn(masked, HiddenRows(rows[:LEARNED], marks, **source), Masked(), steps=scale.steps, seed=seed)
    causal = build(LeftToRightConfig(**size))
    learn(causal, NextRows(rows[:LEARNED], marks, **source), NextToken(), steps=scale.steps, seed=seed)
    seen = true.clone()
    seen[every, places] = MASK
    with torch.no_grad():
        from_both = masked(seen, mask=true != PAD)[every, places]
        from_left = causal(true)[every, places - 1]
    answers = true[every, places]
    right = [(scores.argmax(dim=1) == answers).double().mean().item() for scores in (from_both, from_left)]
    return right[0], right[1]


def _words(number: int) -> list[str]:
    return generated_pair(number).source.replace(".", " .").replace(",", " ,").split()


def few_labels(scale: Scale, watch: Callable[[str], None]) -> list[tuple[float, float]]:
    """Accuracy on new functions by seed: after pre-training, and from nothing. Each draw of labels serves both."""
    functions = list(read_functions())
    known, new = ([each for each in functions if each.held_out is held_out] for held_out in (False, True))
    tokenizer = WordPiece.train((each.text for each in known), vocab_size=2048)
    marks, size = (
        Marks.of(tokenizer),
        {"vocab_size": 2048, "context_length": LONGEST, "dim": 128, "mlp_dim": 512, **SIZE},
    )

    def rows(chosen: Sequence[Function]) -> list[Row]:
        ids = tokenizer.encode_batch([each.text for each in chosen])
        pairs = zip(ids, chosen, strict=True)
        return [text_row(marks, text, label=int(each.loops), room=LONGEST) for text, each in pairs]

    torch.manual_seed(0)
    pretrained = build(MaskedConfig(**size))
    source = HiddenRows([np.array(row.ids) for row in rows(known)], marks, batch_size=32, seed=0)
    learn(pretrained, source, Masked(), steps=scale.pretraining_steps, seed=0, lr=1e-3)
    accuracies: list[tuple[float, float]] = []
    tested = list(LabeledRows(rows(_balanced(new, 200, random.Random(0))), batch_size=32, seed=0).sequential())
    for seed in range(scale.label_seeds):
        labeled = LabeledRows(rows(_balanced(known, scale.labels, random.Random(seed))), batch_size=20, seed=seed)
        found = []
        for start in (pretrained, None):
            torch.manual_seed(seed)
            classifier = build(ClassifierConfig(**size, attention_dropout=0.0))
            if start is not None:
                start_from(classifier, start)
            learn(classifier, labeled, Classification(), steps=100, seed=seed, lr=5e-4)
            found.append(_accuracy(classifier, tested))
        accuracies.append((found[0], found[1]))
        watch(f"labels of seed {seed}: {found[0]:.3f} right after pre-training, {found[1]:.3f} from nothing")
    return accuracies


def learn(model: nn.Module, source: Any, objective: Any, *, steps: int, seed: int, lr: float = 5e-3) -> None:
    """Train in place, by the one loop; small models take large steps."""
    settings = Settings(
        steps=steps, micro_batch_size=64, optimizer=AdamW(lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
        schedule=WarmupLinear(warmup_steps=steps // 10), seed=seed, checkpoint_every=10**9,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        train_to_end(model, source, objective, settings, Path(folder))


def _balanced(functions: Sequence[Function], number: int, chance: random.Random) -> list[Function]:
    """Half of them with a loop."""
    sides = ([each for each in functions if each.loops is loops] for loops in (False, True))
    return [each for side in sides for each in chance.sample(side, number // 2)]


def _accuracy(model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> float:
    with torch.no_grad():
        losses = [Classification().loss(model, batch, None, 0) for batch in batches]
    right, count = sum(loss.sums["accuracy"].item() for loss in losses), sum(loss.count.item() for loss in losses)
    return right / count


def check(result: Result) -> Verdict:
    """The mean over seeds beats its control by the margin; that of words also by two standard errors of the words."""
    scale = SCALES[result.scale]
    if result.pretrained:
        after, before = _mean(result.pretrained), _mean(result.from_nothing)
        sentence = (
            f"With {scale.labels} labels {after:.1%} of functions right after pre-training, {before:.1%} from nothing "
            f"(gain asked {scale.gain:.0%}; {len(result.pretrained)} draws of labels)."
        )
        return Verdict(holds=after - before >= scale.gain, sentence=sentence)
    both, left = _mean(result.both_sides), _mean(result.left_side)
    margin = max(scale.margin, 2 * math.sqrt(2 * 0.25 / TESTED))
    sentence = (
        f"Hidden words guessed from both sides {both:.1%}, from the left {left:.1%} (margin asked {margin:.1%}; "
        f"{len(result.both_sides)} seed(s), {TESTED} words)."
    )
    return Verdict(holds=both - left >= margin, sentence=sentence)


def plot(result: Result, path: Path) -> None:
    """Each condition beside its control, a point a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    parts = {"words,\nfrom the left": result.left_side, "words,\nboth sides": result.both_sides}
    if result.pretrained:
        parts = {"functions,\nfrom nothing": result.from_nothing, "functions,\npre-trained": result.pretrained}
    for place, values in enumerate(parts.values()):
        axes.bar(place, _mean(values), width=0.6, color=("#d0d5dd", "#4a6fb5")[place % 2])
        axes.scatter([place] * len(values), values, color="#1c2330", s=14, zorder=3)
    axes.set_xticks(range(len(parts)), list(parts))
    axes.set(ylim=(0, 1), ylabel="share right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
