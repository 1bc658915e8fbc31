"""Prompts are rendered as promptsource renders them; mistakes name the record and the template."""

import json
from pathlib import Path
from typing import Any

import pytest

from bedplate.errors import UserError
from bedplate.evaluate.interval import wilson
from bedplate.evaluate.templates import Template, questions, read_records, read_templates

TEMPLATE = {
    "task": "nli", "name": "can we infer", "language": "en", "answer_choices": "Yes ||| Maybe ||| No",
    "template": 'Suppose {{premise}} Can we infer that "{{hypothesis}}"? {{ answer_choices | join(", ") }}?\n'
    "||| {{ answer_choices[label] }}",
}  # fmt: skip
RECORD = {"task": "nli", "language": "fr", "premise": "Il pleut.", "hypothesis": "Il fait sec.", "label": 2}


def test_prompt_options_and_answer() -> None:
    (question,) = questions([(7, RECORD)], [Template(**TEMPLATE), Template(**TEMPLATE | {"task": "other"})])
    assert question.prompt == 'Suppose Il pleut. Can we infer that "Il fait sec."? Yes, Maybe, No?'
    assert question.options == ("Yes", "Maybe", "No") and question.answer == 2 and question.record == 7
    assert (question.task, question.language, question.template_language) == ("nli", "fr", "en")


def test_choices_may_come_from_the_record() -> None:
    """As in COPA, where the options are sentences."""
    template = {"answer_choices": "{{choice1}} ||| {{choice2}}", "template": "{{premise}}|||{{answer_choices[label]}}"}
    record = {"task": "nli", "language": "en", "premise": "Rain.", "choice1": "Wet.", "choice2": "Dry.", "label": 0}
    (question,) = questions([(1, record)], [Template(**TEMPLATE | template)])
    assert question.options == ("Wet.", "Dry.") and question.answer == 0


@pytest.mark.parametrize(
    ("template", "record", "words"),
    [
        ({"template": "{{premise}} ||| Perhaps"}, {}, "the target 'Perhaps' is no option"),
        ({"template": "{{premise}}"}, {}, "is no option"),
        ({"template": "{{nothing}} ||| Yes"}, {}, "'nothing' is undefined"),
        ({"template": "{{premise"}, {}, "is broken"),
        ({"template": "{{ 1 // 0 }} ||| Yes"}, {}, "refuses record 1"),
        ({"template": "{{ ''.__class__.__mro__ }} ||| Yes"}, {}, "unsafe|refuses"),
        ({"answer_choices": "Yes ||| Yes"}, {"label": 0}, "not different"),
        ({}, {"label": 5}, "record 1"),
        ({}, {"task": "other"}, "no template for the task 'other'"),
    ],
)
def test_mistakes_are_named(template: dict[str, Any], record: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        list(questions([(1, RECORD | record)], [Template(**TEMPLATE | template)]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "no list"), ("[]", "no list"), ('[{"task": "nli"}]', "no field 'name'"), ("[3]", "no JSON object"),
        (json.dumps([TEMPLATE | {"jinja": ""}]), "'jinja'"), (json.dumps([TEMPLATE, TEMPLATE]), "two templates"),
    ],
)  # fmt: skip
def test_broken_template_files(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "templates.json").write_text(content)
    with pytest.raises(UserError, match=words):
        read_templates(tmp_path / "templates.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ("{", "line 1 is not JSON"),
        ('{"task": "a", "language": 3}', "'language'"),
        ("[]", "no JSON object"),
    ],
)
def test_broken_records(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "data.jsonl").write_text(content)
    with pytest.raises(UserError, match=words):
        read_records(tmp_path / "data.jsonl")


def test_intervals_are_wilsons() -> None:
    """Values of the formula for 8 of 10 and for none, as in Agresti and Coull 1998."""
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10)[1] == 1.0
