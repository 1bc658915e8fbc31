"""Labeled texts to learn from: the items of a task, and the vocabulary of the model that training begins from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from bedplate.data.labeled import PACKAGES_TASK, Record, Task, open_task
from bedplate.data.shards import TokenShards, cached
from bedplate.data.source import sequential_windows
from bedplate.data.tasks import Item, Marks, TaskItems, with_marks
from bedplate.data.tokenize import Tokenizer
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.data.tokenize.word_bpe import TASK_TOKENS
from bedplate.errors import UserError
from bedplate.evaluate.language import likelihood
from bedplate.evaluate.tasks import accuracy
from bedplate.recipes.recipe import Recipe
from bedplate.recipes.run import open_start

ERROR = "held_out_error"  # the share of wrong labels


@dataclass(frozen=True, kw_only=True)
class Labeled:
    """Which labeled texts. The vocabulary is that of the model that training begins from, and the marks of tasks."""

    corpus: str = PACKAGES_TASK  # packages, or a file of JSON lines (see `data.labeled`)
    start: str = ""  # run or folder of the model that training begins from; empty: a new one
    labels: int = 0  # texts to learn from, equally many of each class and drawn by the seed; 0 takes all
    longest_text: int = 0  # tokens kept of each text; 0 keeps all, and it is an error when they do not fit

    @property
    def title(self) -> str:
        """In a few words."""
        return "snippets of five packages" if self.corpus == PACKAGES_TASK else self.corpus

    def prepare(self, recipe: Recipe, *, tokenizer: Tokenizer | None = None) -> "PreparedTask":
        """Read the texts and turn them into sequences for the model."""
        task = open_task(self.corpus, labels=self.labels, seed=recipe.seed)
        self._check_classes(recipe, task)
        if tokenizer is None and self.start:
            tokenizer = open_start(self.start)[1]
        elif tokenizer is None:
            texts = (document.text for document in task.corpus().train)
            tokenizer = ByteBPE.train(texts, vocab_size=recipe.model.vocab_size - len(TASK_TOKENS))
        tokenizer = with_marks(tokenizer)
        if tokenizer.vocab_size != recipe.model.vocab_size:
            cause = f"the vocabulary has {tokenizer.vocab_size} tokens with the {len(TASK_TOKENS)} marks of tasks"
            raise UserError(
                f"{cause}, the model {recipe.model.vocab_size}", fix=f"set model.vocab_size={tokenizer.vocab_size}"
            )
        train, held_out = (self._source(recipe, side, task, tokenizer) for side in (task.train, task.held_out))
        _, text = cached(task.corpus(), tokenizer)
        return PreparedTask(task=task, tokenizer=tokenizer, source=train, held_out=held_out.items, text=text)

    def resolved(self) -> "Labeled":
        """The same file, from whatever folder the run is resumed or repeated."""
        names = {"corpus": self.corpus, "start": self.start}
        files = {key: name for key, name in names.items() if name not in ("", PACKAGES_TASK)}
        return replace(self, **{key: str(Path(name).expanduser().resolve()) for key, name in files.items()})

    def _check_classes(self, recipe: Recipe, task: Task) -> None:
        classes = getattr(recipe.model, "num_classes", None)
        if classes != (None if task.chooses else len(task.classes)):
            fix = "use gpt1.choose" if task.chooses else f"use a classifier with model.num_classes={len(task.classes)}"
            raise UserError(f"{self.corpus} has {len(task.classes)} classes, the model {classes or 'none'}", fix=fix)

    def _source(self, recipe: Recipe, records: Iterable[Record], task: Task, tokenizer: Tokenizer) -> TaskItems:
        marks, longest = Marks.of(tokenizer), self.longest_text or None
        items = [record.item(marks, lambda text: tokenizer.encode(text)[:longest], task.classes) for record in records]
        length = recipe.model.context_length
        return TaskItems(items, length=length, batch_size=recipe.batch_size, seed=recipe.seed)


@dataclass(frozen=True, kw_only=True)
class PreparedTask:
    """What a recipe stands for once its labeled texts are read."""

    task: Task
    tokenizer: Tokenizer
    source: TaskItems
    held_out: Sequence[Item]
    text: TokenShards  # of the held-out items
    best: str = ERROR  # lower is better

    def record(self) -> dict[str, Any]:
        """What the run learns from."""
        counts = {"items": len(self.source.items), "held_out_items": len(self.held_out)}
        classes = {"classes": list(self.task.classes), "tokenizer_sha256": self.tokenizer.digest}
        return {"corpus": self.task.corpus().receipt()} | counts | classes

    def probe(self, model: nn.Module) -> dict[str, float]:
        """The share of held-out items that get a wrong label."""
        return {ERROR: 1 - accuracy(model, self.held_out)}

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """The share that get the right one, and how well the model still predicts their text."""
        windows = sequential_windows(self.text, length=self.source.length, isolate=True)
        language = likelihood(model, windows)
        return {
            "accuracy": accuracy(model, self.held_out),
            "items": len(self.held_out),
            "bits_per_byte": language.bits_per_byte,
            "perplexity_per_token": language.perplexity_per_token,
            "tokens": language.tokens,
            "bytes": language.bytes,
        }
