"""A chat with one model: what was said so far, and an engine that remembers what it has read of it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bedplate.data.tokenize.tokenizer import end_mark
from bedplate.errors import UserError
from bedplate.generate.chat import ChatTemplate
from bedplate.generate.complete import FIXES
from bedplate.generate.engine import Engine, Request
from bedplate.generate.sample import Sampling


@dataclass
class Conversation:
    """Turns of a user and a model. A model without a chat template goes on with one growing text instead."""

    language_model: Any
    template: ChatTemplate
    max_new_tokens: int = 100
    sampling: Sampling = field(default_factory=Sampling)
    stop: Sequence[str] = ()
    seed: int = 0
    system: str = ""  # said before everything else
    turns: list[dict[str, str]] = field(default_factory=list)  # with `role` and `content`
    dropped: int = 0  # oldest turns that the last reply was made without, for they no longer fit
    tokens: int = 0  # of the last reply
    seconds: float = 0.0  # from its first token to its last

    def __post_init__(self) -> None:
        self._engine = Engine(self.language_model.model, self.language_model.tokenizer, slots=1)

    @property
    def messages(self) -> list[dict[str, str]]:
        """Everything said, the system's words first."""
        return [*self._opening(), *self.turns]

    def reset(self) -> None:
        """Forget the turns, not the system's words."""
        self.turns.clear()
        self.dropped = 0

    def reply(self, text: str) -> Iterator[str]:
        """Say `text` and give the answer piece by piece; who stops listening keeps what was said until then.

        Raises UserError when `text` alone is too long for the model, and is then as if it had not been said.
        """
        self.turns.append({"role": "user", "content": text})
        try:
            number = self._engine.submit(self._request())
        except UserError:
            self.turns.pop()
            raise
        answer = {"role": "assistant", "content": ""}
        self.turns.append(answer)
        self.seed += 1
        self.tokens, self.seconds, first = 0, 0.0, 0.0
        try:
            while self._engine.busy:
                for update in self._engine.step():
                    if update.number != number:  # of an answer that nobody listens to any more
                        continue
                    if update.error:
                        del self.turns[-2:]
                        raise UserError(update.error, fix=FIXES[update.error])
                    self.tokens += 1
                    first = first or time.perf_counter()
                    self.seconds = time.perf_counter() - first
                    answer["content"] += update.text
                    yield update.text
        finally:
            self._engine.cancel(number)

    def rate(self) -> float:
        """Tokens per second of the last reply, the reading of the prompt left out."""
        return (self.tokens - 1) / self.seconds if self.seconds else 0.0

    def _request(self) -> Request:
        """The latest turns that leave room for an answer."""
        context = self.language_model.config.context_length
        room = min(self.max_new_tokens, context // 2)
        self.dropped = 0
        ids = self._ids(self.turns)
        while len(ids) + room > context and self.dropped + 1 < len(self.turns):
            self.dropped += 2  # a question goes with its answer
            ids = self._ids(self.turns[self.dropped :])
        return Request(
            prompt=ids, max_new_tokens=self.max_new_tokens, sampling=self.sampling, seed=self.seed, stop=self.stop
        )

    def _opening(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def _ids(self, turns: Sequence[dict[str, str]]) -> list[int]:
        tokenizer = self.language_model.tokenizer
        if self.template.plain:
            text = _running_text(self.system, turns)
        else:
            text = self.template.render([*self._opening(), *turns])
        return tokenizer.encode(text) or [end_mark(tokenizer)]


def _running_text(system: str, turns: Sequence[dict[str, str]]) -> str:
    """What was typed and what was written, each thing typed on a line of its own."""
    lines = [system] if system else []
    for turn in turns:
        if turn["role"] == "user":
            lines.append(turn["content"])
        else:
            lines[-1] += turn["content"]
    return "\n".join(lines)
