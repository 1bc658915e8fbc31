"""Text that arrives token by token: whole characters only, and never past a stop string."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


class TextStream:
    """Turns the bytes of tokens into text that is safe to show: what is released is never taken back."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False

    def push(self, data: bytes, *, final: bool = False) -> str:
        """The text that these bytes make certain; with `final` all of it. After a stop string nothing follows."""
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(data, final)
        ends = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        keep = 0 if final else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)


def added_bytes(tokenizer: Any, token: int, *, opens: bool) -> bytes:
    """The bytes that a token adds to a text; where it opens one, without a space put before words."""
    data = tokenizer.token_bytes(token)
    if opens and data.startswith(b" ") and not tokenizer.decode([token]).startswith(" "):
        return data[1:]
    return data


@dataclass(frozen=True)
class IdsOnly:
    """Stands in for a tokenizer where ids matter and text does not: a benchmark, a model that has no tokenizer."""

    vocab_size: int
    end_id: int = -1

    def token_bytes(self, token: int) -> bytes:
        """Nothing."""
        return b""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a model wrote after a prompt."""

    text: str  # without the prompt and without the stop string
    ids: list[int]  # all tokens drawn, the one that completed a stop string or ended the text included
    logprobs: list[float]  # of each id, in nats, under the model's own distribution (before temperature and filters)
    finish_reason: str  # "stop": a stop string; "end": end of text; "length": max_new_tokens; "context": no room left


@dataclass
class Writer:
    """Collects the tokens of one sequence and knows when it ends."""

    tokenizer: Any
    stream: TextStream
    max_new_tokens: int
    room: int  # tokens that the context still holds
    opens: bool = False  # the text is not the continuation of a prompt
    parts: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = ""

    def add(self, token: int, logprob: float, *, last: bool = False) -> str:
        """Take a token (with `last` the text ends with it) and give the text that it makes certain."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        ended = last or token == self.tokenizer.end_id
        opens = self.opens and len(self.ids) == 1
        data = b"" if token == self.tokenizer.end_id else added_bytes(self.tokenizer, token, opens=opens)
        long = len(self.ids) >= self.max_new_tokens
        full = len(self.ids) >= self.room
        text = self.stream.push(data, final=ended or long or full)
        self.parts.append(text)
        if self.stream.stopped:
            self.finish_reason = "stop"
        elif ended or long or full:
            self.finish_reason = "end" if ended else "length" if long else "context"
        return text

    def generation(self) -> Generation:
        """The finished result."""
        return Generation(
            text="".join(self.parts), ids=self.ids, logprobs=self.logprobs, finish_reason=self.finish_reason
        )
