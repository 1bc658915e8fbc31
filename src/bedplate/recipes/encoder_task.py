"""Labeled texts to fine-tune an encoder on: from files to rows, with the vocabulary of the model it begins from."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bedplate.data.encoder_rows import LabeledRows
from bedplate.data.encoder_tasks import EncoderTask, Record, open_encoder_task
from bedplate.data.known_answers import GENERATED
from bedplate.data.text import open_corpus
from bedplate.data.tokenize import Tokenizer
from bedplate.data.tokenize.word_piece import WordPiece
from bedplate.errors import UserError
from bedplate.generate.prompt import evaluating
from bedplate.recipes.labeled import ERROR
from bedplate.recipes.masked_text import check_word_piece
from bedplate.recipes.run import open_start


@dataclass(frozen=True, kw_only=True)
class LabeledTexts:
    """Which labeled texts (see `data.encoder_tasks`). The vocabulary is that of the model that training begins from."""

    corpus: str = f"{GENERATED}text"
    start: str = ""  # run or folder of the model that training begins from; empty: a new one

    @property
    def title(self) -> str:
        """In a few words."""
        return self.corpus

    @property
    def used_by(self) -> str:
        """The command that a trained model is for."""
        return "embed"

    def resolved(self) -> "LabeledTexts":
        """The same files, from whatever folder the run is resumed or repeated."""
        corpus, start = (
            name if not name or name.startswith(GENERATED) else str(Path(name).expanduser().resolve())
            for name in (self.corpus, self.start)
        )
        return replace(self, corpus=corpus, start=start)

    def prepare(self, recipe: Any, *, tokenizer: Tokenizer | None = None) -> "PreparedLabels":
        """Read the texts and turn them into rows."""
        task = open_encoder_task(self.corpus)
        self._check_classes(recipe, task)
        if tokenizer is None and self.start:
            tokenizer = open_start(self.start)[1]
        if tokenizer is None:
            texts = (document.text for document in open_corpus("pydocs").train)  # as `bert.pydocs` has it
            tokenizer = WordPiece.train(texts, vocab_size=recipe.model.vocab_size)
        check_word_piece(tokenizer, recipe.model.vocab_size)
        train, held_out = (self._rows(recipe, side, task, tokenizer) for side in (task.train, task.held_out))
        return PreparedLabels(
            task=task, tokenizer=tokenizer, source=train, held_out=held_out, objective=recipe.objective
        )

    def _check_classes(self, recipe: Any, task: EncoderTask) -> None:
        needed = len(task.classes) or 2  # of spans: to begin and to end
        if recipe.model.num_classes != needed:
            cause = f"{self.corpus} has {needed} classes, the model {recipe.model.num_classes}"
            raise UserError(cause, fix=f"set model.num_classes={needed}")

    def _rows(self, recipe: Any, records: Iterable[Record], task: EncoderTask, tokenizer: Any) -> LabeledRows:
        rows = [task.row(record, tokenizer, room=recipe.model.context_length) for record in records]
        return LabeledRows(rows, batch_size=recipe.batch_size, seed=recipe.seed)


@dataclass(frozen=True, kw_only=True)
class PreparedLabels:
    """What a recipe stands for once its labeled texts are read."""

    task: EncoderTask
    tokenizer: Tokenizer
    source: LabeledRows
    held_out: LabeledRows
    objective: Any
    best: str = ERROR

    def record(self) -> dict[str, Any]:
        """What was learned from, by counts and hashes."""
        sides = self.task.train, self.task.held_out
        corpus = {"name": self.task.source, "source": self.task.source, "sha256": self.task.digest}
        corpus |= {"documents": sum(map(len, sides)), "held_out_documents": len(sides[1])}
        corpus |= {"bytes": sum(len(text.encode()) for text in self.task.texts())}
        return {"corpus": corpus, "classes": list(self.task.classes), "tokenizer_sha256": self.tokenizer.digest}

    def probe(self, model: nn.Module) -> dict[str, float]:
        """The share of held-out labels that are wrong."""
        return {ERROR: 1 - self.measure(model)["accuracy"]}

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """The share of held-out labels that are right; of spans those whose begin and end both are."""
        device = next(model.parameters()).device
        right = count = 0
        with evaluating(model), torch.inference_mode():
            for batch in self.held_out.sequential():
                batch = {name: value.to(device) for name, value in batch.items()}
                loss = self.objective.loss(model, batch, None, 0)
                right, count = right + int(loss.sums["accuracy"]), count + int(loss.count)
        return {"accuracy": right / count, "items": count}
