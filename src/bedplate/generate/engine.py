"""The engine: requests of any length join and leave at any step, and share every pass through the model.

A fixed number of slots holds the states of the sequences (`model.new_state`). A step reads a bounded piece of the
prompts that wait, then gives every sequence that has read its prompt one more token. Sequences are never padded, so a
request's tokens and log-probabilities depend on nothing but the request: on a CPU in float32 not in a single bit.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bedplate.errors import UserError
from bedplate.generate.prompt import CHUNK, beginning, evaluating, fit, read, read_source, reads_a_source
from bedplate.generate.sample import Sampling, choose
from bedplate.generate.text import Generation, TextStream, Writer

CHUNKS_PER_STEP = 2  # prompt chunks that a step reads while other sequences wait for their next token


NOT_A_NUMBER = "the model's output is not a number"
NOTHING_ALLOWED = "penalties, biases and constraints leave no token to choose"


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt and how to continue it."""

    prompt: Sequence[int]  # ids
    max_new_tokens: int = 40
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    stop: Sequence[str] = ()
    top_logprobs: int = 0  # likeliest alternatives that are reported with every token
    constraint: Any | None = None  # what may be written, from `generate.constrain`
    truncate: bool = False  # drop the beginning of a prompt that leaves no room for max_new_tokens

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}", fix="give a number from 1 up")
        if not all(self.stop):
            raise UserError("a stop string is empty", fix="leave it out")
        if not -(2**63) <= self.seed < 2**64:
            raise UserError("a seed has more than 64 bits", fix="give a smaller number")
        if self.top_logprobs < 0:
            raise UserError(f"top_logprobs is {self.top_logprobs}", fix="give a number of tokens from 0 up")


class Token(NamedTuple):
    """A token drawn; log-probabilities in nats, before penalties, bias, temperature and filters."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # the likeliest ids with theirs, the likeliest first


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a step did for a request."""

    number: int
    token: Token | None = None
    text: str = ""  # what the token makes certain
    generation: Generation | None = None  # the whole, with the last update
    error: str | None = None  # why the request ended without one


@dataclass
class _Sequence:
    """A request in a slot."""

    number: int
    request: Request
    prompt: list[int]  # what the decoder reads first
    source: list[int]  # what the encoder reads, of models that have one
    writer: Writer
    generator: torch.Generator
    read: int = 0  # prompt tokens in the state

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.writer.ids


class Engine:
    """Continuous batching over `slots` sequences of up to `capacity` tokens (default: the context length).

    It belongs to one thread. Call `submit` and `cancel` between steps, and `step` for as long as it is `busy`.
    """

    def __init__(self, model: Any, tokenizer: Any, *, slots: int = 8, capacity: int | None = None) -> None:
        if slots < 1:
            raise UserError(f"slots is {slots}", fix="give a number from 1 up")
        self.model, self.tokenizer = model, tokenizer
        self._modules = list(model.modules())
        self._capacity = model.config.context_length if capacity is None else capacity
        self._state = model.new_state(slots, capacity=capacity)
        self._running: dict[int, _Sequence] = {}  # by slot
        self._prompts: list[list[int]] = [[] for _ in range(slots)]  # read into each slot, kept when it is free again
        self._waiting: deque[_Sequence] = deque()
        self._numbers = 0
        self._together: tuple[list[int], list[Any]] = ([], [])  # slots of the last pass, and the state of these

    @property
    def busy(self) -> bool:
        """Whether a step would do something."""
        return bool(self.waiting or self.running)

    @property
    def waiting(self) -> int:
        """Requests that have no slot yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests in slots."""
        return len(self._running)

    def submit(self, request: Request) -> int:
        """Take a request; returns its number. Raises UserError when its prompt does not fit the model."""
        sourced = reads_a_source(self.model)
        keep = self.model.config.context_length - (1 if sourced else request.max_new_tokens)
        fitting = fit(self.model, request.prompt, keep=keep, truncate=request.truncate)
        prompt, source = beginning(self.model, fitting), fitting if sourced else []
        room = min(self.model.config.context_length, self._capacity) - len(prompt)
        if room < 1:
            cause = f"the prompt has {len(prompt)} tokens, the engine holds {self._capacity} a sequence"
            raise UserError(cause, fix="shorten it, or give the engine a larger capacity")
        writer = Writer(self.tokenizer, TextStream(request.stop), request.max_new_tokens, room, opens=sourced)
        generator = torch.Generator().manual_seed(request.seed)
        self._numbers += 1
        self._waiting.append(_Sequence(self._numbers, request, prompt, source, writer, generator))
        return self._numbers

    def cancel(self, number: int) -> None:
        """Forget a request; its slot is free at once. Numbers that are unknown or finished are ignored."""
        self._waiting = deque(sequence for sequence in self._waiting if sequence.number != number)
        self._running = {slot: each for slot, each in self._running.items() if each.number != number}

    @torch.inference_mode()
    def step(self) -> list[Update]:
        """Read a piece of the prompts that wait, and draw a token for every sequence whose prompt is read."""
        with evaluating(self.model, self._modules):
            begun, features = self._read_prompts()
            going = sorted(slot for slot, each in self._running.items() if each.writer.ids)
            if going:
                features.append(self._advance(going))
            slots = begun + going
            return self._draw(slots, torch.cat(features)) if slots else []

    def _read_prompts(self) -> tuple[list[int], list[Tensor]]:
        """The slots that have now read their prompt, and the features [1 dim] at its end."""
        begun: list[int] = []
        features: list[Tensor] = []
        for _ in range(CHUNKS_PER_STEP if self.running else len(self._prompts)):
            slot = self._next_to_read()
            if slot is None:
                break
            sequence = self._running[slot]
            own = [layer.view([slot]) for layer in self._state]
            chunk = sequence.prompt[sequence.read : sequence.read + CHUNK]
            last = read(self.model, own, chunk)
            self._prompts[slot] += chunk
            sequence.read += len(chunk)
            if sequence.read == len(sequence.prompt):
                begun.append(slot)
                features.append(last)
        return begun, features

    def _next_to_read(self) -> int | None:
        """The slot whose prompt is read next: one that is begun, or a free one with the request that waits longest."""
        for slot, sequence in self._running.items():
            if sequence.read < len(sequence.prompt):
                return slot
        free = [slot for slot in range(len(self._prompts)) if slot not in self._running]
        if not free or not self._waiting:
            return None
        sequence = self._waiting.popleft()
        slot = self._begin(sequence, free)
        self._running[slot] = sequence
        return slot

    def _begin(self, sequence: _Sequence, free: list[int]) -> int:
        """Choose a free slot, and take over the beginning of a prompt that another slot holds: whole chunks only, so
        that these tokens were read in the very pieces in which this sequence would read them.
        """
        shared = [_common_chunks(sequence.prompt, held) for held in self._prompts]
        source = max(range(len(shared)), key=shared.__getitem__)
        slot = source if source in free else min(free, key=shared.__getitem__)
        length = shared[source]
        if not length or not all(layer.fork(source, slot, length) for layer in self._state):
            length = 0
            for layer in self._state:
                layer.view([slot]).truncate([0])
        sequence.read, self._prompts[slot] = length, sequence.prompt[:length]
        if sequence.source:
            read_source(self.model, [layer.view([slot]) for layer in self._state], sequence.source)
        return slot

    def _advance(self, going: list[int]) -> Tensor:
        """Features [going dim] after one more token."""
        if self._together[0] != going:
            self._together = going, [layer.view(going) for layer in self._state]
        last = [[self._running[slot].writer.ids[-1]] for slot in going]
        device = next(self.model.parameters()).device
        return self.model.features(torch.tensor(last, device=device), state=self._together[1])[:, -1]

    def _draw(self, slots: list[int], features: Tensor) -> list[Update]:
        logits = self.model.logits(features)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # Row by row: torch may share a single row out to threads, and then sums it in another order.
        normalizers = torch.cat([row.logsumexp(dim=-1) for row in logits.split(1)])
        sequences = [self._running[slot] for slot in slots]
        sound = normalizers.isfinite().tolist()
        chosen = torch.tensor(self._choose(logits[:, : self.tokenizer.vocab_size], sequences, sound))
        places = chosen.clamp(min=0)[:, None].to(logits.device)
        logprobs = logits.gather(1, places).squeeze(1) - normalizers
        updates = []
        for row, (token, logprob) in enumerate(zip(chosen.tolist(), logprobs.tolist(), strict=True)):
            top = self._top(logits[row] - normalizers[row], sequences[row].request.top_logprobs)
            error = None if token >= 0 else NOTHING_ALLOWED if sound[row] else NOT_A_NUMBER
            updates.append(self._take(slots[row], Token(token, logprob, top), error))
        return updates

    def _choose(self, logits: Tensor, sequences: Sequence[_Sequence], sound: Sequence[bool]) -> list[int]:
        """A token for each sequence; those that choose alike are done together."""
        chosen = [-1] * len(sequences)
        groups: list[tuple[Sampling, list[int]]] = []
        if any(sequence.request.constraint for sequence in sequences):
            logits = logits.clone()
        for row, sequence in enumerate(sequences):
            if not sound[row]:
                continue
            if sequence.request.constraint:
                try:
                    allowed = sequence.request.constraint.allowed().to(logits.device)
                except UserError:  # what it allows cannot be told: nothing
                    continue
                logits[row, ~allowed] = -torch.inf
            same = next((rows for sampling, rows in groups if sampling == sequence.request.sampling), None)
            if same is None:
                groups.append((sequence.request.sampling, [row]))
            else:
                same.append(row)
        for sampling, rows in groups:
            drawn = choose(
                logits[rows] if len(rows) < len(logits) else logits,
                sampling,
                histories=[sequences[row].ids for row in rows],
                starts=[len(sequences[row].prompt) for row in rows],
                generators=[sequences[row].generator for row in rows],
            )
            for row, token in zip(rows, drawn, strict=True):
                chosen[row] = token
        return chosen

    def _top(self, logprobs: Tensor, count: int) -> tuple[tuple[int, float], ...]:
        if not count:
            return ()
        best = logprobs[: self.tokenizer.vocab_size].topk(min(count, self.tokenizer.vocab_size))
        return tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def _take(self, slot: int, token: Token, error: str | None) -> Update:
        """Give a sequence its token; a sequence that has ended leaves its slot."""
        sequence = self._running[slot]
        if error:
            del self._running[slot]
            return Update(number=sequence.number, error=error)
        constraint = sequence.request.constraint
        if constraint:
            constraint.accept(token.id)
        text = sequence.writer.add(token.id, token.logprob, last=bool(constraint and constraint.ended))
        generation = None
        if sequence.writer.finish_reason:
            del self._running[slot]
            generation = sequence.writer.generation()
        return Update(number=sequence.number, token=token, text=text, generation=generation)


def _common_chunks(prompt: Sequence[int], held: Sequence[int]) -> int:
    """Tokens that two prompts share at their beginning, in whole chunks; the last token is always left to read."""
    length = 0
    limit = min(len(prompt) - 1, len(held))
    while length + CHUNK <= limit and prompt[length : length + CHUNK] == held[length : length + CHUNK]:
        length += CHUNK
    return length
