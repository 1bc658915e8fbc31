"""Constrained decoding: every text that is drawn validates, and every mask is that of a brute-force search."""

import itertools
import json
import random
import re
import threading
from typing import Any

import jsonschema
import pytest
import regex
import torch
from tests.generate.tiny import plain_bytes, tokenizer

from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.generate.constrain import Constraint, Grammar
from bedplate.generate.engine import Engine, Request
from bedplate.generate.prompt import prefill
from bedplate.language_model import LanguageModel, load

PATTERNS = [
    "ab*", "a|ab|abc", "(the|them) (fox|dogs?)", "é+x?", "(日|本|🙂){1,2}", r'"[^"\\]*"', "[^a-z]{2,3}", "x{0,2}y", "",
    "(?i)fox", r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", "(a|b)*abb", "[à-ÿ日]+", "(🙂|🙃|quick)+", "[^🙂]{1,3}",
]  # fmt: skip


def allowed_ids(constraint: Constraint) -> set[int]:
    return set(constraint.allowed().nonzero().flatten().tolist())


def characters_from(start: bytes, pattern: str) -> set[str]:
    """Characters whose bytes begin like this: those that the pattern names, and some that it does not."""
    ends = itertools.chain.from_iterable(itertools.product(b"\x80\x90\x9f\xa0\xbf", repeat=n) for n in (1, 2, 3))
    completed = (start + bytes(end) for end in ends)
    found = {data.decode() for data in completed if not data.decode(errors="ignore").encode() != data}
    return {each for each in found if len(each) == 1} | {each for each in pattern if each.encode().startswith(start)}


def may_go_on(pattern: str, data: bytes) -> bool:
    """Whether some full match of the pattern begins with these bytes."""
    try:
        return regex.fullmatch(pattern, data.decode(), partial=True) is not None
    except UnicodeDecodeError as error:
        head, tail = data[: error.start].decode(), data[error.start :]
    return any(regex.fullmatch(pattern, head + each, partial=True) for each in characters_from(tail, pattern))


@pytest.mark.parametrize("vocabulary", [tokenizer, plain_bytes], ids=["merges", "bytes"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_masks_are_those_of_a_brute_force_search(pattern: str, vocabulary: Any) -> None:
    """Along random walks: a token is allowed if and only if the text with it can still become a full match."""
    tokens = vocabulary()
    grammar = Grammar.from_regex(pattern, tokens)
    draws = random.Random(pattern)
    for _ in range(3):
        constraint, data = grammar.start(), b""
        for _ in range(6):
            expected = {
                id for id in tokens.tokens if id != tokens.end_id and may_go_on(pattern, data + tokens.token_bytes(id))
            }
            whole = data.decode(errors="replace").encode() == data and re.fullmatch(pattern, data.decode())
            assert allowed_ids(constraint) == expected | ({tokens.end_id} if whole else set()), data
            assert constraint.ended == (not expected)
            if not expected:
                break
            token = draws.choice(sorted(expected))
            constraint.accept(token)
            data += tokens.token_bytes(token)


BOUNDED = {"type": "string", "maxLength": 12}
SCHEMAS: dict[str, dict[str, Any]] = {
    "text": BOUNDED,
    "unicode": {"enum": ["Größe", "日本語", "🙂 \"quoted\" \\ \n\t", "naïveté", "e\u0301"]},
    "number": {"type": "object", "properties": {"n": {"type": "number", "minimum": -5, "maximum": 5}}}
    | {"required": ["n"], "additionalProperties": False},
    "integers": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 999}, "maxItems": 4},
    "nested": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"$ref": "#/$defs/row"}}
    | {"$defs": {"row": {"type": "array", "maxItems": 2, "items": {"anyOf": [BOUNDED, {"type": "null"}]}}}},
    "record": {
        "type": "object",
        "properties": {
            "name": BOUNDED,
            "kind": {"enum": ["class", "function", None, 3, {"a": [1.5]}]},
            "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-zé]{1,5}$"}, "maxItems": 3},
            "day": {"type": "string", "format": "date"},
            "flag": {"type": "boolean"},
        },
        "required": ["name", "kind"],
        "additionalProperties": False,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def language_model() -> LanguageModel:
    return load("gpt2-tiny")


@torch.inference_mode()
def draw(language_model: LanguageModel, constraints: list[Constraint], *, steps: int) -> list[tuple[str, bool]]:
    """A text at temperature 1 under each constraint, and whether it ended."""
    model, tokens = language_model.model, language_model.tokenizer
    generator = torch.Generator().manual_seed(len(constraints))
    features, state = prefill(model, [tokens.encode('{"')] * len(constraints), steps)
    ids: list[list[int]] = [[] for _ in constraints]
    for _ in range(steps):
        allowed = torch.stack([constraint.allowed() for constraint in constraints])
        logits = model.logits(features)[:, : tokens.vocab_size].masked_fill(~allowed, -torch.inf)
        chosen = logits.softmax(-1).multinomial(1, generator=generator)
        for constraint, written, token in zip(constraints, ids, chosen.flatten().tolist(), strict=True):
            if tokens.end_id not in written:
                constraint.accept(token)
                written.append(token)
        if all(tokens.end_id in written for written in ids):
            break
        features = model.features(chosen, state=state)[:, -1]
    return [(tokens.decode([id for id in each if id != tokens.end_id]), tokens.end_id in each) for each in ids]


@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_the_model_draws_validates(name: str, language_model: LanguageModel) -> None:
    schema = SCHEMAS[name]
    grammar = Grammar.from_schema(schema, language_model.tokenizer)
    texts = draw(language_model, [grammar.start() for _ in range(30)], steps=240)
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for text, ended in texts:
        assert ended, text
        checker.validate(json.loads(text))
    assert len(set(texts)) > 2  # what the grammar leaves open, the model chooses


def test_the_engine_writes_within_the_grammar_of_each_request(language_model: LanguageModel) -> None:
    """Requests with and without one together; a budget that ends in the middle is said to have done so."""
    tokens = language_model.tokenizer
    grammar = Grammar.from_schema(SCHEMAS["record"], tokens)
    engine = Engine(language_model.model, tokens, slots=5)
    limits = {}
    for number in range(12):
        limit = 3 if number % 3 == 0 else 200
        constraint = None if number % 3 == 1 else grammar.start()
        request = Request(prompt=[5], max_new_tokens=limit, constraint=constraint, seed=number)
        limits[engine.submit(request)] = limit, constraint
    generations = {}
    while engine.busy:
        generations |= {update.number: update.generation for update in engine.step() if update.generation}
    for number, (limit, constraint) in limits.items():
        generation = generations[number]
        if constraint and limit == 3:
            assert generation.finish_reason == "length" and generation.text.startswith("{")
        elif constraint:
            assert generation.finish_reason == "end"
            jsonschema.validate(json.loads(generation.text), SCHEMAS["record"])
    assert len(generations) == 12


def accepts(grammar: Grammar, tokens: ByteBPE, text: str) -> bool:
    constraint = grammar.start()
    for token in [*tokens.encode(text), tokens.end_id]:
        if not constraint.allowed()[token]:
            return False
        constraint.accept(token)
    return True


def test_json_may_be_written_in_each_usual_way_but_not_with_endless_space(language_model: LanguageModel) -> None:
    tokens = language_model.tokenizer
    value = {"a": [1, -2.5e-3, None], "b": {"é": '\u2028 🙂 " \\ / \x01'}}
    grammar = Grammar.from_schema('{"type": "object"}', tokens)
    for text in (
        json.dumps(value), json.dumps(value, indent=2), json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    ):  # fmt: skip
        text = text.replace("\\u00e9", "é").replace("\\ud83d\\ude42", "🙂").replace("\\u2028", "\u2028")
        assert accepts(grammar, tokens, text), text
    assert accepts(Grammar.from_schema("true", tokens), tokens, "[null]")
    assert not accepts(Grammar.from_schema("true", tokens), tokens, "[  null]")
    for text in ('{"a": 1', '{"a": 1}}', '{"a": 01}', '{"a": "\n"}', '{"a":' + " " * 40 + "1}", "[]", '{"a":1,}'):
        assert not accepts(grammar, tokens, text), text


def test_recursion_and_grammars() -> None:
    tokens = tokenizer()
    tree = {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}},
        "additionalProperties": False,
    }
    grammar = Grammar.from_schema(tree, tokens)
    assert accepts(grammar, tokens, '{"left":{"left":{},"right":{"right":{}}}}')
    assert not accepts(grammar, tokens, '{"right":{"up":{}}}')
    nested = Grammar.from_grammar('start: "(" start ")" start |', tokens)
    assert accepts(nested, tokens, "(()())()") and accepts(nested, tokens, "")
    assert not accepts(nested, tokens, "(()") and not accepts(nested, tokens, "())")


def test_the_end_mark_and_other_special_tokens_are_no_text() -> None:
    tokens = tokenizer()
    anything = Grammar.from_regex("[^x]+", tokens).start()
    assert not anything.allowed()[tokens.end_id]
    anything.accept(tokens.encode("a")[0])
    assert anything.allowed()[tokens.end_id] and not anything.ended
    anything.accept(tokens.end_id)
    assert anything.ended and allowed_ids(anything) == {tokens.end_id}
    assert accepts(Grammar.from_regex(r"<\|endoftext\|>", tokens), tokens, "<|endoftext|>")
    with pytest.raises(UserError, match="cannot be followed"):  # the mark itself, where the text may not end
        Grammar.from_grammar('start: <|endoftext|> "a"', tokens)


def test_sequences_share_a_grammar_and_nothing_else() -> None:
    tokens = tokenizer()
    grammar = Grammar.from_regex("ab*c", tokens)
    one, other = grammar.start(), grammar.start()
    one.accept(tokens.encode("a")[0])
    assert allowed_ids(other) == allowed_ids(grammar.start()) == {tokens.encode("a")[0]} != allowed_ids(one)
    with pytest.raises(ValueError, match="not allowed"):
        other.accept(tokens.encode("b")[0])
    other.accept(tokens.encode("a")[0])  # a refused token leaves the state as it was
    assert allowed_ids(other) == allowed_ids(one)
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(accepts(grammar, tokens, "abbbbbc"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8
