"""Asking an OpenAI-style server: /v1/models and /v1/completions, with whatever of log-probabilities it gives."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bedplate.errors import UserError, nearest

REFUSALS = (400, 422, 500, 501)
TIMEOUT = 120  # seconds
TOP = 5  # likeliest tokens that are asked for at each place
CONTRADICTION = 0.5  # nats between two reports of one log-probability


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A token as the server reports it; log-probability in nats, and those of the likeliest tokens at its place."""

    text: str
    logprob: float | None
    top: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A completion; None stands for what the server does not tell."""

    text: str
    prompt_tokens: int | None
    prompt: list[Heard] | None
    continuation: list[Heard] | None


class Refused(Exception):
    """The server does not complete this prompt."""


class CompletionServer:
    """A server by its address, with or without /v1, and one of its models: the named one, else the first it lists."""

    def __init__(self, url: str, *, model: str | None = None, key: str = "") -> None:
        """`key`: sent to this address alone, to a server that asks for one."""
        self.url = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._key = key
        listed = self._models()
        if model is not None and listed and model not in listed:
            raise UserError(f"{self.url} serves no model {model!r}", fix=nearest(model, listed))
        if model is None and not listed:
            raise UserError(f"{self.url} lists no models", fix="name one with --served NAME")
        self.model = model or listed[0]
        self._gives_logprobs = self._echoes = True  # until it refuses

    def complete(self, prompt: str, *, max_tokens: int) -> Reply:
        """The likeliest continuation. Raises Refused when the server does not answer this prompt, whatever is asked.

        The prompt's own tokens come from a second request, with `echo`; where its log-probabilities contradict those
        of the first (llama-cpp-python gives them for the place before), they are left out.
        """
        body = {"model": self.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        answer = None
        if self._gives_logprobs:
            try:
                answer = self._ask_completion(body | {"logprobs": TOP})
            except Refused:
                self._gives_logprobs = not prompt  # an empty prompt may be what it refuses
        if answer is None:
            return _reply(self._ask_completion(body), prompt, max_tokens, self.url)
        reply = _reply(answer, prompt, max_tokens, self.url)
        if not self._echoes or reply.continuation is None:
            return reply
        try:
            echo = self._ask_completion(body | {"logprobs": TOP, "echo": True})
        except Refused:
            self._echoes = not prompt
            return reply
        return _with_prompt(reply, _reply(echo, prompt, max_tokens, self.url))

    def _ask_completion(self, body: Mapping[str, Any]) -> Any:
        try:
            return self._ask("completions", body)
        except urllib.error.HTTPError as error:
            problem = f"{error.code} {_message(error)}"
            if error.code in REFUSALS:
                raise Refused(problem) from error
            fix = "check the address, the name of the model (--served) and the rights to use it"
            raise UserError(f"{self.url}/completions answers {problem}", fix=fix) from error

    def _models(self) -> list[str]:
        try:
            answer = self._ask("models")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            fix = "check the address and the rights to use it"
            raise UserError(f"{self.url}/models answers {error.code} ({_message(error)})", fix=fix) from error
        try:
            return [row["id"] for row in answer["data"]]
        except (KeyError, TypeError) as error:
            raise _foreign(self.url) from error

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(f"{self.url}/{path}", data, {"Content-Type": "application/json"})
            if self._key:
                request.add_unredirected_header("Authorization", f"Bearer {self._key}")
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError:
            raise
        except (json.JSONDecodeError, UnicodeDecodeError, http.client.HTTPException) as error:
            raise _foreign(self.url) from error
        except (OSError, ValueError) as error:  # ValueError: an address that is none
            cause = f"no server answers at {self.url} ({getattr(error, 'reason', error)})"
            raise UserError(cause, fix="check the address, or start it") from error


def _reply(answer: Any, prompt: str, max_tokens: int, url: str) -> Reply:
    try:
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text, tokens = choice["text"], _heard(choice.get("logprobs"))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise _foreign(url) from error
    echoed = bool(prompt) and text.startswith(prompt)
    split = 0
    if tokens is not None:
        cut_off = choice.get("finish_reason") == "length"
        count = usage.get("completion_tokens", max_tokens if cut_off else None)
        known = text[: text.find(prompt) + len(prompt)] if prompt in text else ""
        split = _length_of(known, tokens) if count is None else max(len(tokens) - count, 0)
        if split:  # llama-cpp-python leaves out the last token of an answer after an echo, but counts it
            split = usage.get("prompt_tokens", split)
    return Reply(
        text=text[len(prompt) :] if echoed else text,
        prompt_tokens=usage.get("prompt_tokens"),
        prompt=tokens[:split] if tokens and split else None,
        continuation=None if tokens is None else tokens[split:],
    )


def _with_prompt(reply: Reply, echo: Reply) -> Reply:
    """The reply with the prompt that an echo tells."""
    if echo.prompt is None:
        return reply
    differences = [0.0]
    for first, second in zip(reply.continuation or [], echo.continuation or [], strict=False):
        if first.text != second.text:
            break
        if first.logprob is not None and second.logprob is not None:
            differences.append(abs(first.logprob - second.logprob))
    if max(differences) <= CONTRADICTION:
        return replace(reply, prompt=echo.prompt)
    return replace(reply, prompt=[replace(heard, logprob=None, top={}) for heard in echo.prompt])


def _length_of(text: str, tokens: Sequence[Heard]) -> int:
    """How many tokens spell the text."""
    lengths = (len("".join(token.text for token in tokens[:place])) for place in range(len(tokens)))
    return next((place for place, length in enumerate(lengths) if length >= len(text)), len(tokens))


def _heard(logprobs: Any) -> list[Heard] | None:
    """From OpenAI's lists for completions, or from the `content` rows of its chat, which llama.cpp gives."""
    if not logprobs:
        return None
    if "content" in logprobs:
        rows = logprobs["content"]
        tops = [{other["token"]: other["logprob"] for other in row.get("top_logprobs") or []} for row in rows]
        return [Heard(text=row["token"], logprob=row["logprob"], top=top) for row, top in zip(rows, tops, strict=True)]
    texts: Sequence[str] = logprobs["tokens"]
    tops = logprobs.get("top_logprobs") or [None] * len(texts)
    rows = zip(texts, logprobs["token_logprobs"], tops, strict=True)
    return [Heard(text=text, logprob=logprob, top=top or {}) for text, logprob, top in rows]


def _message(error: urllib.error.HTTPError) -> str:
    """What an error response says, in one line."""
    try:
        content = json.loads(error.read())
        detail = content.get("error", content.get("message", content))
        detail = detail.get("message", detail) if isinstance(detail, dict) else detail
        return " ".join(str(detail).split())[:200] or str(error.reason)
    except (ValueError, OSError, AttributeError):
        return str(error.reason)


def _foreign(url: str) -> UserError:
    return UserError(f"{url} does not answer like an OpenAI-style server", fix="check the address")
