"""The wire format: OpenAI's requests as they may come, checked, and replies as its clients read them."""

import codecs
import secrets
import time
from collections.abc import Mapping, Sequence
from math import inf
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bedplate import __version__
from bedplate.generate.engine import Token
from bedplate.generate.sample import Sampling

FINISH = {"stop": "stop", "end": "stop", "length": "length", "context": "length"}  # ours: OpenAI's
MOST_STOPS, STOP_LENGTH, MOST_BIASES = 16, 1000, 1000
Id = Annotated[int, Field(ge=0, lt=2**31)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Stop = Annotated[str, Field(min_length=1, max_length=STOP_LENGTH)]


class ApiError(Exception):
    """An answer that is an error, in OpenAI's form."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", param: str | None = None,
        code: str | None = None, headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body = {"error": {"message": printable(message), "type": kind, "param": param, "code": code}}


class Strict(BaseModel):
    """Unknown fields and values of other types are refused, so that nothing asked for is silently left undone."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """What a stream tells besides text."""

    include_usage: bool = False
    include_obfuscation: bool = False  # has no effect


class Asked(Strict):
    """What completions and chat have in common. Fields in the last group are accepted and have no effect."""

    model: str = Field(max_length=200)
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    n: Annotated[int, Field(ge=1, le=64)] | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    presence_penalty: Penalty | None = 0.0
    frequency_penalty: Penalty | None = 0.0
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=MOST_BIASES),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    # Not OpenAI's; servers of open models share these names.
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    truncate: bool = False  # drop the beginning of a prompt that is too long; the reply says so
    # Without effect.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def sampling(self) -> Sampling:
        """How tokens are chosen; a bias of -100 forbids, as OpenAI documents it."""
        biases = {int(id): -inf if bias == -100 else bias for id, bias in (self.logit_bias or {}).items()}
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=biases,
        )

    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    def seeds(self) -> list[int]:
        """One for each choice."""
        first = secrets.randbits(62) if self.seed is None else self.seed
        return [first + choice for choice in range(self.n or 1)]


Prompt = str | Annotated[list[str], Field(min_length=1, max_length=64)] | list[Id] | list[list[Id]]


class CompletionRequest(Asked):
    """Body of /v1/completions."""

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = False
    best_of: Literal[1] | None = None
    suffix: None = None


class TextPart(Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        """The whole content."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(Strict):
    """What form the text has."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: dict[str, Any] | None = None


class ChatRequest(Asked):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None


class EmbeddingRequest(Strict):
    """Body of /v1/embeddings."""

    model: str = Field(max_length=200)
    input: Prompt
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


class TokenizeRequest(Strict):
    """Body of /tokenize."""

    model: str = Field(max_length=200)
    text: str


class DetokenizeRequest(Strict):
    """Body of /detokenize."""

    model: str = Field(max_length=200)
    ids: list[Id]


def printable(text: str) -> str:
    """A text that can be sent, with lone surrogates replaced."""
    return text.encode("utf-8", "replace").decode()


def head(kind: str, model: str, *, chat: bool) -> dict[str, Any]:
    """The fields with which every reply begins."""
    name = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
    about = {"id": name, "object": kind, "created": int(time.time()), "model": model}
    return about | {"system_fingerprint": f"bedplate-{__version__}"}


def usage(prompt: int, written: int) -> dict[str, int]:
    """Tokens read and written."""
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


class Offsets:
    """Where the tokens of a text begin in it, in characters; one that goes on with a character begins with it."""

    def __init__(self) -> None:
        self._decoder, self._length = codecs.getincrementaldecoder("utf-8")(errors="replace"), 0

    def next(self, data: bytes) -> int:
        """Where the token of these bytes begins."""
        begin = self._length
        self._length += len(self._decoder.decode(data))
        return begin


def completion_logprobs(tokens: Sequence[Token], tokenizer: Any, offsets: Offsets) -> dict[str, Any]:
    """Log-probabilities as /v1/completions gives them, of a whole text or of the next piece of one."""
    words = [_word(tokenizer, token.id) for token in tokens]
    places = [offsets.next(tokenizer.token_bytes(token.id)) for token in tokens]
    top = [{_word(tokenizer, id): logprob for id, logprob in token.top} for token in tokens]
    values = [token.logprob for token in tokens]
    return {"tokens": words, "token_logprobs": values, "top_logprobs": top, "text_offset": places}


def chat_logprobs(tokens: Sequence[Token], tokenizer: Any) -> dict[str, Any]:
    """Log-probabilities as /v1/chat/completions gives them."""

    def entry(id: int, logprob: float) -> dict[str, Any]:
        return {"token": _word(tokenizer, id), "logprob": logprob, "bytes": list(tokenizer.token_bytes(id))}

    content = [
        entry(token.id, token.logprob) | {"top_logprobs": [entry(*each) for each in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def _word(tokenizer: Any, id: int) -> str:
    return tokenizer.token_bytes(id).decode("utf-8", errors="replace")
