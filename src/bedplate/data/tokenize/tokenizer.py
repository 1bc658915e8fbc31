"""What every tokenizer can do, whatever its algorithm."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from bedplate.errors import UserError

PIECE = 2**16  # characters: long texts are encoded in pieces, to bound memory and to use every core


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back. Text never gives special tokens: a literal `</s>` or `[MASK]` is plain characters.

    Templates, such as BERT's `[CLS] a [SEP] b [SEP]`, are put around ids by functions of their own.
    """

    @property
    def vocab_size(self) -> int:
        """The largest id and one."""
        ...

    @property
    def tokens(self) -> Mapping[int, str]:
        """Every id with its token, as the vocabulary writes it."""
        ...

    @property
    def special_ids(self) -> Sequence[int]:
        """The ids that no text gives, in order."""
        ...

    @property
    def end_id(self) -> int:
        """The id that ends a text; -1 where the vocabulary has none, as GPT-1's."""
        ...

    @property
    def unknown_id(self) -> int:
        """The id of what the vocabulary cannot write; -1 where it can write everything."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all that decides which ids a text has."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises UserError when it holds a lone surrogate, which no encoding of Unicode has."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores."""
        ...

    def split_text(self, text: str, *, size: int = PIECE) -> Iterator[str]:
        """A long text in pieces of about `size` characters, whose ids, joined, are those of the whole."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids: what was encoded, as far as the algorithm keeps it."""
        ...

    def single(self, ids: Sequence[int]) -> list[int]:
        """A text as the model reads it: with the ids that the published template puts around it."""
        ...

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one id adds to a text, the space before or after a word included."""
        ...

    def save(self, folder: Path | str) -> None:
        """Write a folder that `load_tokenizer` and transformers open, with the same ids."""
        ...


def end_mark(tokenizer: Tokenizer) -> int:
    """The id that ends a text, for those who cannot do without one; raises UserError where there is none."""
    if tokenizer.end_id < 0:
        cause = "the vocabulary has no token that ends a text"
        raise UserError(cause, fix="add one (WordBPE.with_special), or use another tokenizer")
    return tokenizer.end_id


def spelled_bytes(tokenizer: Tokenizer, ids: Iterable[int]) -> int:
    """The bytes that ids spell: those of their text where the tokenizer neither loses nor adds characters."""
    return sum(len(tokenizer.token_bytes(id)) for id in ids)


def checked(text: str) -> str:
    """The text, unless it holds a lone surrogate: then a UserError that names its place."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        cause = f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}"
        raise UserError(cause, fix="replace it, for example by U+FFFD") from error
    return text


def cut(text: str, border: re.Pattern[str], *, size: int) -> Iterator[str]:
    """Pieces of about `size` characters, each of which ends where `border` matches. What it matches is left out."""
    start = 0
    while len(text) - start > size and (found := border.search(text, start + size)):
        yield text[start : found.start()]
        start = found.end()
    yield text[start:]


def check_learned(found: int, wanted: int) -> None:
    """Raises UserError when a text gave fewer tokens than were asked for, or has more characters."""
    if found < wanted:
        cause = f"the text yields a vocabulary of only {found} tokens, not {wanted}"
        fix = f"set vocab_size (of a recipe: model.vocab_size) to {found} or less, or use more text"
        raise UserError(cause, fix=fix)
    if found > wanted:
        cause = f"the characters of the text alone are {found} tokens, the vocabulary is to have {wanted}"
        raise UserError(cause, fix=f"set vocab_size to more than {found}")
