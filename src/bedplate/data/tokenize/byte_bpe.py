"""Byte-level byte pair encoding: GPT-2's tokenizer (Radford et al. 2019, section 2.2).

Text is cut into words by a pattern, each word becomes its UTF-8 bytes, and the learned merges join bytes into tokens,
so that every text has ids and comes back unchanged. The merging itself is done by the `tokenizers` library.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from bedplate.data.tokenize.vocabulary import BYTE_OF, Vocabulary, read_vocabulary
from bedplate.errors import UserError
from bedplate.files import write_json

END = "<|endoftext|>"
PIECE = 2**16  # characters: long texts are encoded in pieces, to bound memory and to use every core
BORDER = re.compile(r"\S(?=[ \n\t])")


class ByteBPE:
    """A byte-level BPE tokenizer. Text never gives special tokens: a literal `<|endoftext|>` is plain characters."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.tokens = {id: token for token, id in vocabulary.ids.items()}
        self.vocab_size = max(self.tokens) + 1
        self._encoder = _library_tokenizer(models.BPE(vocab=dict(vocabulary.ids), merges=list(vocabulary.merges)))

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> "ByteBPE":
        """Learn merges from texts: 256 bytes, then merges, then `<|endoftext|>`. `vocab_size` counts all of them.

        Raises UserError when the texts hold too few repeated pairs for that many tokens.
        """
        if vocab_size < len(BYTE_OF) + 1:
            cause = f"a vocabulary of {vocab_size} is too small for 256 bytes and {END}"
            raise UserError(cause, fix="set vocab_size to 257 or more")
        learner = _library_tokenizer(models.BPE())
        alphabet = sorted(BYTE_OF)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1, min_frequency=2, initial_alphabet=alphabet, show_progress=False
        )
        learner.train_from_iterator((piece for text in texts for piece in split_text(_checked(text))), trainer)
        learned = json.loads(learner.to_str())["model"]
        found = len(learned["vocab"]) + 1
        if found < vocab_size:
            cause = f"the text yields a vocabulary of only {found} tokens, not {vocab_size}"
            raise UserError(
                cause, fix=f"set vocab_size (of a recipe: model.vocab_size) to {found} or less, or use more text"
            )
        merges = tuple((left, right) for left, right in learned["merges"])
        ids = learned["vocab"] | {END: found - 1}
        return cls(Vocabulary(ids=ids, merges=merges, special=(END,), source="the trained vocabulary"))

    @classmethod
    def from_folder(cls, folder: Path | str) -> "ByteBPE":
        """Read `tokenizer.json`, or `vocab.json` and `merges.txt`, or OpenAI's `encoder.json` and `vocab.bpe`."""
        return cls(read_vocabulary(Path(folder), end=END))

    def save(self, folder: Path | str) -> None:
        """Write a folder that transformers opens as GPT2Tokenizer, with the same ids."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        ids, merges = self.vocabulary.ids, self.vocabulary.merges
        exported = _library_tokenizer(models.BPE(vocab=dict(ids), merges=list(merges)))
        by_id = sorted(self.vocabulary.special, key=ids.__getitem__)
        exported.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in by_id])
        write_json(folder / "tokenizer.json", json.loads(exported.to_str()))
        write_json(folder / "vocab.json", ids)
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        marks = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END if END in ids else None)
        settings = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **marks}
        write_json(folder / "tokenizer_config.json", settings | {"clean_up_tokenization_spaces": False})

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises UserError when it holds a lone surrogate, which has no UTF-8 bytes."""
        return list(chain.from_iterable(self.encode_batch(list(split_text(_checked(text))))))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores."""
        encodings = self._encoder.encode_batch_fast([_checked(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8, as where a character is cut, become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one id stands for."""
        token = self.tokens.get(id)
        if token is None:
            cause = f"id {id} is not in the vocabulary of {self.vocab_size} tokens"
            raise UserError(cause, fix="use the tokenizer that belongs to the model")
        if token in self.vocabulary.special:
            return token.encode()
        return bytes(BYTE_OF[character] for character in token)

    @cached_property
    def end_id(self) -> int:
        """The id of `<|endoftext|>`."""
        if END not in self.vocabulary.ids:
            cause = f"{self.vocabulary.source} has no token {END}, which ends documents"
            raise UserError(cause, fix="use a tokenizer that has it, such as GPT-2's")
        return self.vocabulary.ids[END]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and its merges, in hexadecimal."""
        content = [sorted(self.vocabulary.ids.items(), key=lambda item: item[1]), self.vocabulary.merges]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def split_text(text: str, *, size: int = PIECE) -> Iterator[str]:
    """Cut a long text into pieces of about `size` characters whose ids, joined, are the ids of the whole.

    GPT-2's pattern always ends a token between a visible character and the white space after it.
    """
    start = 0
    while len(text) - start > size and (border := BORDER.search(text, start + size)):
        yield text[start : border.end()]
        start = border.end()
    yield text[start:]


def _library_tokenizer(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _checked(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        cause = f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}"
        raise UserError(cause, fix="replace it, for example by U+FFFD") from error
    return text
