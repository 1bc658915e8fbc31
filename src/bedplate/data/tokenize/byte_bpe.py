"""Byte-level byte pair encoding: the tokenizer of GPT-2 (Radford et al. 2019, section 2.2), BLOOM and Llama-3.

Text is cut into words by a pattern, each word becomes its UTF-8 bytes, and the learned merges join bytes into tokens,
so that every text has ids and comes back unchanged. The merging itself is done by the `tokenizers` library.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, trainers

from bedplate.data.tokenize.library import added_tokens, fill_template
from bedplate.data.tokenize.tokenizer import PIECE, check_learned, checked, cut
from bedplate.data.tokenize.vocabulary import BYTE_OF, Vocabulary, read_vocabulary
from bedplate.data.tokenize.words import BLOOM, GPT2, Words
from bedplate.errors import UserError
from bedplate.files import write_json, write_text

END = "<|endoftext|>"
TRAINED = "the trained vocabulary"
BLOOM_SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")  # ids 0 to 3


class ByteBPE:
    """A byte-level BPE tokenizer. Text never gives special tokens: a literal `<|endoftext|>` is plain characters."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.tokens = {id: token for token, id in vocabulary.ids.items()}
        self.vocab_size = max(self.tokens) + 1
        self.special_ids = sorted(vocabulary.ids[token] for token in vocabulary.special)
        self.unknown_id = -1  # every text has bytes
        self._encoder = _encoder(vocabulary)

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int, words: Words = GPT2) -> "ByteBPE":
        """Learn merges from texts: 256 bytes, then merges, then `<|endoftext|>`. `vocab_size` counts all of them.

        With words.BLOOM the special tokens are BLOOM's and come first. Raises UserError when the texts hold too few
        repeated pairs for that many tokens.
        """
        special = BLOOM_SPECIAL if words is BLOOM else (END,)
        if vocab_size < len(BYTE_OF) + len(special):
            cause = f"a vocabulary of {vocab_size} is too small for 256 bytes and {' '.join(special)}"
            raise UserError(cause, fix=f"set vocab_size to {len(BYTE_OF) + len(special)} or more")
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = _pre_tokenizer(words)
        alphabet = sorted(BYTE_OF)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(special), min_frequency=2, initial_alphabet=alphabet, show_progress=False
        )
        pieces = (piece for text in texts for piece in cut(checked(text), words.border, size=PIECE))
        learner.train_from_iterator(pieces, trainer)
        learned = json.loads(learner.to_str())["model"]
        check_learned(len(learned["vocab"]) + len(special), vocab_size)
        merges = tuple((left, right) for left, right in learned["merges"])
        return cls(_with_special(learned["vocab"], merges, special, words))

    @classmethod
    def from_folder(cls, folder: Path | str) -> "ByteBPE":
        """Read `tokenizer.json`, or `vocab.json` and `merges.txt`, or OpenAI's `encoder.json` and `vocab.bpe`."""
        return cls(read_vocabulary(Path(folder), end=END))

    def with_special(self, *tokens: str, end: str | None = None) -> "ByteBPE":
        """The same with more special tokens behind all others; `end`: the one that ends a text."""
        known = self.vocabulary
        ids = {**known.ids, **{token: self.vocab_size + place for place, token in enumerate(tokens)}}
        return ByteBPE(replace(known, ids=ids, special=(*known.special, *tokens), end=end or known.end))

    def save(self, folder: Path | str) -> None:
        """Write a folder that transformers opens, GPT-2's as GPT2Tokenizer, with the same ids."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        known = self.vocabulary
        content = json.loads(_library_tokenizer(known.ids, known).to_str())
        content |= {"added_tokens": added_tokens(known.ids, known.special), "post_processor": known.template}
        write_json(folder / "tokenizer.json", content)
        if known.words is GPT2:
            write_json(folder / "vocab.json", known.ids)
            lines = ["#version: 0.2", *(f"{left} {right}" for left, right in known.merges)]
            write_text(folder / "merges.txt", "\n".join(lines) + "\n")
            marks = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END if END in known.ids else None)
            settings = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **marks}
        else:
            settings = {"tokenizer_class": "PreTrainedTokenizerFast", **known.marks}
        write_json(folder / "tokenizer_config.json", settings | {"clean_up_tokenization_spaces": False})

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises UserError when it holds a lone surrogate, which has no UTF-8 bytes."""
        return list(chain.from_iterable(self.encode_batch(list(self.split_text(checked(text))))))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores."""
        encodings = self._encoder.encode_batch_fast([checked(text) for text in texts], add_special_tokens=False)
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

    def split_text(self, text: str, *, size: int = PIECE) -> Iterator[str]:
        """Cut a long text into pieces of about `size` characters whose ids, joined, are the ids of the whole."""
        return cut(text, self.vocabulary.words.border, size=size)

    def single(self, ids: Sequence[int]) -> list[int]:
        """A text as the model reads it: with the ids that the published template puts around it, as Llama-3's."""
        return fill_template(self.vocabulary.template, "single", ids)[0]

    @cached_property
    def end_id(self) -> int:
        """The id that ends a text: `<|endoftext|>`, or what the folder calls eos_token; -1 where there is none."""
        return self.vocabulary.ids.get(self.vocabulary.end, -1)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the vocabulary, its merges and, but for GPT-2's, its way to cut words."""
        known = self.vocabulary
        content: list[Any] = [sorted(known.ids.items(), key=lambda item: item[1]), known.merges]
        content += [] if known.words is GPT2 else [known.words.name, known.special, known.end]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _with_special(
    learned: dict[str, int], merges: tuple[tuple[str, str], ...], special: tuple[str, ...], words: Words
) -> Vocabulary:
    """Special tokens behind what was learned, as GPT-2 has it, or before it, as BLOOM."""
    if words is not BLOOM:
        ids = learned | {token: len(learned) + place for place, token in enumerate(special)}
        return Vocabulary(ids=ids, merges=merges, special=special, source=TRAINED, words=words, end=END)
    ids = {token: id for id, token in enumerate(special)}
    ids |= {token: len(special) + id for token, id in learned.items()}
    marks = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), special, strict=True))
    return Vocabulary(
        ids=ids, merges=merges, special=special, source=TRAINED, words=words, end=marks["eos_token"], marks=marks
    )


def _encoder(vocabulary: Vocabulary) -> Tokenizer:
    """What text is encoded with: it does not know the special tokens."""
    plain = {token: id for token, id in vocabulary.ids.items() if token not in vocabulary.special}
    return _library_tokenizer(plain, vocabulary)


def _library_tokenizer(ids: Mapping[str, int], vocabulary: Vocabulary) -> Tokenizer:
    words = vocabulary.words
    model = models.BPE(vocab=dict(ids), merges=list(vocabulary.merges), ignore_merges=words.ignore_merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _pre_tokenizer(words)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pre_tokenizer(words: Words) -> Any:
    """The library builds a part from JSON only together with all others."""
    empty = json.loads(Tokenizer(models.BPE()).to_str())
    return Tokenizer.from_str(json.dumps(empty | {"pre_tokenizer": words.pre_tokenizer})).pre_tokenizer
