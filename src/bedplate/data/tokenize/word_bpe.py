"""Byte pair encoding of words: GPT-1's tokenizer (Radford et al. 2018, section 4.1; Sennrich et al. 2015, 1508.07909).

Text is cleaned, lower-cased and cut at white space and around punctuation; the learned merges join the characters of
each word, and `</w>` marks the end of one. This is what transformers does where ftfy and spaCy are not installed: the
released model was trained on text that those two prepared, so a few ids differ there.
"""

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from bedplate.data.tokenize.library import LibraryTokenizer, added_tokens, content_of, learn, read_marks
from bedplate.data.tokenize.tokenizer import check_learned
from bedplate.data.tokenize.vocabulary import read_merges
from bedplate.files import read_json_object, write_json, write_text

UNKNOWN, WORD_END = "<unk>", "</w>"
FILES = (("vocab.json", "merges.txt"), ("encoder_bpe_40000.json", "vocab_40000.bpe"))
TASK_TOKENS = ("_start_", "_delimiter_", "_classify_")  # of fine-tuning (section 3.3)


class WordBPE(LibraryTokenizer):
    """A tokenizer of merged characters. The published vocabulary has no end mark; `with_special` adds one."""

    family = "a word BPE as GPT-1's"
    hugging_face_class = "OpenAIGPTTokenizer"

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> "WordBPE":
        """Learn merges from texts; `vocab_size` counts `<unk>` too."""
        learner = _library(models.BPE(end_of_word_suffix=WORD_END))
        learned = learn(learner, partial(_trainer, vocab_size=vocab_size), texts, [UNKNOWN])
        check_learned(len(learned["vocab"]), vocab_size)
        merges = [(left, right) for left, right in learned["merges"]]
        return cls(_content(learned["vocab"], merges), marks={"unk_token": UNKNOWN}, source="the trained vocabulary")

    @classmethod
    def from_folder(cls, folder: Path | str) -> "WordBPE":
        """Read tokenizer.json, or vocab.json and merges.txt, or OpenAI's encoder_bpe_40000.json and vocab_40000.bpe."""
        folder = Path(folder)
        if (folder / "tokenizer.json").exists():
            return cls.from_json(folder / "tokenizer.json")
        ids_name, merges_name = next((names for names in FILES if (folder / names[0]).exists()), FILES[0])
        ids, merges = read_json_object(folder / ids_name), read_merges(folder / merges_name)
        content = _content(ids, list(merges))
        return cls(content, marks={"unk_token": UNKNOWN} | read_marks(folder), source=str(folder / ids_name))

    def with_special(self, *tokens: str, end: str | None = None) -> "WordBPE":
        """The same with more special tokens behind all others, such as TASK_TOKENS; `end`: the one that ends a text."""
        ids = {token: self.vocab_size + place for place, token in enumerate(tokens)}
        added = [*self.content["added_tokens"], *added_tokens(ids, tokens)]
        marks = self.marks if end is None else self.marks | {"eos_token": end}
        return WordBPE(self.content | {"added_tokens": added}, marks=marks, source=self.source)

    def difference(self) -> str | None:
        """What makes its ids differ from those of GPT-1's tokenizer, if anything."""
        model = self.content["model"]
        expected = json.loads(_library(models.BPE()).to_str())
        if model["type"] != "BPE" or model["end_of_word_suffix"] != WORD_END or model["continuing_subword_prefix"]:
            return "it writes pieces in another way"
        if model["byte_fallback"] or model["dropout"] or model["ignore_merges"]:
            return "it merges in another way"
        if self.content["pre_tokenizer"] != expected["pre_tokenizer"]:
            return "it splits text into words in another way"
        if self.content["normalizer"] != expected["normalizer"]:
            return "it cleans text in another way"
        return None

    def plain_bytes(self, token: str) -> bytes:
        """A piece, with a space after it where it ends a word."""
        return token.replace(WORD_END, " ").encode()

    def save(self, folder: Path | str) -> None:
        """Write a folder that `load_tokenizer` and transformers open, with vocab.json and merges.txt."""
        super().save(folder)
        model: Mapping[str, Any] = self.content["model"]
        write_json(Path(folder) / "vocab.json", model["vocab"])
        lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
        write_text(Path(folder) / "merges.txt", "\n".join(lines) + "\n")


def _trainer(*, vocab_size: int, special_tokens: list[str]) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special_tokens, end_of_word_suffix=WORD_END, show_progress=False
    )


def _content(ids: dict[str, int], merges: list[tuple[str, str]]) -> dict[str, Any]:
    model = models.BPE(vocab=ids, merges=merges, unk_token=UNKNOWN, end_of_word_suffix=WORD_END)
    return content_of(_library(model), special=[UNKNOWN])


def _library(model: models.BPE) -> Library:
    library = Library(model)
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.BPEDecoder(suffix=WORD_END)
    return library
