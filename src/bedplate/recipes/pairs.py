"""Pairs of texts to learn from: from files, or the built-in task, to a joint vocabulary and batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bedplate.data.generated_translation import Pair
from bedplate.data.pairs import GENERATED, PairBatches, ParallelText, open_pairs
from bedplate.data.tokenize import Tokenizer, load_tokenizer
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.data.tokenize.tokenizer import end_mark, spelled_bytes
from bedplate.errors import UserError
from bedplate.evaluate.language import Likelihood
from bedplate.evaluate.translation import bleu, translate
from bedplate.generate.prompt import evaluating
from bedplate.objectives.sequence_to_sequence import SequenceToSequence
from bedplate.train.report import HELD_OUT

PROBE_BATCHES = 4  # of held-out pairs, measured while training
TRANSLATED = 500  # held-out sentences that are translated at the end


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which pairs. The joint vocabulary leaves the model's last id free: the decoder starts with it."""

    corpus: str = GENERATED  # German and English of a small grammar; or two files of lines: train.de,train.en, also .gz
    held_out: str = ""  # two more files; empty: one pair in twenty is held out
    tokenizer: str = ""  # folder of a vocabulary; empty: trained on both sides

    @property
    def title(self) -> str:
        """In a few words."""
        return "generated German and English sentences" if self.corpus == GENERATED else self.corpus

    def prepare(self, recipe: Any, *, tokenizer: Tokenizer | None = None) -> "PreparedPairs":
        """Read the pairs, train or read the tokenizer, and cut batches."""
        text = open_pairs(self.corpus, self.held_out)
        size = recipe.model.vocab_size - 1
        if tokenizer is None and self.tokenizer:
            tokenizer = load_tokenizer(self.tokenizer)
        if tokenizer is None:
            both = chain.from_iterable((pair.source, pair.target) for pair in text.train)
            tokenizer = ByteBPE.train(both, vocab_size=size)
        if tokenizer.vocab_size > size:
            cause = f"the vocabulary has {tokenizer.vocab_size} tokens, the model {size + 1}, of which one begins texts"
            raise UserError(cause, fix=f"set model.vocab_size={tokenizer.vocab_size + 1}")
        if recipe.model.start_id < tokenizer.vocab_size:
            cause = f"model.start_id is {recipe.model.start_id}, a token of the vocabulary"
            raise UserError(cause, fix=f"set model.start_id={recipe.model.vocab_size - 1}")
        sides = [_batches(pairs, tokenizer, recipe) for pairs in (text.train, text.held_out)]
        return PreparedPairs(text=text, tokenizer=tokenizer, source=sides[0], held_out=sides[1])

    def resolved(self) -> "Pairs":
        """The same files, from whatever folder the run is resumed or repeated."""

        def whole(names: str) -> str:
            return ",".join(str(Path(name).expanduser().resolve()) for name in names.split(","))

        values = {name: getattr(self, name) for name in ("corpus", "held_out", "tokenizer")}
        found = {name: value if value in ("", GENERATED) else whole(value) for name, value in values.items()}
        return replace(self, **found)


@dataclass(frozen=True, kw_only=True)
class PreparedPairs:
    """Pairs that are read."""

    text: ParallelText
    tokenizer: Tokenizer
    source: PairBatches
    held_out: PairBatches
    best: str = HELD_OUT

    def record(self) -> dict[str, Any]:
        """What was learned from, by counts and hashes."""
        corpus = {"name": self.text.source, "source": self.text.source, "sha256": self.text.digest}
        sides = self.text.train, self.text.held_out
        sizes = [sum(len(text.encode()) for pair in side for text in (pair.source, pair.target)) for side in sides]
        corpus |= {"documents": sum(map(len, sides)), "bytes": sum(sizes)}
        corpus |= {"held_out_documents": len(sides[1]), "held_out_bytes": sizes[1]}
        return {"corpus": corpus, "pairs": len(self.source.kept), "tokenizer_sha256": self.tokenizer.digest}

    def probe(self, model: nn.Module) -> dict[str, float]:
        """Bits per byte of some held-out targets, given their sources."""
        return {HELD_OUT: self.likelihood(model, batches=PROBE_BATCHES).bits_per_byte}

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """The likelihood of all held-out targets, and BLEU of translations by beam search."""
        whole = self.likelihood(model)
        pairs = [self.text.held_out[number] for number in self.held_out.kept[:TRANSLATED].tolist()]
        texts = translate(model, self.tokenizer, [pair.source for pair in pairs])
        score = bleu(texts, [pair.target for pair in pairs])
        result = {"bits_per_byte": whole.bits_per_byte, "perplexity_per_token": whole.perplexity_per_token}
        result |= {"tokens": whole.tokens, "bytes": whole.bytes}
        return result | {"bleu": score.score, "bleu_signature": score.signature, "translated": len(texts)}

    def likelihood(self, model: nn.Module, *, batches: int | None = None) -> Likelihood:
        """Of held-out targets given their sources."""
        return likelihood_of_pairs(model, self.held_out, self.tokenizer, batches=batches, share=self._text_share)

    @cached_property
    def _text_share(self) -> float:
        """Bytes of the held-out targets for each byte that their tokens spell: 1 where no character is lost."""
        targets = [self.text.held_out[number].target for number in self.held_out.kept.tolist()]
        spelled = sum(spelled_bytes(self.tokenizer, ids) for ids in self.tokenizer.encode_batch(targets))
        return sum(len(target.encode()) for target in targets) / max(1, spelled)


def likelihood_of_pairs(
    model: nn.Module, pairs: PairBatches, tokenizer: Any, *, batches: int | None = None, share: float = 1.0
) -> Likelihood:
    """Of targets given their sources, end marks included; without smoothing.

    `share`: bytes of text for each byte that its tokens spell.
    """
    device = next(model.parameters()).device
    nats, tokens, spelled = 0.0, 0, 0
    with evaluating(model), torch.inference_mode():
        for batch in islice(pairs.sequential(), batches):
            batch = {name: value.to(device) for name, value in batch.items()}
            loss = SequenceToSequence().loss(model, batch, None, 0)
            nats, tokens = nats + loss.total.item(), tokens + int(loss.count)
            spelled += spelled_bytes(tokenizer, _written(batch, tokenizer))
    return Likelihood(nats=nats, tokens=tokens, bytes=round(spelled * share))


def _written(batch: dict[str, torch.Tensor], tokenizer: Any) -> list[int]:
    targets = batch["targets"].flatten()
    return targets[(targets >= 0) & (targets != tokenizer.end_id)].tolist()


def _batches(pairs: Sequence[Pair], tokenizer: Tokenizer, recipe: Any) -> PairBatches:
    return PairBatches(
        tokenizer.encode_batch([pair.source for pair in pairs]),
        tokenizer.encode_batch([pair.target for pair in pairs]),
        length=recipe.model.context_length,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        start_id=recipe.model.start_id,
        end_id=end_mark(tokenizer),
    )
