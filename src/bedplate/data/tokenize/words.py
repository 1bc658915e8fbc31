"""How the published byte-level tokenizers cut text into words before they merge bytes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GPT2_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# Parentheses and bar are members of the class (BLOOM, section 3.2.2, and its tokenizer.json).
BLOOM_PATTERN = r" ?[^(\s|[.,!?…。，、।۔،])]+"
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, kw_only=True)
class Words:
    """A way to cut, as the library writes it, and where a token ends whatever the merges are."""

    name: str
    pre_tokenizer: Mapping[str, Any]
    border: re.Pattern[str]
    ignore_merges: bool = False  # a word that is a token needs no merges, as in tiktoken


def _bytes(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _bytes(use_regex=False)]}


# A pattern gives no token that holds a visible character and the space after it; of the other characters, those below.
GPT2 = Words(name="GPT-2", pre_tokenizer=_bytes(use_regex=True), border=re.compile(r"(?<=\S)(?=[ \n\t])"))
BLOOM = Words(  # marks, and the white space after them, are one word: only what is not a mark ends one for certain
    name="BLOOM",
    pre_tokenizer=_split(BLOOM_PATTERN),
    border=re.compile(r"(?<=[^\s(|.,!?…。，、।۔،)\[\]])(?=[ \n\t])"),
)
LLAMA3 = Words(  # marks take the line breaks after them
    name="Llama-3",
    pre_tokenizer=_split(LLAMA3_PATTERN),
    border=re.compile(r"(?<=\S)(?=[ \t])"),
    ignore_merges=True,
)
KNOWN = (GPT2, BLOOM, LLAMA3)


def words_of(pre_tokenizer: Mapping[str, Any] | None) -> Words | None:
    """The known way that this part of a tokenizer.json describes, if it is one of them."""
    plain = _without_offsets(pre_tokenizer)
    return next((words for words in KNOWN if _without_offsets(words.pre_tokenizer) == plain), None)


def _without_offsets(value: Any) -> Any:
    """Without what changes no ids, and with what old files leave out."""
    if isinstance(value, list):
        return [_without_offsets(part) for part in value]
    if not isinstance(value, dict):
        return value
    plain = {name: _without_offsets(part) for name, part in value.items() if name != "trim_offsets"}
    return {"use_regex": True} | plain if plain.get("type") == "ByteLevel" else plain
