"""Reads SentencePiece model files (Kudo and Richardson 2018, arXiv 1808.06226), which are protocol buffers.

Field numbers are those of sentencepiece_model.proto in https://github.com/google/sentencepiece.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bedplate.errors import UserError

PIECES, TRAINER, NORMALIZER = 1, 2, 3  # of ModelProto
PIECE, SCORE, KIND = 1, 2, 3  # of ModelProto.SentencePiece
MODEL_TYPE, SPACE_AS_SUFFIX, UNKNOWN_ID = 3, 24, 40  # of TrainerSpec
CHARACTER_MAP, DUMMY_PREFIX, REMOVE_SPACES, ESCAPE_SPACES = 2, 3, 4, 5  # of NormalizerSpec
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # kinds of pieces
UNIGRAM = 1  # model types


@dataclass(frozen=True, kw_only=True)
class SentencePieceModel:
    """Pieces with their log-probabilities and kinds, in the order of their ids, and how text is normalized."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[int, ...]
    unknown_id: int
    character_map: bytes

    def of_kind(self, *kinds: int) -> list[str]:
        """The pieces of these kinds."""
        return [piece for piece, kind in zip(self.pieces, self.kinds, strict=True) if kind in kinds]


def read_sentence_piece(path: Path) -> SentencePieceModel:
    """Read a unigram model. Raises UserError for a damaged file, or for a model that treats text in another way."""
    try:
        return _model(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", fix="check the path, or copy the file again") from error
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        cause = f"{path} is not a SentencePiece model ({error})"
        raise UserError(cause, fix="restore the file from its source") from error


def _model(data: bytes, path: Path) -> SentencePieceModel:
    pieces, trainer, normalizer = [], {}, {}
    for number, value in _fields(data):
        if number == PIECES:
            pieces.append({KIND: NORMAL, SCORE: 0.0} | dict(_fields(value)))
        elif number == TRAINER:
            trainer = dict(_fields(value))
        elif number == NORMALIZER:
            normalizer = dict(_fields(value))
    if not pieces:
        raise ValueError("it holds no pieces")
    if problem := _difference(trainer, normalizer):
        raise UserError(f"{path} {problem}", fix="use a unigram model as those of T5 and mT5, or a tokenizer.json")
    return SentencePieceModel(
        pieces=tuple(piece[PIECE].decode() for piece in pieces),
        scores=tuple(piece[SCORE] for piece in pieces),
        kinds=tuple(piece[KIND] for piece in pieces),
        unknown_id=trainer.get(UNKNOWN_ID, 0),
        character_map=normalizer.get(CHARACTER_MAP, b""),
    )


def _difference(trainer: dict[int, Any], normalizer: dict[int, Any]) -> str | None:
    """What this model does that T5's does not, if anything. Where a field is absent, its default holds."""
    if trainer.get(MODEL_TYPE, UNIGRAM) != UNIGRAM:
        return "is not a unigram model"
    if trainer.get(SPACE_AS_SUFFIX, 0):
        return "puts the space behind words"
    for field, what in ((DUMMY_PREFIX, "adds no space before a text"), (REMOVE_SPACES, "keeps repeated spaces")):
        if not normalizer.get(field, 1):
            return what
    return None if normalizer.get(ESCAPE_SPACES, 1) else "does not mark spaces"


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a message: whole numbers, floats, or bytes for texts and messages."""
    place = 0
    while place < len(data):
        key, place = _whole_number(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _whole_number(data, place)
        elif kind == 2:
            size, place = _whole_number(data, place)
            value, place = data[place : place + size], place + size
            if place > len(data):
                raise ValueError("it ends too early")
        elif kind in (1, 5):
            form, size = ("<d", 8) if kind == 1 else ("<f", 4)
            (value,), place = struct.unpack(form, data[place : place + size]), place + size
        else:
            raise ValueError(f"field {number} has the unknown kind {kind}")
        yield number, value


def _whole_number(data: bytes, place: int) -> tuple[int, int]:
    """A number in base 128, lowest digit first, where all digits but the last have their high bit set."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
