"""Byte pair encoding of SentencePiece's kind: the tokenizer of Llama and Llama-2 (Touvron et al. 2023, section 2.1).

Every space is written `▁`, one more is put before the text, and merges join characters across the whole text, for it is
not cut into words. A character that the vocabulary lacks is written as its bytes, `<0x41>`.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from bedplate.data.tokenize.library import LibraryTokenizer, piece_bytes
from bedplate.data.tokenize.tokenizer import PIECE, cut

MARKED = {"type": "Metaspace", "replacement": "▁", "split": False}
PREPENDED = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
# One space between two words. It is left out, since the next piece gets one of its own.
SPACE = re.compile(r"(?<=[^\s▁]) (?=[^\s▁])")


class PieceBPE(LibraryTokenizer):
    """A tokenizer of merged pieces that falls back on bytes."""

    family = "a SentencePiece BPE as Llama's"

    @classmethod
    def from_folder(cls, folder: Path | str) -> "PieceBPE":
        """Read tokenizer.json."""
        return cls.from_json(Path(folder) / "tokenizer.json")

    def difference(self) -> str | None:
        """What makes its ids differ from those of Llama's tokenizer, if anything."""
        model = self.content["model"]
        if model["type"] != "BPE" or not model["byte_fallback"] or not model["fuse_unk"]:
            return "it does not fall back on bytes"
        other = ("dropout", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
        if any(model[key] for key in other):
            return "it merges in another way"
        if missing := [byte for byte in range(256) if f"<0x{byte:02X}>" not in model["vocab"]]:
            return f"it lacks the tokens of {len(missing)} of the 256 bytes"
        before, words = self.content["normalizer"], dict(self.content["pre_tokenizer"] or {})
        marked = words.pop("prepend_scheme", None) in ("first", "always") and words == MARKED and before is None
        if not marked and (words or before != {"type": "Sequence", "normalizers": PREPENDED}):
            return "it marks spaces in another way"
        return None

    def split_text(self, text: str, *, size: int = PIECE) -> Iterator[str]:
        """A long text in pieces, without the space at each border; whole where a token spans a space."""
        return iter([text]) if self._spans_spaces else cut(text, SPACE, size=size)

    @cached_property
    def _spans_spaces(self) -> bool:
        return any(re.search("[^▁]▁", token) for token in self.content["model"]["vocab"])

    def plain_bytes(self, token: str) -> bytes:
        """A piece, with its spaces, or a byte."""
        return piece_bytes(token)
