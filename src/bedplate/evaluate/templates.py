"""Prompt templates in promptsource's form: Jinja, with `|||` between prompt and target and between answer choices."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bedplate.errors import UserError, kind_in_words
from bedplate.files import read_json, read_json_lines

SEPARATOR = "|||"


@dataclass(frozen=True, kw_only=True)
class Template:
    """One way to ask a task. `template` and `answer_choices` see a record's fields; the target, also the choices."""

    task: str
    name: str
    language: str  # of its own words
    template: str
    answer_choices: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """A record under a template: which of the options is right."""

    task: str
    language: str  # of the record
    prompt_name: str
    template_language: str
    record: int  # line of its file, counted from 1
    prompt: str
    options: tuple[str, ...]
    answer: int  # place among the options


def read_templates(path: Path) -> list[Template]:
    """A JSON list of objects with the fields of `Template`; every mistake is a UserError."""
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path} holds no list of templates", fix="write a JSON list of objects")
    for place, row in enumerate(rows, start=1):
        _check_texts(row, Template.__annotations__, f"{path}: template {place}")
        if unknown := sorted(set(row) - set(Template.__annotations__)):
            raise UserError(f"{path}: template {place} has the field {unknown[0]!r}", fix="leave it out")
    templates = [Template(**row) for row in rows]
    if twice := _first_twice((template.task, template.name) for template in templates):
        raise UserError(f"{path}: the task {twice[0]!r} has two templates {twice[1]!r}", fix="rename one of them")
    return templates


def read_records(path: Path) -> list[dict[str, Any]]:
    """JSON objects, one a line, each with `task`, `language` and what its templates need."""
    records = read_json_lines(path)
    for number, record in enumerate(records, start=1):
        _check_texts(record, ("task", "language"), f"{path}, line {number}")
    return records


def questions(records: Iterable[tuple[int, Mapping[str, Any]]], templates: Sequence[Template]) -> Iterator[Question]:
    """Each numbered record under each template of its task, template by template."""
    numbered = list(records)
    if missing := sorted({record["task"] for _, record in numbered} - {template.task for template in templates}):
        raise UserError(f"there is no template for the task {missing[0]!r}", fix="add one to the file of templates")
    for template in templates:
        choices, text = _compiled(template.answer_choices, template), _compiled(template.template, template)
        for number, record in numbered:
            if record["task"] == template.task:
                yield _question(record, number, template, choices, text)


def _question(record: Mapping[str, Any], number: int, template: Template, choices: Any, text: Any) -> Question:
    options = _parts(choices, record, number, template)
    prompt, *targets = _parts(text, dict(record) | {"answer_choices": list(options)}, number, template)
    about = f"template {template.name!r} of the task {template.task!r}, record {number}"
    if len(targets) != 1 or targets[0] not in options:
        target = f"{SEPARATOR} ".join(targets)
        raise UserError(f"{about}: the target {target!r} is no option", fix=f"the options are: {', '.join(options)}")
    if len(set(options)) < len(options) or "" in options:
        raise UserError(f"{about}: the options are not different texts", fix=f"they are: {', '.join(options)}")
    return Question(
        task=template.task, language=record["language"], prompt_name=template.name, answer=options.index(targets[0]),
        template_language=template.language, record=number, prompt=prompt, options=options,
    )  # fmt: skip


def _parts(compiled: Any, fields: Mapping[str, Any], number: int, template: Template) -> tuple[str, ...]:
    """The rendered text between separators, without white space around it, as promptsource has it."""
    from jinja2 import TemplateError

    try:
        return tuple(part.strip() for part in compiled.render(fields).split(SEPARATOR))
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        cause = f"template {template.name!r} of the task {template.task!r} refuses record {number} ({error})"
        raise UserError(cause, fix="give the record what the template asks for") from error


def _compiled(source: str, template: Template) -> Any:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    try:
        return environment.from_string(source, globals={"enumerate": enumerate, "zip": zip})
    except TemplateError as error:
        cause = f"template {template.name!r} of the task {template.task!r} is broken ({error})"
        raise UserError(cause, fix="repair it, or remove it") from error


def _check_texts(row: Any, names: Iterable[str], about: str) -> None:
    if not isinstance(row, dict):
        raise UserError(f"{about} is no JSON object", fix="write an object with fields")
    for name in names:
        if not isinstance(row.get(name), str):
            raise UserError(f"{about} has no field {name!r} that is {kind_in_words(str)}", fix="add it")


def _first_twice(pairs: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    seen = set()
    for pair in pairs:
        if pair in seen:
            return pair
        seen.add(pair)
    return None
