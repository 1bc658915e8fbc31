"""Unigram pieces: the SentencePiece tokenizer of T5 and mT5 (Kudo 2018, arXiv 1804.10959, section 3.2).

Text is normalized by the map of characters that the model holds (close to NFKC), runs of white space become one space,
and every word is written `▁word`. Of all ways to write a word in pieces it gets the one with the largest product of the
pieces' probabilities. What no piece writes is `<unk>`, or its bytes `<0x41>` where the vocabulary has them.
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from bedplate.data.tokenize.library import LibraryTokenizer, content_of, piece_bytes, read_marks
from bedplate.data.tokenize.sentence_piece import BYTE, CONTROL, UNKNOWN, USER_DEFINED, read_sentence_piece
from bedplate.data.tokenize.tokenizer import check_learned, checked
from bedplate.errors import UserError
from bedplate.files import read_json_object

PAD, END, UNK = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2
MARKS = {"pad_token": PAD, "eos_token": END, "unk_token": UNK}
FILES = ("spiece.model", "sentencepiece.model")
SENTINEL = re.compile(r"▁?<extra_id_(\d+)>")  # T5 writes them bare, mT5 with the mark of a space
NUM_SENTINELS = 100
LITERAL_BYTE = "<(?=0x[0-9A-F]{2}>)"
NORMALIZERS = (None, "Precompiled", "NFKC")


class Unigram(LibraryTokenizer):
    """A tokenizer of pieces with probabilities. Sentinels `<extra_id_0>`, `<extra_id_1>` ... have falling ids."""

    family = "a unigram vocabulary as T5's"

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int, num_sentinels: int = NUM_SENTINELS) -> "Unigram":
        """Learn pieces from texts, line by line; `vocab_size` counts special tokens and sentinels too."""
        if vocab_size - num_sentinels < 4:
            cause = f"a vocabulary of {vocab_size} is too small for {num_sentinels} sentinels and three special tokens"
            raise UserError(cause, fix=f"set vocab_size to more than {num_sentinels + 3}")
        learner = _library(models.Unigram(), normalizers.NFKC())
        trainer = trainers.UnigramTrainer(
            vocab_size=vocab_size - num_sentinels,
            special_tokens=[PAD, END, UNK],
            unk_token=UNK,
            show_progress=False,
        )
        try:
            learner.train_from_iterator((line for text in texts for line in checked(text).splitlines()), trainer)
        except UserError:
            raise
        except Exception as error:  # the library raises nothing more precise
            raise UserError(f"no vocabulary of {vocab_size} can be learned ({error})", fix="set it higher") from error
        check_learned(learner.get_vocab_size() + num_sentinels, vocab_size)
        pieces = _in_order(json.loads(learner.to_str())["model"]["vocab"])
        model = models.Unigram(pieces + _sentinels(num_sentinels), unk_id=2)
        content = _content(_library(model, normalizers.NFKC()), (PAD, END, UNK))
        return cls(content, marks=MARKS, source="the trained vocabulary")

    @classmethod
    def from_folder(cls, folder: Path | str) -> "Unigram":
        """Read tokenizer.json, or spiece.model with `extra_ids` from tokenizer_config.json (100 where it is absent)."""
        folder = Path(folder)
        if (folder / "tokenizer.json").exists():
            return cls.from_json(folder / "tokenizer.json")
        settings = folder / "tokenizer_config.json"
        count = read_json_object(settings).get("extra_ids", NUM_SENTINELS) if settings.exists() else NUM_SENTINELS
        path = next((folder / name for name in FILES if (folder / name).exists()), folder / FILES[0])
        return cls.from_model(path, num_sentinels=count, marks=MARKS | read_marks(folder))

    @classmethod
    def from_model(cls, path: Path, *, num_sentinels: int = NUM_SENTINELS, marks: dict[str, str] = MARKS) -> "Unigram":
        """Read a SentencePiece model; sentinels are added behind its pieces, unless it has them, as mT5's."""
        read = read_sentence_piece(path)
        pieces = list(zip(read.pieces, read.scores, strict=True))
        if not any(map(SENTINEL.fullmatch, read.pieces)):
            pieces += _sentinels(num_sentinels)
        fallback = bool(read.of_kind(BYTE))
        model = models.Unigram(pieces, unk_id=read.unknown_id, byte_fallback=fallback)
        character_map = normalizers.Precompiled(read.character_map) if read.character_map else None
        special = read.of_kind(CONTROL, USER_DEFINED, UNKNOWN)
        return cls(_content(_library(model, character_map), special), marks=marks, source=str(path))

    def difference(self) -> str | None:
        """What makes its ids differ from those of T5's tokenizer, if anything."""
        model, normalizer = self.content["model"], self.content["normalizer"]
        if model["type"] != "Unigram":
            return f"its model is {model['type']}"
        if model["unk_id"] is None:
            return "it has no unknown token"
        if self.content["pre_tokenizer"] != json.loads(_library(models.Unigram(), None).to_str())["pre_tokenizer"]:
            return "it splits text into words in another way"
        if (normalizer or {"type": None})["type"] not in NORMALIZERS:
            return "it normalizes text in another way"
        return None

    def model_ids(self) -> dict[str, int]:
        """Pieces and their places."""
        return {piece: id for id, (piece, _) in enumerate(self.content["model"]["vocab"])}

    def encoding(self) -> dict[str, Any]:
        """The content that text is encoded with: its special tokens are written as no word can be."""
        content = super().encoding()
        special = {token["content"] for token in self.content["added_tokens"]}
        pieces = [[f" {piece}" if piece in special else piece, score] for piece, score in content["model"]["vocab"]]
        content["model"] = content["model"] | {"vocab": pieces}
        if content["model"]["byte_fallback"]:  # else the text `<0x41>` would be the byte
            apart = {"type": "Split", "pattern": {"Regex": LITERAL_BYTE}, "behavior": "MergedWithPrevious"}
            steps = [*content["pre_tokenizer"]["pretokenizers"], apart | {"invert": False}]
            content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        return content

    def plain_bytes(self, token: str) -> bytes:
        """A piece, with a space before it where it begins a word."""
        return piece_bytes(token)

    @cached_property
    def unknown_id(self) -> int:
        """`<unk>`."""
        return self.content["model"]["unk_id"]

    @cached_property
    def sentinel_ids(self) -> list[int]:
        """The ids of `<extra_id_0>`, `<extra_id_1>` ..., which stand for what was taken out of a text."""
        found = {int(match[1]): id for token, id in self.ids.items() if (match := SENTINEL.fullmatch(token))}
        return [found[number] for number in sorted(found)]

    @property
    def pad_id(self) -> int:
        """`<pad>`, which fills up rows and opens what the decoder writes."""
        return self.id_of(self.marks.get("pad_token", PAD))


def _in_order(learned: Sequence[Any]) -> list[tuple[str, float]]:
    """Pieces by falling score, the same in every run, after the three special tokens.

    The library sums in the order of a hash table, so that the last digits of scores differ from run to run; and letters
    that its pruning would lose get scores up from the lowest, by steps of 1e-4, in that order too.
    """
    scored = learned[3:]
    lowest = min((score for _, score in scored), default=0.0)
    letters = sum(len(piece) == 1 for piece, _ in scored)
    even = [(piece, lowest if score < lowest + letters * 1e-4 else score) for piece, score in scored]
    rounded = [(piece, round(score, 4)) for piece, score in even]
    return [(piece, 0.0) for piece, _ in learned[:3]] + sorted(rounded, key=lambda item: (-item[1], item[0]))


def _sentinels(count: int) -> list[tuple[str, float]]:
    """Behind the pieces, counted downwards."""
    return [(f"<extra_id_{number}>", 0.0) for number in reversed(range(count))]


def _library(model: models.Unigram, normalizer: Any) -> Library:
    library = Library(model)
    if normalizer is not None:
        library.normalizer = normalizer
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    joined = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    fallback = json.loads(library.to_str())["model"].get("byte_fallback")
    library.decoder = decoders.Sequence([decoders.ByteFallback(), joined]) if fallback else joined
    return library


def _content(library: Library, special: Iterable[str]) -> dict[str, Any]:
    """With T5's template: `</s>` behind a text, or behind each of two."""
    sentinels = [token for token in library.get_vocab() if SENTINEL.fullmatch(token)]
    content = content_of(library, special=dict.fromkeys([*special, *sentinels]))
    if (end := library.token_to_id(END)) is None:
        return content
    mark = {"SpecialToken": {"id": END, "type_id": 0}}
    single, second = [{"Sequence": {"id": "A", "type_id": 0}}, mark], {"Sequence": {"id": "B", "type_id": 0}}
    named = {END: {"id": END, "ids": [end], "tokens": [END]}}
    template = {"single": single, "pair": [*single, second, mark], "special_tokens": named}
    return content | {"post_processor": {"type": "TemplateProcessing", **template}}
