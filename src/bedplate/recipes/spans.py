"""Text with hidden spans to learn from: a corpus, its vocabulary, and marks that stand for what is hidden."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from bedplate.data.shards import cached
from bedplate.data.span_corruption import CorruptedWindows, Spans
from bedplate.data.text import Corpus, open_corpus
from bedplate.data.tokenize import Tokenizer, load_tokenizer
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.evaluate.language import Likelihood
from bedplate.generate.prompt import evaluating
from bedplate.objectives.sequence_to_sequence import SequenceToSequence
from bedplate.recipes.text import Text
from bedplate.train.report import HELD_OUT

PROBE_BATCHES = 4  # of held-out text, measured while training


@dataclass(frozen=True, kw_only=True)
class HiddenSpans:
    """Which text, and how much of it is hidden. The model's vocabulary holds the tokens of the text, then the id that
    the decoder starts with (`model.start_id`), then the marks, which are counted down from the last id.
    """

    corpus: str = "pydocs"  # pydocs, stdlib or a path
    tokenizer: str = ""  # folder of a vocabulary; empty: trained on the corpus
    density: float = 0.15  # of tokens that are hidden (section 3.3.3)
    mean_span: float = 3.0  # tokens (section 3.3.4)

    @property
    def title(self) -> str:
        """In a few words."""
        return f"{self.corpus} with hidden spans"

    def resolved(self) -> "HiddenSpans":
        """The same files, from whatever folder the run is resumed or repeated."""
        text = Text(corpus=self.corpus, tokenizer=self.tokenizer).resolved()
        return replace(self, corpus=text.corpus, tokenizer=text.tokenizer)

    def prepare(self, recipe: Any, *, tokenizer: Tokenizer | None = None) -> "PreparedSpans":
        """Read the text, train or read the tokenizer, and cut windows."""
        corpus = open_corpus(self.corpus)
        size, spans = recipe.model.start_id, Spans(density=self.density, mean=self.mean_span)
        if tokenizer is None and self.tokenizer:
            tokenizer = load_tokenizer(self.tokenizer)
        if tokenizer is None:
            tokenizer = ByteBPE.train((document.text for document in corpus.train), vocab_size=size)
        length = recipe.model.context_length
        marks = spans.counts(spans.raw_length(length)[0])[1]
        needed = tokenizer.vocab_size + 1 + marks
        if size < tokenizer.vocab_size or recipe.model.vocab_size < needed + size - tokenizer.vocab_size:
            cause = f"{tokenizer.vocab_size} tokens, a start and {marks} marks do not fit into the model's vocabulary"
            raise UserError(
                cause, fix=f"set model.start_id={tokenizer.vocab_size} and model.vocab_size={needed} or more"
            )
        sides = [
            CorruptedWindows(
                shards, spans=spans, length=length, batch_size=recipe.batch_size, seed=recipe.seed,
                start_id=size, first_sentinel=recipe.model.vocab_size - 1,
            )
            for shards in cached(corpus, tokenizer)
        ]  # fmt: skip
        return PreparedSpans(corpus=corpus, tokenizer=tokenizer, source=sides[0], held_out=sides[1])


@dataclass(frozen=True, kw_only=True)
class PreparedSpans:
    """Text that is read."""

    corpus: Corpus
    tokenizer: Tokenizer
    source: CorruptedWindows
    held_out: CorruptedWindows
    best: str = field(default=HELD_OUT)

    def record(self) -> dict[str, Any]:
        """What was learned from, by counts and hashes."""
        tokens = {"train_tokens": self.source.shards.num_tokens, "held_out_tokens": self.held_out.shards.num_tokens}
        return {"corpus": self.corpus.receipt(), "tokenizer_sha256": self.tokenizer.digest} | tokens

    def probe(self, model: nn.Module) -> dict[str, float]:
        """Bits per byte of what is hidden in some held-out text."""
        return {HELD_OUT: self.likelihood(model, batches=PROBE_BATCHES).bits_per_byte}

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """The likelihood of what is hidden in all held-out text."""
        whole = self.likelihood(model)
        result = {"bits_per_byte": whole.bits_per_byte, "perplexity_per_token": whole.perplexity_per_token}
        return result | {"tokens": whole.tokens, "bytes": whole.bytes}

    def likelihood(self, model: nn.Module, *, batches: int | None = None) -> Likelihood:
        """Of hidden spans, their marks included, given what is around them."""
        device = next(model.parameters()).device
        nats, tokens, spelled = 0.0, 0, 0
        with evaluating(model), torch.inference_mode():
            for number, batch in enumerate(self.held_out.sequential()):
                if number == batches:
                    break
                batch = {name: value.to(device) for name, value in batch.items()}
                loss = SequenceToSequence().loss(model, batch, None, 0)
                nats, tokens = nats + loss.total.item(), tokens + int(loss.count)
                spelled += int(batch["bytes"].sum())
        text, all_spelled = self.held_out.shards.text_bytes
        return Likelihood(nats=nats, tokens=tokens, bytes=spelled * text // max(1, all_spelled))
