"""Text to pre-train an encoder on: from a corpus to a WordPiece vocabulary, shards and rows with hidden tokens."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bedplate.data.masking import Marks, Masking
from bedplate.data.sentence_pairs import SentencePairs
from bedplate.data.shards import TokenShards, cached
from bedplate.data.text import BUILT_IN, open_corpus
from bedplate.data.tokenize import Tokenizer, load_tokenizer
from bedplate.data.tokenize.word_piece import WordPiece
from bedplate.errors import UserError
from bedplate.evaluate.masked import Guessing, guessing

PROBE_ROWS = 256  # of held-out text, measured while training
MASKED_LOSS = "held_out_masked_loss"


@dataclass(frozen=True, kw_only=True)
class MaskedText:
    """Which text, and what of it is hidden. Vocabulary and rows come from the model: vocab_size and context_length."""

    corpus: str = "pydocs"  # pydocs, stdlib, or a path
    tokenizer: str = ""  # folder of a published vocabulary; empty: an uncased one, trained on the corpus
    most_hidden: int = 20  # tokens of a row: enough for rows of 128; 512 need 77
    whole_words: bool = False
    maskings: int = 0  # of a stretch of text, which take turns: the released code makes 10; 0: new ones every time

    @property
    def title(self) -> str:
        """In a few words."""
        return self.corpus

    @property
    def used_by(self) -> str:
        """The command that a trained model is for."""
        return "embed"

    def resolved(self) -> "MaskedText":
        """The same files, from whatever folder the run is resumed or repeated."""
        corpus, tokenizer = (
            name if name in ("", *BUILT_IN) else str(Path(name).expanduser().resolve())
            for name in (self.corpus, self.tokenizer)
        )
        return replace(self, corpus=corpus, tokenizer=tokenizer)

    def prepare(self, recipe: Any, *, tokenizer: Tokenizer | None = None) -> "PreparedMaskedText":
        """Read the text, train or read the vocabulary, and cut rows."""
        corpus = open_corpus(self.corpus)
        if tokenizer is None and self.tokenizer:
            tokenizer = load_tokenizer(self.tokenizer)
        if tokenizer is None:
            texts = (document.text for document in corpus.train)
            tokenizer = WordPiece.train(texts, vocab_size=recipe.model.vocab_size)
        check_word_piece(tokenizer, recipe.model.vocab_size)
        train, held_out = (self._rows(recipe, shards, tokenizer) for shards in cached(corpus, tokenizer))
        return PreparedMaskedText(receipt=corpus.receipt(), tokenizer=tokenizer, source=train, held_out=held_out)

    def _rows(self, recipe: Any, shards: TokenShards, tokenizer: Tokenizer) -> SentencePairs:
        masking = Masking(most=self.most_hidden, whole_words=self.whole_words)
        sizes = {"length": recipe.model.context_length, "batch_size": recipe.batch_size, "seed": recipe.seed}
        return SentencePairs(shards, Marks.of(tokenizer), **sizes, masking=masking, maskings=self.maskings)


def check_word_piece(tokenizer: Tokenizer, size: int) -> None:
    """Raises UserError when a vocabulary has not BERT's marks, or more tokens than the model."""
    if not isinstance(tokenizer, WordPiece):
        raise UserError(f"a {type(tokenizer).__name__} vocabulary has no [MASK]", fix="give the vocabulary of a BERT")
    if tokenizer.vocab_size > size:
        cause = f"the vocabulary has {tokenizer.vocab_size} tokens, the model {size}"
        raise UserError(cause, fix=f"set model.vocab_size={tokenizer.vocab_size}")


@dataclass(frozen=True, kw_only=True)
class PreparedMaskedText:
    """What a recipe stands for once its text is read."""

    receipt: dict[str, Any]
    tokenizer: Tokenizer
    source: SentencePairs
    held_out: SentencePairs
    best: str = MASKED_LOSS

    def record(self) -> dict[str, Any]:
        """What was learned from, by counts and hashes."""
        return {
            "corpus": self.receipt,
            "train_tokens": self.source.shards.num_tokens,
            "held_out_tokens": self.held_out.shards.num_tokens,
            "rows": self.source.num_items,
            "tokenizer_sha256": self.tokenizer.digest,
        }

    def probe(self, model: nn.Module) -> dict[str, float]:
        """On some held-out rows."""
        return {MASKED_LOSS: self._measured(model, islice(self.held_out.sequential(), PROBE_ROWS // 32)).loss}

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """On all of them."""
        return self._measured(model, self.held_out.sequential()).table()

    def _measured(self, model: nn.Module, batches: Iterator[dict[str, Tensor]]) -> Guessing:
        return guessing(model, batches)
