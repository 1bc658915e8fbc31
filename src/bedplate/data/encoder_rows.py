"""Labeled texts as an encoder's rows: [CLS] A [SEP], or [CLS] A [SEP] B [SEP], with the labels of the row."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from bedplate.data.masking import Marks
from bedplate.data.order import Permutation
from bedplate.errors import UserError
from bedplate.nn.fast.linear_cross_entropy import IGNORE

Ids = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row. `labels`: one class; or one for each token, `IGNORE` where there is none; or first and last place."""

    ids: Ids
    segments: Ids
    labels: Ids


def text_row(marks: Marks, first: Ids, second: Ids | None = None, *, label: int, room: int) -> Row:
    """A text or a pair with a class. What has no room is cut off the end of the longer text."""
    first, second = shortened(first, second or [], room - (2 if second is None else 3))
    ids, segments = [marks.start, *first, marks.separator], [0] * (len(first) + 2)
    if second:
        ids, segments = [*ids, *second, marks.separator], segments + [1] * (len(second) + 1)
    return Row(ids=ids, segments=segments, labels=[label])


def tagged_row(marks: Marks, words: Sequence[Ids], tags: Sequence[int], *, room: int) -> Row:
    """Words with a class each, which the first piece of a word carries (section 5.3); what has no room is cut off."""
    pieces = [piece for word in words for piece in word][: room - 2]
    labels = [
        tag if place == 0 else IGNORE for word, tag in zip(words, tags, strict=True) for place in range(len(word))
    ]
    ids = [marks.start, *pieces, marks.separator]
    return Row(ids=ids, segments=[0] * len(ids), labels=[IGNORE, *labels[: len(pieces)], IGNORE])


def span_row(marks: Marks, question: Ids, context: Ids, *, answer: tuple[int, int] | None, room: int) -> Row:
    """A question, a text, and the places in it of the answer's first and last token; none: there is no answer.

    Raises UserError where the two have no room: a text is not cut where its answer may be.
    """
    if len(question) + len(context) + 3 > room:
        cause = f"question and text have {len(question) + len(context) + 3} tokens, the model takes {room}"
        raise UserError(cause, fix="split the text, or choose a model with a longer context")
    row = text_row(marks, question, context, label=0, room=room)
    before = len(question) + 2
    return Row(ids=row.ids, segments=row.segments, labels=[before + place for place in answer] if answer else [0, 0])


def shortened(first: Ids, second: Ids, room: int) -> tuple[Ids, Ids]:
    """Two texts of at most `room` tokens together: the longer one loses its last tokens until both fit."""
    over = max(0, len(first) + len(second) - room)
    gap = len(first) - len(second)
    alone = min(over, abs(gap))  # what the longer one loses before both are alike
    rest = over - alone
    cut_first, cut_second = (alone if gap > 0 else 0) + (rest + 1) // 2, (alone if gap <= 0 else 0) + rest // 2
    return first[: len(first) - cut_first], second[: len(second) - cut_second]


@dataclass(frozen=True)
class LabeledRows:
    """Rows in a new order each epoch, without end; every row comes once in each epoch."""

    rows: Sequence[Row]
    _: KW_ONLY
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if not self.rows:
            raise UserError("there are no labeled texts to learn from", fix="give at least one")

    def batch(self, step: int) -> dict[str, Tensor]:
        """What `collate` gives for the rows of this step."""
        chosen = []
        for number in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, place = divmod(number, len(self.rows))
            chosen.append(self.rows[Permutation(len(self.rows), seed=self.seed, epoch=epoch)[place]])
        return collate(chosen)

    def sequential(self, batch_size: int = 32) -> Iterator[dict[str, Tensor]]:
        """Every row once, in order."""
        for first in range(0, len(self.rows), batch_size):
            yield collate(self.rows[first : first + batch_size])


def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
    """ids, segments and mask [batch length], filled up on the right with 0, and labels [batch], [batch length] or
    [batch 2].
    """
    labels = [torch.tensor(row.labels) for row in rows]
    of_tokens = any(len(row.labels) == len(row.ids) for row in rows)
    columns = {"ids": [torch.tensor(row.ids) for row in rows], "segments": [torch.tensor(row.segments) for row in rows]}
    batch = {name: torch.nn.utils.rnn.pad_sequence(column, batch_first=True) for name, column in columns.items()}
    lengths = torch.tensor([[len(row.ids)] for row in rows])
    batch["mask"] = torch.arange(batch["ids"].shape[1]) < lengths
    if of_tokens:
        return batch | {"labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORE)}
    return batch | {"labels": torch.stack(labels).squeeze(1)}
