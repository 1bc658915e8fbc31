"""A byte-level BPE vocabulary and the three layouts in which it is published."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bedplate.data.tokenize.library import read_marks
from bedplate.data.tokenize.words import GPT2, Words, words_of
from bedplate.errors import UserError
from bedplate.files import read_json

# GPT-2 writes each byte as a printable character: itself where it has one, else the next free one from U+0100 on.
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
HIDDEN = [byte for byte in range(256) if byte not in PRINTABLE]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE} | {chr(256 + place): byte for place, byte in enumerate(HIDDEN)}


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Tokens with their ids, merges in order, and the special tokens, which text never produces."""

    ids: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    special: tuple[str, ...]
    source: str  # where it came from, for messages
    words: Words = GPT2
    end: str  # the special token that ends a text
    marks: Mapping[str, str] = field(default_factory=dict)  # other roles of special tokens, as published
    template: Mapping[str, Any] | None = None  # what the published tokenizer puts around a text

    def __post_init__(self) -> None:
        if problem := self._problem():
            raise UserError(f"{self.source} {problem}", fix="restore the tokenizer's files from their source")

    def _problem(self) -> str | None:
        ids = self.ids
        if not all(type(id) is int and id >= 0 for id in ids.values()):
            return "has an id that is not a whole number"
        if len(set(ids.values())) < len(ids):
            return "gives the same id to two tokens"
        if missing := BYTE_OF.keys() - ids.keys():
            return f"lacks the tokens of {len(missing)} of the 256 bytes, so it is not a byte-level vocabulary"
        for token in ids.keys() - set(self.special):
            if not token or not BYTE_OF.keys() >= set(token):
                return f"holds {token!r}, which is not written in GPT-2's byte characters"
        for left, right in self.merges:
            if not {left, right, left + right} <= ids.keys():
                return f"merges {left!r} and {right!r}, but lacks one of their tokens"
            if left + right in self.special:
                return f"merges {left!r} and {right!r} into a special token"
        return None


def read_vocabulary(folder: Path, *, end: str) -> Vocabulary:
    """The vocabulary in a folder. UserErrors name the file that is missing, broken or of another kind."""
    if (folder / "tokenizer.json").exists():
        return _read_tokenizer_json(folder / "tokenizer.json", end=end)
    for ids_name, merges_name in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if (folder / ids_name).exists():
            ids = read_json(folder / ids_name)
            if not isinstance(ids, dict):
                raise _broken(folder / ids_name, "is not a table of tokens and ids")
            special = (end,) if end in ids else ()
            merges = read_merges(folder / merges_name)
            return Vocabulary(ids=ids, merges=merges, special=special, source=str(folder / ids_name), end=end)
    fix = "name a folder with tokenizer.json, or with the files of a known family, such as vocab.json and merges.txt"
    raise UserError(f"{folder} holds no tokenizer", fix=fix)


def read_merges(path: Path) -> tuple[tuple[str, str], ...]:
    """The pairs in a file of one merge a line; a UserError names what is wrong with it."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", fix="copy it beside the vocabulary") from error
    except UnicodeDecodeError as error:
        raise _broken(path, f"is not UTF-8 text (byte {error.start})") from error
    merges = []
    for number, line in enumerate(lines, start=1):
        if (number == 1 and line.startswith("#version")) or not line.strip():
            continue
        merges.append(_pair(line.split(), f"line {number} of {path}"))
    return tuple(merges)


def _read_tokenizer_json(path: Path, *, end: str) -> Vocabulary:
    content = read_json(path)
    try:
        if difference := _difference(content):
            cause = f"{path} is not a byte-level BPE of a known family: {difference}"
            raise UserError(cause, fix="use a tokenizer of the family of GPT-2, BLOOM or Llama-3")
        added = {token["content"]: token["id"] for token in content["added_tokens"]}
        merges = (pair.split(" ") if isinstance(pair, str) else pair for pair in content["model"]["merges"])
        pairs = tuple(_pair(pair, f"merge {number} of {path}") for number, pair in enumerate(merges))
        words, marks = words_of(content["pre_tokenizer"]) or GPT2, read_marks(path.parent)
        return Vocabulary(
            ids=content["model"]["vocab"] | added,
            merges=pairs,
            special=tuple(added),
            source=str(path),
            words=words,
            end=end if words is GPT2 else marks.get("eos_token", end),
            marks={} if words is GPT2 else marks,
            template=None if words is GPT2 else content["post_processor"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _broken(path, f"does not have the layout of the tokenizers library ({error!r})") from error


def _difference(content: dict[str, Any]) -> str | None:
    """What makes this file's ids differ from those of the known families, if anything."""
    model, after = content["model"], content["post_processor"]
    words = words_of(content["pre_tokenizer"])
    if model.get("type", "BPE") != "BPE":
        return f"its model is {model['type']}"
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            return f"its model sets {key}"
    if words is None:
        return "it splits text into words in another way"
    if model.get("ignore_merges", False) != words.ignore_merges:
        return f"its model sets ignore_merges to {model.get('ignore_merges', False)}"
    if content["normalizer"] is not None:
        return "it normalizes text"
    adds_tokens = after is not None and after["type"] != "ByteLevel" and after.get("special_tokens") != {}
    if words is GPT2 and adds_tokens:
        return "it adds tokens around each text"
    for token in content["added_tokens"]:
        if not token["special"]:
            return f"it finds the added token {token['content']!r} in text"
    return None


def _pair(parts: Any, place: str) -> tuple[str, str]:
    if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise UserError(f"{place} is not a pair of tokens", fix="restore the file from its source")
    return parts[0], parts[1]


def _broken(path: Path, problem: str) -> UserError:
    return UserError(f"{path} {problem}", fix="restore the file from its source")
