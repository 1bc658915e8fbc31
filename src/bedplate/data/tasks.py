"""Tasks for a language model: labeled texts as token sequences, of which the last token stands for the whole.

The input transformations of GPT-1 (Radford et al. 2018, section 3.3 and figure 1): every task becomes one or more
sequences between a start and an extract token, so that the model itself stays as it is.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from bedplate.data.order import Permutation
from bedplate.data.tokenize import Tokenizer
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.data.tokenize.word_bpe import TASK_TOKENS, WordBPE
from bedplate.errors import UserError

Ids = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Marks:
    """The ids of the three tokens that a task adds."""

    start: int
    delimiter: int
    extract: int

    @classmethod
    def after(cls, vocab_size: int) -> "Marks":
        """Behind a vocabulary of this size."""
        return cls(start=vocab_size, delimiter=vocab_size + 1, extract=vocab_size + 2)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Marks":
        """Those of a tokenizer that has them."""
        ids = {token: id for id, token in tokenizer.tokens.items()}
        start, delimiter, extract = (ids[mark] for mark in TASK_TOKENS)
        return cls(start=start, delimiter=delimiter, extract=extract)

    def classification(self, text: Ids) -> list[list[int]]:
        """One sequence: start, text, extract."""
        return [[self.start, *text, self.extract]]

    def entailment(self, premise: Ids, hypothesis: Ids) -> list[list[int]]:
        """One sequence: start, premise, delimiter, hypothesis, extract."""
        return [[self.start, *premise, self.delimiter, *hypothesis, self.extract]]

    def similarity(self, first: Ids, second: Ids) -> list[list[int]]:
        """Two sequences, for neither text comes first by nature: their vectors are added."""
        return [*self.entailment(first, second), *self.entailment(second, first)]

    def multiple_choice(self, context: Ids, answers: Sequence[Ids]) -> list[list[int]]:
        """A sequence for each answer: their scores are set against one another."""
        return [sequence for answer in answers for sequence in self.entailment(context, answer)]


def with_marks(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with the three tokens behind its vocabulary; text never gives them. One that has them stays.

    Where a vocabulary has no token that ends a text, as GPT-1's, the extract token does.
    """
    if set(TASK_TOKENS) <= set(tokenizer.tokens.values()):
        return tokenizer
    if not isinstance(tokenizer, ByteBPE | WordBPE):
        kind = type(tokenizer).__name__
        raise UserError(f"the marks of tasks cannot be added to a {kind} vocabulary", fix="start from a GPT model")
    return tokenizer.with_special(*TASK_TOKENS, end=TASK_TOKENS[-1] if tokenizer.end_id < 0 else None)


@dataclass(frozen=True, kw_only=True)
class Item:
    """What is to be labeled, as sequences of ids, and the number of its class or of its right answer."""

    sequences: Sequence[Ids]
    label: int


@dataclass(frozen=True)
class TaskItems:
    """Labeled items in a new order each epoch, without end; every item comes once in each epoch."""

    items: Sequence[Item]
    _: KW_ONLY
    length: int  # tokens of a sequence that a model takes
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if not self.items:
            raise UserError("the task has no items to learn from", fix="give at least one labeled text")
        if len({len(item.sequences) for item in self.items}) > 1:
            raise UserError("the items of the task differ in their number of sequences", fix="give all the same number")
        longest = max(len(sequence) for item in self.items for sequence in item.sequences)
        if longest > self.length:
            cause = f"an item of the task has {longest} tokens, the model takes {self.length}"
            raise UserError(cause, fix="shorten the texts, or choose a model with a longer context")

    def batch(self, step: int) -> dict[str, Tensor]:
        """What `collate` gives for the items of this step."""
        chosen = []
        for number in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, place = divmod(number, len(self.items))
            chosen.append(self.items[Permutation(len(self.items), seed=self.seed, epoch=epoch)[place]])
        return collate(chosen)


def collate(items: Sequence[Item]) -> dict[str, Tensor]:
    """ids [item sequence length], filled up on the right with 0, lengths [item sequence] and labels [item], int64."""
    lengths = torch.tensor([[len(sequence) for sequence in item.sequences] for item in items])
    ids = torch.zeros(*lengths.shape, int(lengths.max()), dtype=torch.long)
    for rows, item in zip(ids, items, strict=True):
        for row, sequence in zip(rows, item.sequences, strict=True):
            row[: len(sequence)] = torch.tensor(sequence)
    return {"ids": ids, "lengths": lengths, "labels": torch.tensor([item.label for item in items])}
