"""Autoregressive generation: a prefill of ragged prompts, then one token a step for every sequence still open.

Callers hand over lists and never pad. A sequence's text depends on its prompt and its seed, not on its batch.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bedplate.errors import UserError
from bedplate.generate.sample import Sampling, choose
from bedplate.generate.text import TextStream


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a model wrote after a prompt."""

    text: str  # without the prompt and without the stop string
    ids: list[int]  # all tokens drawn, the one that completed a stop string or ended the text included
    logprobs: list[float]  # of each id, in nats, under the model's own distribution (before temperature and filters)
    finish_reason: str  # "stop": a stop string; "end": end of text; "length": max_new_tokens; "context": no room left


class Token(NamedTuple):
    """One step of one sequence."""

    row: int
    id: int
    logprob: float


@dataclass
class _Sequence:
    """A sequence that is still open."""

    row: int
    ids: list[int]  # prompt and text so far
    limit: int  # of ids
    generator: torch.Generator


def generate(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 40,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    truncate: bool = False,
) -> list[Generation]:
    """Continue each prompt, up to `max_new_tokens`, a stop string (the text leaves it out) or the end of the context.

    Sequence i draws with `seeds[i]`, by default `seed + i`: its sample does not depend on what else is in the batch.
    A prompt as long as the context or longer is a UserError; with `truncate` its beginning is dropped to make room for
    `max_new_tokens`. An empty prompt starts a new text.
    """
    seeds = [seed + row for row in range(len(prompts))] if seeds is None else seeds
    writers = _writers(model, tokenizer, prompts, max_new_tokens=max_new_tokens, stop=stop, truncate=truncate)
    for _ in sample_tokens(
        model, [writer.prompt for writer in writers], max_new_tokens=max_new_tokens, sampling=sampling or Sampling(),
        seeds=seeds, is_done=lambda token: writers[token.row].add(token), vocab_size=tokenizer.vocab_size,
    ):  # fmt: skip
        pass
    return [writer.generation() for writer in writers]


def stream(
    model: nn.Module,
    tokenizer: Any,
    prompt: str,
    *,
    max_new_tokens: int = 40,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    truncate: bool = False,
) -> Iterator[str]:
    """Continue one prompt, piece by piece; the pieces add up to the text that `generate` returns.

    What cannot be released yet is held back: a character whose bytes are not complete, what may begin a stop string.
    """
    (writer,) = _writers(model, tokenizer, [prompt], max_new_tokens=max_new_tokens, stop=stop, truncate=truncate)
    tokens = sample_tokens(
        model, [writer.prompt], max_new_tokens=max_new_tokens, sampling=sampling or Sampling(), seeds=[seed],
        is_done=writer.add, vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    return _pieces(writer, tokens)


def _pieces(writer: "_Writer", tokens: Generator[Token, None, None]) -> Iterator[str]:
    shown = 0
    with closing(tokens):  # an interrupted reader gets its model back as it was, at once
        for _ in tokens:
            if len(writer.text) > shown:
                yield writer.text[shown:]
                shown = len(writer.text)


def sample_tokens(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int],
    is_done: Callable[[Token], bool],
    vocab_size: int | None = None,
) -> Generator[Token, None, None]:
    """The loop itself, on ids: yields each token drawn; a sequence goes on until `is_done(token)`.

    At the latest it ends after `max_new_tokens`, or where the context is full. Ids from `vocab_size` on are not drawn:
    they pad the model's vocabulary and stand for nothing.
    """
    sequences = _sequences(prompts, seeds, max_new_tokens, model.config.context_length)
    if not sequences:
        return
    with evaluating(model):
        features, state = prefill(model, prompts, max_new_tokens)
        while sequences:
            tokens = _draw(model, features, sampling, sequences, vocab_size)
            places = []
            for place, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
                sequence.ids.append(token.id)
                if not is_done(token) and len(sequence.ids) < sequence.limit:
                    places.append(place)
                yield token
            if places:
                features = _advance(model, state, [tokens[place].id for place in places], places, len(tokens))
            sequences = [sequences[place] for place in places]


@torch.inference_mode()
def prefill(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> tuple[Tensor, list[Any]]:
    """Features at the last token of each prompt, and the state after it."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    ids = nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True).to(device)
    capacity = min(model.config.context_length, ids.shape[1] + max_new_tokens)
    state = model.new_state(len(prompts), capacity=capacity)
    features = model.features(ids, state=state)
    for layer in state:
        layer.truncate(lengths)  # forgets the padding
    return features[torch.arange(len(prompts), device=device), lengths - 1], state


@torch.inference_mode()
def _draw(
    model: Any, features: Tensor, sampling: Sampling, sequences: Sequence[_Sequence], vocab_size: int | None
) -> list[Token]:
    """The next token of each sequence, with its log-probability before penalty, temperature and filters."""
    logits = model.logits(features)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    normalizers = logits.logsumexp(dim=-1)
    if not normalizers.isfinite().all():
        raise UserError(
            "the model's output is not a number", fix="check its weights, or load it with dtype=torch.float32"
        )
    histories = [sequence.ids for sequence in sequences]
    generators = [sequence.generator for sequence in sequences]
    ids = choose(logits[:, :vocab_size], sampling, histories=histories, generators=generators)
    chosen = logits.gather(1, torch.tensor(ids, device=logits.device)[:, None]).squeeze(1)
    logprobs = (chosen - normalizers).tolist()
    return [Token(sequence.row, *drawn) for sequence, *drawn in zip(sequences, ids, logprobs, strict=True)]


@torch.inference_mode()
def _advance(model: Any, state: list[Any], ids: Sequence[int], places: Sequence[int], batch: int) -> Tensor:
    """Features after one more token for the sequences still open; the others leave the batch."""
    device = next(model.parameters()).device
    if len(places) < batch:
        kept = torch.tensor(places, device=device)
        for layer in state:
            layer.select(kept)
    return model.features(torch.tensor(ids, device=device)[:, None], state=state)[:, -1]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards exactly the layers that were training are training again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _sequences(
    prompts: Sequence[Sequence[int]], seeds: Sequence[int], max_new_tokens: int, context_length: int
) -> list[_Sequence]:
    if len(seeds) != len(prompts):
        raise UserError(f"there are {len(prompts)} prompts and {len(seeds)} seeds", fix="give one seed for each prompt")
    if not all(-(2**63) <= seed < 2**64 for seed in seeds):
        raise UserError("a seed has more than 64 bits", fix="give a smaller number")
    return [
        _Sequence(
            row, list(prompt), min(len(prompt) + max_new_tokens, context_length), torch.Generator().manual_seed(seed)
        )
        for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]


@dataclass
class _Writer:
    """Collects the tokens of one sequence and knows when it ends."""

    prompt: list[int]
    tokenizer: Any
    max_new_tokens: int
    room: int  # tokens that the context still holds
    stream: TextStream
    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = ""

    def add(self, token: Token) -> bool:
        """Take a token; True when it was the last."""
        self.ids.append(token.id)
        self.logprobs.append(token.logprob)
        ended = token.id == self.tokenizer.end_id
        data = b"" if ended else self.tokenizer.token_bytes(token.id)
        long = len(self.ids) >= self.max_new_tokens
        last = ended or long or len(self.ids) >= self.room
        self.text += self.stream.push(data, final=last)
        if self.stream.stopped:
            self.finish_reason = "stop"
        elif last:
            self.finish_reason = "end" if ended else "length" if long else "context"
        return bool(self.finish_reason)

    def generation(self) -> Generation:
        """The finished result."""
        return Generation(text=self.text, ids=self.ids, logprobs=self.logprobs, finish_reason=self.finish_reason)


def _writers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    stop: str | Sequence[str],
    truncate: bool,
) -> list[_Writer]:
    if isinstance(prompts, str):
        raise UserError("prompts is one text", fix="give a list of texts")
    stop = [stop] if isinstance(stop, str) else stop
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}", fix="give a number from 1 up")
    if not all(stop):
        raise UserError("a stop string is empty", fix="leave it out")
    writers = []
    for prompt in prompts:
        ids = prompt_ids(model, tokenizer, prompt, keep=model.config.context_length - max_new_tokens, truncate=truncate)
        room = model.config.context_length - len(ids)
        writers.append(_Writer(ids, tokenizer, max_new_tokens, room, TextStream(stop)))
    return writers


def prompt_ids(model: Any, tokenizer: Any, prompt: str, *, keep: int, truncate: bool) -> list[int]:
    """The ids of a prompt, an end mark for an empty one; raises UserError when it is too long and not to be cut."""
    ids = tokenizer.encode(prompt) or [tokenizer.end_id]
    context = model.config.context_length
    if max(ids) >= model.config.vocab_size:
        cause = f"the tokenizer gives id {max(ids)}, the model has {model.config.vocab_size} tokens"
        raise UserError(cause, fix="use the tokenizer that belongs to the model")
    if truncate:
        return ids[-max(keep, 1) :]
    if len(ids) >= context:
        cause = f"the prompt has {len(ids)} tokens, the context of the model holds {context}"
        raise UserError(
            cause,
            fix=f"shorten it to at most {context - 1} tokens, or drop its beginning with truncate=True (--truncate)",
        )
    return ids
