"""Text that must match a JSON Schema, a regular expression or a grammar: which tokens may come next.

The automaton is llguidance's: one wheel for every Python from 3.9 on, 8 MB, MIT, without dependencies, 7 microseconds a
token with GPT-2's vocabulary; xgrammar (3) brings transformers and triton along, outlines-core (4) turns schemas into
regular expressions, which cut recursion off.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from bedplate.data.tokenize.tokenizer import end_mark
from bedplate.errors import UserError, require

# What a text may cost. The library bounds nesting itself, but follows chains of rules by recursion: some 3,000 links
# overflow the stack of a thread, which would end the process.
MAX_LENGTH = 2**17  # characters of a schema, expression or grammar
MAX_LINKS = 500  # rules of a grammar, references of a schema
MAX_MEETING = 12  # patterns of a schema that may have to hold of one text; the time doubles with each
LIMITS = {"max_lexer_states": 20_000, "max_grammar_size": 200_000, "verbose_errors": False}
# Where the next bytes are certain, the library would leave only the tokens that its tokenizer gives them; the model is
# to choose among all.
FREE_TOKENS = '\n%llguidance {"no_forcing": true}\n'
NO_DEMANDS = frozenset("$schema $id $defs definitions title description default examples $comment x-guidance".split())
# JSON is written compactly, as json.dumps writes it, or with an indent; never with white space that goes on and on.
JSON_OPTIONS = {"whitespace_flexible": True, "whitespace_pattern": r"(\n {0,16}| )", "lenient": False}


class Grammar:
    """The texts that are allowed, compiled once for one tokenizer and shared by any number of sequences.

    Raises UserError for what is not well formed, uses what the library cannot do, is too large, or allows no text.
    """

    def __init__(self, text: str, tokenizer: Any, *, kind: str) -> None:
        """From a grammar in the library's notation; `kind` is what messages call it."""
        library = require("llguidance", extra="constrain")
        limits = library.LLParserLimits(**LIMITS)
        matcher = library.LLMatcher(_library_tokenizer(tokenizer), text + FREE_TOKENS, log_level=0, limits=limits)
        if matcher.is_error():
            raise UserError(f"the {kind} is not usable: {_cause(matcher.get_error())}", fix=f"correct the {kind}")
        self._matcher, self._kind = matcher, kind
        self._vocab_size, self._end_id = tokenizer.vocab_size, end_mark(tokenizer)
        self.start().allowed()  # a grammar that no text can begin is told now

    @classmethod
    def from_schema(cls, schema: Mapping[str, Any] | str, tokenizer: Any) -> "Grammar":
        """JSON texts that a JSON Schema (drafts 4 to 2020-12) allows; objects write their properties in its order.

        `oneOf`, `not`, `if`, `contains`, `uniqueItems` and a few more cannot be followed: UserError.
        Where keys are free, one may be written twice.
        """
        kind = "JSON Schema"
        try:
            content = json.loads(schema) if isinstance(schema, str) else dict(schema)
            if isinstance(content, dict) or content is True:
                content = ({} if content is True else content) | {"x-guidance": JSON_OPTIONS}
            text = json.dumps(content, allow_nan=False, ensure_ascii=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"the {kind} is no JSON ({_cause(str(error))})", fix=f"correct the {kind}") from error
        _check_size(text, text.count('"$ref"'), kind)
        _check_patterns(content)
        return cls(f"start: %json {text}", tokenizer, kind=kind)

    @classmethod
    def from_regex(cls, pattern: str, tokenizer: Any) -> "Grammar":
        """Texts that a regular expression matches from end to end (Rust's syntax: no look-around, no backreference)."""
        kind = "regular expression"
        _check_size(pattern, 0, kind)
        escaped = require("llguidance", extra="constrain").regex_to_lark(pattern, use_ascii="")
        return cls(f"start: /{escaped}/", tokenizer, kind=kind)

    @classmethod
    def from_grammar(cls, text: str, tokenizer: Any) -> "Grammar":
        """Texts of a context-free grammar in llguidance's variant of Lark; its first rule is called `start`."""
        kind = "grammar"
        _check_size(text, text.count("\n"), kind)
        if "%json" in text:  # it would escape the limits of schemas
            raise UserError(f"the {kind} holds a JSON Schema", fix="use from_schema, or write rules")
        return cls(text, tokenizer, kind=kind)

    def start(self) -> "Constraint":
        """The state of a sequence that has written nothing yet."""
        return Constraint(self._matcher.deep_copy(), kind=self._kind, vocab_size=self._vocab_size, end_id=self._end_id)


class Constraint:
    """Where one sequence stands in its grammar."""

    def __init__(self, matcher: Any, *, kind: str, vocab_size: int, end_id: int) -> None:
        self._matcher, self._kind = matcher, kind
        self._vocab_size, self._end_id = vocab_size, end_id
        self._mask: Tensor | None = None

    def allowed(self) -> Bool[Tensor, " vocab"]:
        """True for the tokens that may come next, the end mark among them only where the text may end.

        The tensor lies in CPU memory and is to be read only. Raises UserError where the grammar turns out too
        complex to follow, or leads to where nothing may follow.
        """
        if self._mask is None:
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            mask = np.unpackbits(bits, count=self._vocab_size, bitorder="little").astype(bool)
            mask[self._end_id] = self._matcher.is_accepting()  # a grammar may name the end mark in its middle
            if self._matcher.is_error() or not mask.any():
                reason = _cause(self._matcher.get_error()) or "no text can go on from here"
                raise UserError(f"the {self._kind} cannot be followed: {reason}", fix=f"simplify the {self._kind}")
            self._mask = torch.from_numpy(mask)
        return self._mask

    def accept(self, token: int) -> None:
        """Take the token that was chosen. Raises ValueError when it is not allowed."""
        if not 0 <= token < self._vocab_size or not self.allowed()[token]:
            raise ValueError(f"token {token} is not allowed here")
        self._matcher.consume_token(token)
        self._mask = None

    @property
    def ended(self) -> bool:
        """Whether nothing but the end mark may follow."""
        allowed = self.allowed()
        return bool(allowed[self._end_id]) and int(allowed.sum()) == 1


class _Vocabulary:
    """A tokenizer as the library wants to see it."""

    def __init__(self, tokenizer: Any) -> None:
        self._encode = tokenizer.encode
        self.eos_token_id = end_mark(tokenizer)
        self.bos_token_id: int | None = None
        self.special_token_ids = list(tokenizer.special_ids)
        # Ids without a token get no bytes; the library never allows them.
        known = tokenizer.tokens
        self.tokens = [tokenizer.token_bytes(id) if id in known else b"" for id in range(tokenizer.vocab_size)]

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


@lru_cache(maxsize=4)
def _library_tokenizer(tokenizer: Any) -> Any:
    """The library's tree of all tokens, which takes a third of a second to build for 50,000."""
    library = require("llguidance", extra="constrain")
    return library.LLTokenizer(library.TokenizerWrapper(_Vocabulary(tokenizer)))


def _check_size(text: str, links: int, kind: str) -> None:
    if len(text) > MAX_LENGTH:
        raise UserError(f"the {kind} has {len(text)} characters", fix=f"use at most {MAX_LENGTH}")
    if links > MAX_LINKS:
        raise UserError(f"the {kind} has {links} rules or references", fix=f"use at most {MAX_LINKS}")


def _check_patterns(schema: Any) -> None:
    """Refuse a schema that combines demands and holds many patterns: the library would intersect them for hours."""
    patterns: set[str] = set()
    combines = False
    waiting = [schema]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            demands = item.keys() - NO_DEMANDS
            combines |= "allOf" in demands or (len(demands) > 1 and bool(demands & {"anyOf", "oneOf", "$ref"}))
            own = [item.get("pattern"), item.get("format"), *_keys(item.get("patternProperties"))]
            patterns.update(pattern for pattern in own if isinstance(pattern, str))
        waiting += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    if combines and len(patterns) > MAX_MEETING:
        cause = (
            f"the JSON Schema combines demands (allOf, or anyOf or $ref beside others) and has {len(patterns)} patterns"
        )
        raise UserError(cause, fix=f"use at most {MAX_MEETING} patterns and formats, or combine nothing")


def _keys(table: Any) -> list[str]:
    return list(table) if isinstance(table, dict) else []


def _cause(message: str) -> str:
    """The line of a message that says what is wrong."""
    lines = [line.strip() for line in message.strip().splitlines()] or [""]
    return next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])[:200]
