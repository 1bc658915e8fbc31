"""Opens the tokenizer in a folder, whatever its family."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.data.tokenize.piece_bpe import PieceBPE
from bedplate.data.tokenize.tokenizer import Tokenizer
from bedplate.data.tokenize.unigram import FILES as UNIGRAM_FILES
from bedplate.data.tokenize.unigram import Unigram
from bedplate.data.tokenize.vocabulary import BYTE_OF
from bedplate.data.tokenize.word_bpe import FILES as WORD_FILES
from bedplate.data.tokenize.word_bpe import WORD_END, WordBPE
from bedplate.data.tokenize.word_piece import WordPiece
from bedplate.errors import UserError
from bedplate.files import read_json

Family = type[ByteBPE] | type[PieceBPE] | type[Unigram] | type[WordBPE] | type[WordPiece]


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer in a folder: tokenizer.json decides, else the files that each family is published in."""
    folder = Path(folder)
    return _family(folder).from_folder(folder)


def _family(folder: Path) -> Family:
    if (folder / "tokenizer.json").exists():
        content = read_json(folder / "tokenizer.json")
        model = content.get("model") if isinstance(content, dict) else None
        return _family_of_model(model) if isinstance(model, dict) else ByteBPE
    if any((folder / name).exists() for name in UNIGRAM_FILES):
        return Unigram
    if (folder / "vocab.txt").exists():
        return WordPiece
    for name, _ in WORD_FILES:
        if (folder / name).exists() and _ends_words(read_json(folder / name), folder):
            return WordBPE
    return ByteBPE


def _family_of_model(model: Mapping[str, Any]) -> Family:
    """By the model's type; files of old versions do not say it, but each kind has a key of its own."""
    kind = model.get("type")
    if kind == "Unigram" or (kind is None and "unk_id" in model):
        return Unigram
    if kind == "WordPiece" or (kind is None and "max_input_chars_per_word" in model):
        return WordPiece
    if model.get("end_of_word_suffix"):
        return WordBPE
    return PieceBPE if model.get("byte_fallback") else ByteBPE


def _ends_words(ids: Any, folder: Path) -> bool:
    """Whether tokens mark the ends of words, as GPT-1's do and GPT-2's do not."""
    marked = isinstance(ids, dict) and any(token.endswith(WORD_END) for token in ids)
    if marked and ids.keys() >= BYTE_OF.keys():
        cause = f"{folder} holds a BPE of bytes that marks the ends of words, as CLIP's"
        raise UserError(cause, fix="use the model that it belongs to: as a language model's it is not known")
    return marked
