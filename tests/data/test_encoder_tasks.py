"""Labeled texts as rows: what stands where, which token has which label, and mistakes in files."""

import json
from pathlib import Path

import pytest
import torch

from bedplate.data.encoder_rows import LabeledRows, collate, shortened, span_row, tagged_row, text_row
from bedplate.data.encoder_tasks import KINDS, answer_tokens, open_encoder_task
from bedplate.data.known_answers import generated
from bedplate.data.masking import Marks
from bedplate.data.tokenize.word_piece import WordPiece
from bedplate.errors import UserError
from bedplate.nn.fast.linear_cross_entropy import IGNORE

MARKS = Marks(start=1, separator=2, mask=3, pad=0, vocab_size=50)


def test_one_text_and_two() -> None:
    """The layout of the paper's figure 2."""
    one, two = text_row(MARKS, [7, 8], label=1, room=10), text_row(MARKS, [7, 8], [9], label=0, room=10)
    assert (one.ids, one.segments, one.labels) == ([1, 7, 8, 2], [0] * 4, [1])
    assert (two.ids, two.segments) == ([1, 7, 8, 2, 9, 2], [0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize(
    ("first", "second", "room", "kept"),
    [(9, 2, 6, (4, 2)), (2, 9, 6, (2, 4)), (8, 8, 7, (3, 4)), (3, 3, 6, (3, 3)), (5, 0, 3, (3, 0)), (9, 1, 1, (0, 1))],
)
def test_the_longer_text_is_shortened(first: int, second: int, room: int, kept: tuple[int, int]) -> None:
    found = shortened(list(range(first)), list(range(second)), room)
    assert sum(map(len, found)) <= room and abs(len(found[0]) - kept[0]) <= 1 and abs(len(found[1]) - kept[1]) <= 1
    assert all(list(part) == list(range(len(part))) for part in found)


def test_the_first_piece_of_a_word_has_its_tag() -> None:
    row = tagged_row(MARKS, [[7], [8, 9], [10]], [0, 1, 2], room=10)
    assert row.ids == [1, 7, 8, 9, 10, 2] and row.labels == [IGNORE, 0, 1, IGNORE, 2, IGNORE]
    cut = tagged_row(MARKS, [[7], [8, 9], [10]], [0, 1, 2], room=5)
    assert cut.ids == [1, 7, 8, 9, 2] and cut.labels == [IGNORE, 0, 1, IGNORE, IGNORE]


def test_spans_are_counted_from_the_row() -> None:
    row = span_row(MARKS, [7, 8], [9, 10, 11], answer=(1, 2), room=10)
    assert [row.ids[place] for place in row.labels] == [10, 11]
    assert span_row(MARKS, [7], [9], answer=None, room=10).labels == [0, 0]
    with pytest.raises(UserError, match="have 8 tokens"):
        span_row(MARKS, [7, 8], [9, 10, 11], answer=(1, 2), room=7)


def test_answers_are_found_as_tokens() -> None:
    context = "Anna buys a bicycle in Vienna, not in Rome."
    tokenizer = WordPiece.train([context.replace("Vienna", "Vien na")] * 9, vocab_size=45)
    for answer in ("Vienna", "a bicycle in", "Rome", "Anna"):
        first, last = answer_tokens(tokenizer, context, context.index(answer), answer) or (0, 0)
        spelled = tokenizer.decode(tokenizer.encode(context)[first : last + 1])
        assert spelled.replace(" ", "") == answer.lower().replace(" ", "")


def test_rows_come_once_an_epoch_and_are_filled_up() -> None:
    rows = [text_row(MARKS, [10] * length, label=length % 2, room=20) for length in range(1, 8)]
    source = LabeledRows(rows, batch_size=7, seed=0)
    first, second = source.batch(0), source.batch(1)
    assert sorted(first["mask"].sum(1).tolist()) == list(range(3, 10)) == sorted(second["mask"].sum(1).tolist())
    assert not torch.equal(first["mask"], second["mask"]) and not first["ids"][~first["mask"]].any()
    tagged = collate([tagged_row(MARKS, [[7]] * size, [1] * size, room=9) for size in (1, 3)])
    assert tagged["labels"].tolist() == [[IGNORE, 1, IGNORE, IGNORE, IGNORE], [IGNORE, 1, 1, 1, IGNORE]]


@pytest.mark.parametrize("kind", KINDS)
def test_files_and_generated_tasks_are_read_alike(kind: str, tmp_path: Path) -> None:
    records = list(generated(kind, number=60))
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, records)))
    task = open_encoder_task(str(tmp_path / "task.jsonl"))
    assert task.kind == kind and [*task.train, *task.held_out] != [] and len(task.train) + len(task.held_out) == 60
    whole = open_encoder_task(f"generated-{kind}")
    assert whole.classes == task.classes and len(whole.held_out) > 20
    seen = {json.dumps(record) for record in whole.train}
    assert not any(json.dumps(record) in seen for record in whole.held_out)


def test_columns_are_read(tmp_path: Path) -> None:
    lines = [f'a text "{number}\t{"yes" if number % 2 else "no"}' for number in range(60)]
    (tmp_path / "task.tsv").write_text("\n".join(["text\tlabel", *lines]))
    task = open_encoder_task(str(tmp_path / "task.tsv"))
    assert task.classes == ("no", "yes") and all(record["text"].startswith('a text "') for record in task.train)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"}', "line 2 .* not the fields"), ("nothing", "line 2 .* no JSON"), ("[1]", "line 2"),
        ('{"text": 5, "label": []}', "line 2"), ('{"words": ["a"], "tags": []}', "line 2 .* 1 words and 0 tags"),
        ('{"question": "a", "context": "b c", "answer": "c", "start": 0}', "line 2.*does not begin at character 0"),
    ],
)  # fmt: skip
def test_mistakes_name_their_line(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "task.jsonl").write_text('{"text": "a", "label": "b"}\n' + line)
    with pytest.raises(UserError, match=message):
        open_encoder_task(str(tmp_path / "task.jsonl"))


def test_files_that_are_missing_or_too_small_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        open_encoder_task(str(tmp_path / "none.jsonl"))
    (tmp_path / "task.jsonl").write_text('{"text": "a", "label": "b"}')
    with pytest.raises(UserError, match="records to learn from"):
        open_encoder_task(str(tmp_path / "task.jsonl"))
