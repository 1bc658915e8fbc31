"""Constrained decoding: what cannot be followed is refused in one line, and nothing takes the process or its memory."""

import contextlib
import random
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from tests.generate.tiny import plain_bytes, tokenizer

from bedplate.errors import UserError
from bedplate.generate.constrain import MAX_LENGTH, MAX_LINKS, MAX_MEETING, Grammar


def chain(links: int) -> dict[str, Any]:
    rules = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(links)}
    return {"$defs": rules | {f"d{links}": {"type": "null"}}, "$ref": "#/$defs/d0"}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def anchored(links: int) -> dict[str, Any]:
    """Each reference brings one more pattern that the same text has to match."""
    rules = {f"d{i}": {"pattern": f".*{i}.*", "$ref": f"#/$defs/d{i + 1}"} for i in range(links)}
    return {"$defs": rules | {f"d{links}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def nested(levels: int) -> dict[str, Any]:
    """The same by anyOf within anyOf."""
    schema: dict[str, Any] = {"pattern": "x"}
    for level in range(levels):
        schema = {"pattern": f".*{level}.*", "anyOf": [schema]}
    return schema


def together(count: int) -> dict[str, Any]:
    """The same at once."""
    return {"allOf": [{"pattern": f".*{number}.*"} for number in range(count)]}


@pytest.mark.parametrize("kind", [anchored, nested, together])
def test_as_many_patterns_as_may_meet_take_no_time(kind: Any) -> None:
    begin = time.perf_counter()
    for schema in (kind(MAX_MEETING - 1), kind(2)):
        with contextlib.suppress(UserError):  # whether they contradict each other is given up early
            Grammar.from_schema({"type": "string"} | schema, tokenizer())
    assert time.perf_counter() - begin < 5


def test_patterns_that_do_not_meet_may_be_many() -> None:
    properties = {f"p{i}": {"type": "string", "pattern": f"{i}+"} for i in range(40)}
    Grammar.from_schema({"type": "object", "properties": properties, "additionalProperties": False}, tokenizer())


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "no JSON"),
        ({"type": "frob"}, "Invalid type: frob"),
        ({"type": "string", "minLength": -1}, "minLength"),
        ({"enum": [float("nan")]}, "no JSON"),
        ({"enum": [object()]}, "no JSON"),
        ({"not": {"type": "string"}}, 'Unimplemented keys: \\["not"\\]'),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "frob": 1, "if": {}, "x-guidance": {"lenient": True}}, 'Unimplemented keys: \\["if"\\]'),
        ({"properties": {"a": {"not": {}, "x-guidance": {"lenient": True}}}}, 'Unimplemented keys: \\["not"\\]'),
        ({"oneOf": [{"type": "string"}, {"minLength": 2, "type": "string"}]}, "oneOf"),
        ({"type": "string", "format": "frob"}, "Unknown format"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"$ref": "#/nowhere"}, "does not exist"),
        ({"$ref": "http://127.0.0.1:9/x.json"}, "not present"),
        ({"$ref": "#"}, "cannot be followed"),
        ({"enum": []}, "Unsatisfiable"),
        ("false", "Unsatisfiable"),
        ("[]", "object or boolean"),
        ({"allOf": [{"anyOf": [{"properties": {f"p{i}": {"pattern": f"{j}"}}} for j in range(4)]} for i in range(12)]},
         "too large"),
        ({"description": "x" * MAX_LENGTH}, "characters; use at most"),
        (chain(MAX_LINKS), "references; use at most"),
        (together(20), "combines demands .* and has 20 patterns"),
        (anchored(20), "combines demands"),
        ({"type": "string"} | nested(20), "combines demands"),
        (deep(200), "recursion limit"),
        (deep(20_000), "no JSON"),
        ("[" * 100_000, "no JSON"),
    ],
)  # fmt: skip
def test_bad_schemas_are_user_errors(schema: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        Grammar.from_schema(schema, tokenizer())
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("make", "text", "message"),
    [
        (Grammar.from_regex, "(", "unclosed group"),
        (Grammar.from_regex, "a(?=b)", "look-around"),
        (Grammar.from_regex, r"(a)\1", "backreferences"),
        (Grammar.from_regex, "(" * 5000 + ")" * 5000, "nest"),
        (Grammar.from_regex, "a" * (MAX_LENGTH + 1), "use at most"),
        (Grammar.from_grammar, "start: %json {}", "holds a JSON Schema"),
        (Grammar.from_grammar, "", "no start rule"),
        (Grammar.from_grammar, "start: x", "unknown name"),
        (Grammar.from_grammar, 'start: start "a"', "cannot be followed"),
        (Grammar.from_grammar, "start: " + "(" * 5000 + '"a"' + ")" * 5000, "too deeply nested"),
        (Grammar.from_grammar, "start: a\n" * (MAX_LINKS + 1), "rules or references; use at most"),
    ],
)
def test_bad_expressions_and_grammars_are_user_errors(make: Any, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        make(text, tokenizer())
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def build_long_chains() -> None:
    """In threads of 4 MiB, half of the usual stack."""
    rules = "".join(f'a{i}: a{i + 1} "y" | "z" a{i + 1}\n' for i in range(1, MAX_LINKS - 1))
    text, schema = f'start: a1\n{rules}a{MAX_LINKS - 1}: "x"', chain(MAX_LINKS - 1)
    threading.stack_size(4 << 20)
    for thread in (
        threading.Thread(target=Grammar.from_grammar, args=(text, tokenizer())),
        threading.Thread(target=Grammar.from_schema, args=(schema, tokenizer())),
    ):
        thread.start()
        thread.join()


def test_the_longest_chains_that_are_let_through_do_not_overflow_a_small_stack() -> None:
    """In a process of its own: an overflow would end it."""
    code = "from tests.generate.test_constrain_limits import build_long_chains as build; build(); print('alive')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "alive\n", "")


def test_an_expression_that_explodes_ends_in_an_error_not_in_all_memory() -> None:
    """Its deterministic automaton has 2**60 states."""
    tokens = plain_bytes()
    constraint = Grammar.from_regex("(.*a.{60}){8}b", tokens).start()
    letters = random.Random(0)
    with pytest.raises(UserError, match="cannot be followed"):
        for _ in range(100_000):
            constraint.accept(tokens.encode(letters.choice("ac"))[0])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match='library llguidance; pip install "bedplate\\[constrain\\]"'):
        Grammar.from_regex("a", tokenizer())
