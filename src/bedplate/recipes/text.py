"""Text to learn from: from the corpora that a recipe names to tokenizer, shards and windows."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bedplate.data.mixture import Mixture, Share, joint_receipt, read_shares
from bedplate.data.shards import MANIFEST, TokenShards, cached, open_sides
from bedplate.data.source import TokenWindows, sequential_windows
from bedplate.data.text import BUILT_IN, Corpus, open_corpus
from bedplate.data.tokenize import Tokenizer, load_tokenizer
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.evaluate.language import Likelihood, likelihood
from bedplate.train.report import HELD_OUT

PROBE_TOKENS = 16_384  # held-out tokens measured while training; the whole held-out text is measured at the end


@dataclass(frozen=True, kw_only=True)
class Text:
    """Which text, cut how. The vocabulary and the window come from the model: vocab_size and context_length."""

    corpus: str = "pydocs"  # pydocs, stdlib, a path, or a mixture such as pydocs:0.7,stdlib:0.3x2: needs no download
    tokenizer: str = ""  # folder of a published vocabulary; empty: trained on the corpus
    isolate: bool = True  # packed documents do not see each other: no text is learned as another's continuation

    @property
    def title(self) -> str:
        """In a few words."""
        return self.corpus

    def prepare(self, recipe: Any, *, tokenizer: Tokenizer | None = None) -> "PreparedText":
        """Read the text, train or read the tokenizer, and cut windows; token shards are opened as they are."""
        return prepare(recipe, tokenizer=tokenizer)

    def resolved(self) -> "Text":
        """The same files, from whatever folder the run is resumed or repeated."""

        def whole(name: str) -> str:
            return name if name in ("", *BUILT_IN) else str(Path(name).expanduser().resolve())

        shares = [replace(share, corpus=whole(share.corpus)) for share in read_shares(self.corpus)]
        plain = len(shares) == 1 and shares[0] == Share(shares[0].corpus)
        corpus = shares[0].corpus if plain else ",".join(map(str, shares))
        return replace(self, corpus=corpus, tokenizer=whole(self.tokenizer))


@dataclass(frozen=True, kw_only=True)
class Part:
    """One corpus of a run, tokenized: all of its text, or a part of a mixture. The text itself is not kept."""

    share: Share
    receipt: Mapping[str, Any]
    windows: TokenWindows
    held_out: TokenShards

    def held_out_windows(self) -> Iterator[dict[str, Tensor]]:
        """The held-out text, cut like the training text."""
        windows = self.windows
        return sequential_windows(self.held_out, length=windows.length, batch_size=8, isolate=windows.isolate)

    def record(self) -> dict[str, Any]:
        """What was learned from, by counts and hashes."""
        return {
            "corpus": self.receipt,
            "train_tokens": self.windows.shards.num_tokens,
            "held_out_tokens": self.held_out.num_tokens,
            "shards": {name: entry["sha256"] for name, entry in self.windows.shards.manifest["files"].items()},
        }


@dataclass(frozen=True, kw_only=True)
class PreparedText:
    """What a recipe stands for once its text is read."""

    parts: tuple[Part, ...]
    tokenizer: Tokenizer
    source: TokenWindows | Mixture
    best: str = HELD_OUT

    def held_out_windows(self) -> Iterator[dict[str, Tensor]]:
        """The held-out text of all parts, one after the other."""
        return chain.from_iterable(part.held_out_windows() for part in self.parts)

    def probe_windows(self) -> Iterator[dict[str, Tensor]]:
        """A beginning of the held-out text of each part."""
        batches = -(-PROBE_TOKENS // (8 * self.parts[0].windows.length * len(self.parts)))
        return chain.from_iterable(islice(part.held_out_windows(), batches) for part in self.parts)

    def record(self) -> dict[str, Any]:
        """What the run learns from, for `run.json`; of a mixture also each part."""
        records = [part.record() for part in self.parts]
        tokenizer = {"tokenizer_sha256": self.tokenizer.digest}
        if isinstance(self.source, TokenWindows):
            return records[0] | tokenizer
        shares = [part.share for part in self.parts]
        whole = {"corpus": joint_receipt(shares, [record["corpus"] for record in records])} | tokenizer
        whole |= {key: sum(record[key] for record in records) for key in ("train_tokens", "held_out_tokens")}
        return whole | {"parts": [{"share": str(part.share)} | part.record() for part in self.parts]}

    def probe(self, model: nn.Module) -> dict[str, float]:
        """Bits per byte of a beginning of the held-out text."""
        return {HELD_OUT: likelihood(model, self.probe_windows()).bits_per_byte}

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Likelihood of all held-out text, of a mixture also of each part."""
        measured = {str(part.share): likelihood(model, part.held_out_windows()) for part in self.parts}
        whole = Likelihood.total(measured.values())
        result = {"bits_per_byte": whole.bits_per_byte, "perplexity_per_token": whole.perplexity_per_token}
        result |= {"tokens": whole.tokens, "bytes": whole.bytes}
        by_part = {"parts": {name: {"bits_per_byte": part.bits_per_byte} for name, part in measured.items()}}
        return result | (by_part if len(measured) > 1 else {})


def prepare(recipe: Any, *, tokenizer: Tokenizer | None = None) -> PreparedText:
    """What the recipe's `Text` stands for."""
    shares = read_shares(recipe.data.corpus)
    corpora = [None if _is_shards(share.corpus) else open_corpus(share.corpus) for share in shares]
    if tokenizer is None:
        tokenizer = _tokenizer_for(recipe, [corpus for corpus in corpora if corpus is not None])
    parts = tuple(_part(recipe, *pair, tokenizer) for pair in zip(shares, corpora, strict=True))
    source: TokenWindows | Mixture = parts[0].windows
    if len(parts) > 1 or shares[0].epochs:
        source = Mixture(shares, tuple(part.windows for part in parts), batch_size=recipe.batch_size)
        source.check_steps(recipe.steps)
    return PreparedText(parts=parts, tokenizer=tokenizer, source=source)


def _is_shards(corpus: str) -> bool:
    return (Path(corpus).expanduser() / "train" / MANIFEST).exists()


def _part(recipe: Any, share: Share, corpus: Corpus | None, tokenizer: Tokenizer) -> Part:
    if corpus is None:
        train_shards, held_out = open_sides(Path(share.corpus).expanduser())
        receipt = train_shards.manifest["corpus"] or _receipt_of(Path(share.corpus), train_shards, held_out)
        if train_shards.manifest["tokenizer_sha256"] != tokenizer.digest:
            cause = f"the token shards in {share.corpus} were made with another vocabulary"
            raise UserError(cause, fix="give the folder of that vocabulary with data.tokenizer")
    else:
        train_shards, held_out = cached(corpus, tokenizer)
        receipt = corpus.receipt()
    windows = TokenWindows(
        train_shards,
        length=recipe.model.context_length,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        isolate=recipe.data.isolate,
    )
    return Part(share=share, receipt=receipt, windows=windows, held_out=held_out)


def _receipt_of(folder: Path, *sides: TokenShards) -> dict[str, Any]:
    """What can be told of text that was given as ids."""
    hashes = [entry["sha256"] for side in sides for entry in side.manifest["files"].values()]
    documents, held_out_documents = (side.manifest["num_documents"] for side in sides)
    size, held_out_size = (side.manifest["num_bytes"] for side in sides)
    return {
        "name": folder.name,
        "source": str(folder),
        "documents": documents + held_out_documents,
        "bytes": size + held_out_size,
        "held_out_documents": held_out_documents,
        "held_out_bytes": held_out_size,
        "sha256": hashlib.sha256(" ".join(hashes).encode()).hexdigest(),
    }


def _tokenizer_for(recipe: Any, corpora: Sequence[Corpus]) -> Tokenizer:
    size = recipe.model.vocab_size
    if not recipe.data.tokenizer:
        if not corpora:
            cause = f"{recipe.data.corpus} holds token ids, but not their vocabulary"
            raise UserError(cause, fix="give its folder: data.tokenizer=FOLDER")
        texts = (document.text for corpus in corpora for document in corpus.train)
        return ByteBPE.train(texts, vocab_size=size)
    tokenizer = load_tokenizer(recipe.data.tokenizer)
    if tokenizer.vocab_size > size:
        cause = f"the vocabulary in {recipe.data.tokenizer} has {tokenizer.vocab_size} tokens, the model {size}"
        raise UserError(cause, fix=f"set model.vocab_size={tokenizer.vocab_size}")
    return tokenizer
