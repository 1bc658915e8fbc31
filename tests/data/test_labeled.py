"""Labeled texts: every kind of line, what is wrong with a line, and a split that does not leak."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bedplate.data.labeled import SNIPPET, balanced, open_task, read_snippets
from bedplate.data.python_library import PACKAGES
from bedplate.data.tasks import Marks
from bedplate.data.text import is_held_out
from bedplate.errors import UserError

MARKS = Marks.after(200)


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def write(path: Path, records: list[Any]) -> str:
    path.write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("record", "sequences"),
    [
        ({"text": "A"}, [[200, 65, 202]]),
        ({"premise": "A", "hypothesis": "B"}, [[200, 65, 201, 66, 202]]),
        ({"first": "A", "second": "B"}, [[200, 65, 201, 66, 202], [200, 66, 201, 65, 202]]),
        ({"context": "A", "answers": ["B", "C"]}, [[200, 65, 201, 66, 202], [200, 65, 201, 67, 202]]),
    ],
    ids=str,
)
def test_the_fields_say_which_task_it_is(record: dict[str, Any], sequences: list[list[int]], tmp_path: Path) -> None:
    texts, changed = [record | {"label": number % 2} for number in range(60)], next(iter(record))
    for number, each in enumerate(texts):  # what a line holds decides on its side
        each[changed] = record[changed] + " " * number
    task = open_task(write(tmp_path / "task.jsonl", texts), labels=0, seed=0)
    assert len(task.train) + len(task.held_out) == 60 and 1 <= len(task.held_out) <= 15
    assert task.classes == (0, 1) and task.chooses == ("answers" in record)
    first = task.train[0]
    item = first.item(MARKS, lambda text: encode(text.strip()), task.classes)
    assert item.sequences == sequences and item.label == first.label


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2"),
        ('["text"]', "line 2"),
        ('{"text": "a"}', "line 2"),
        ('{"text": "a", "more": "b", "label": 0}', "premise and hypothesis"),
        ('{"text": 7, "label": 0}', "a text that is none"),
        ('{"text": "a", "label": 0.5}', "label 0.5"),
        ('{"context": "a", "answers": ["b"], "label": 1}', "0 to 0"),
        ('{"context": "a", "answers": [], "label": 0}', "a text that is none"),
        ('{"context": "a", "answers": "bc", "label": 0}', "a text that is none"),
        ('{"premise": "a", "hypothesis": "b", "label": 0}', "another kind"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text('{"text": "a", "label": 0}\n' + line, encoding="utf-8")
    with pytest.raises(UserError, match=problem):
        open_task(str(path), labels=0, seed=0)


def test_files_that_cannot_be_learned_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        open_task(str(tmp_path / "missing.jsonl"), labels=0, seed=0)
    with pytest.raises(UserError, match="one in ten is held out"):
        open_task(write(tmp_path / "one.jsonl", [{"text": "a", "label": 0}]), labels=0, seed=0)


def test_snippets_of_packages_do_not_leak() -> None:
    task = open_task("packages", labels=50, seed=3)
    assert task.classes == PACKAGES and Counter(record.label for record in task.train) == dict.fromkeys(PACKAGES, 10)
    assert len(set(Counter(record.label for record in task.held_out).values())) == 1 and len(task.held_out) > 200
    assert not any(is_held_out(record.name) for record in task.train)
    assert all(is_held_out(record.name) for record in task.held_out)
    assert all(str(record.texts["text"]).count("\n") == SNIPPET - 1 for record in task.train)
    assert open_task("packages", labels=50, seed=3) == task != open_task("packages", labels=50, seed=4)


def test_more_labels_than_there_are_is_an_error() -> None:
    with pytest.raises(UserError, match=r"set data.labels to \d+ or less"):
        balanced(read_snippets(), 100_000, seed=0)
