"""How many tokens a tokenizer needs for a word and a byte, language by language: fertility (BLOOM, section 3.2.2)."""

import lzma
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bedplate.data.tokenize import Tokenizer
from bedplate.errors import UserError

TREEBANKS = (".conllu", ".conllu.xz")
KINDS = (".txt", *TREEBANKS)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Text of one language, sentence by sentence or line by line."""

    language: str
    texts: Sequence[str]
    num_words: int

    @property
    def num_bytes(self) -> int:
        """Bytes of UTF-8."""
        return sum(len(text.encode()) for text in self.texts)


@dataclass(frozen=True, kw_only=True)
class Fertility:
    """What a tokenizer makes of a sample."""

    language: str
    tokens: int
    unknown: int
    words: int
    bytes: int

    def row(self) -> dict[str, Any]:
        """Ratios: 1 token a word is the least; `unknown` is the share of tokens that stand for anything."""
        return {
            "language": self.language,
            "tokens a word": self.tokens / self.words,
            "tokens a byte": self.tokens / self.bytes,
            "unknown": self.unknown / self.tokens if self.tokens else 0.0,
            "tokens": self.tokens,
            "words": self.words,
            "bytes": self.bytes,
        }


def measure(tokenizer: Tokenizer, sample: Sample) -> Fertility:
    """The tokens of a sample, each of its texts encoded by itself."""
    encoded = tokenizer.encode_batch(list(sample.texts))
    unknown = sum(id == tokenizer.unknown_id for ids in encoded for id in ids)
    size = sum(map(len, encoded))
    return Fertility(
        language=sample.language, tokens=size, unknown=unknown, words=sample.num_words, bytes=sample.num_bytes
    )


def compare(tokenizers: Mapping[str, Tokenizer], samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """One row for each language and tokenizer."""
    return [
        {"tokenizer": name} | measure(tokenizer, sample).row()
        for sample in samples
        for name, tokenizer in tokenizers.items()
    ]


def read_samples(path: Path) -> list[Sample]:
    """One sample for each file: lines of a .txt, or the sentences of a treebank in .conllu or .conllu.xz.

    Words are what stands between white space; of a treebank they are its tokens, as some languages write no spaces.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist", fix="name a file or a folder of text")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    samples = [_sample(file) for file in files if file.name.endswith(KINDS)]
    if not samples:
        raise UserError(f"{path} holds no text", fix=f"give one file for each language: {' '.join(KINDS)}")
    return samples


def _sample(path: Path) -> Sample:
    try:
        data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        lines = data.decode("utf-8").splitlines()
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not UTF-8 text ({error})", fix="restore the file from its source") from error
    if path.name.endswith(TREEBANKS):
        texts = [line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")]
        num_words = sum(1 for _ in _treebank_words(lines))
    else:
        texts = [line for line in lines if line.strip()]
        num_words = sum(len(line.split()) for line in texts)
    if not texts or not num_words:
        raise UserError(f"{path} holds no text", fix="leave it out")
    return Sample(language=path.name.partition(".")[0], texts=texts, num_words=num_words)


def _treebank_words(lines: Sequence[str]) -> Iterator[str]:
    """Words as they are written: `3-4 du` is one, its parts 3 and 4 are none, and neither is 5.1, which is left out."""
    last = 0  # of the parts that a written word covers
    for line in lines:
        number, _, rest = line.partition("\t")
        if not rest:
            last = 0
        elif "-" in number:
            last = int(number.partition("-")[2])
            yield rest
        elif "." not in number and int(number) > last:
            yield rest
