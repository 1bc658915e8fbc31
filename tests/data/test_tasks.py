"""The input transformations are the paper's, and items come once an epoch."""

from pathlib import Path

import pytest

from bedplate.data.tasks import Item, Marks, TaskItems, collate, with_marks
from bedplate.data.tokenize import load_tokenizer
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.data.tokenize.word_bpe import WordBPE
from bedplate.errors import UserError

MARKS = Marks.after(100)


def test_the_transformations_of_figure_1() -> None:
    assert MARKS.classification([1, 2]) == [[100, 1, 2, 102]]
    assert MARKS.entailment([1, 2], [3]) == [[100, 1, 2, 101, 3, 102]]
    assert MARKS.similarity([1, 2], [3]) == [[100, 1, 2, 101, 3, 102], [100, 3, 101, 1, 2, 102]]
    assert MARKS.multiple_choice([1], [[2], [3, 4]]) == [[100, 1, 101, 2, 102], [100, 1, 101, 3, 4, 102]]


def test_batches_are_filled_up_on_the_right() -> None:
    pairs = (([5], [6, 7]), 1), (([8], [9]), 0)
    batch = collate([Item(sequences=MARKS.similarity(*pair), label=label) for pair, label in pairs])
    assert batch["ids"].tolist() == [
        [[100, 5, 101, 6, 7, 102], [100, 6, 7, 101, 5, 102]],
        [[100, 8, 101, 9, 102, 0], [100, 9, 101, 8, 102, 0]],
    ]
    assert batch["lengths"].tolist() == [[6, 6], [5, 5]] and batch["labels"].tolist() == [1, 0]


def test_every_item_comes_once_in_each_epoch_whatever_the_batch_size() -> None:
    items = [Item(sequences=MARKS.classification([number]), label=number) for number in range(7)]
    orders = []
    for size in (1, 3, 7):
        source = TaskItems(items, length=3, batch_size=size, seed=3)
        orders.append([int(label) for step in range(21 // size) for label in source.batch(step)["labels"]])
    assert orders[0] == orders[1] == orders[2]
    epochs = [orders[0][start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([], "no items"),
        ([Item(sequences=[[1, 2, 3, 4]], label=0)], "4 tokens, the model takes 3"),
        ([Item(sequences=[[1]], label=0), Item(sequences=[[1], [2]], label=0)], "number of sequences"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(items: list[Item], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        TaskItems(items, length=3, batch_size=2, seed=0)


@pytest.mark.parametrize("family", [ByteBPE, WordBPE])
def test_a_vocabulary_gets_the_marks_once(family: type[ByteBPE] | type[WordBPE], tmp_path: Path) -> None:
    plain = family.train(["a text of words, and more words of a text"] * 9, vocab_size=270 if family is ByteBPE else 30)
    marked = with_marks(plain)
    marks = Marks.of(marked)
    assert marks == Marks.after(plain.vocab_size) and marked.vocab_size == plain.vocab_size + 3
    text = "a text of _start_ words"
    assert marked.encode(text) == plain.encode(text) and marks.start not in marked.encode(text)
    assert marked.end_id == (plain.end_id if family is ByteBPE else marks.extract) and with_marks(marked) is marked
    marked.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert Marks.of(again) == marks and again.digest == marked.digest and again.end_id == marked.end_id
