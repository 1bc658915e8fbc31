"""`bedplate serve`: the HTTP application. One worker thread for each model, everything else in one event loop."""

import asyncio
import base64
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from bedplate import __version__
from bedplate.data.tokenize.tokenizer import end_mark
from bedplate.errors import UserError
from bedplate.generate.chat import ChatTemplate
from bedplate.generate.prompt import evaluating, fit
from bedplate.serve.guard import Guard
from bedplate.serve.reply import answer
from bedplate.serve.texts import Limits, user_error
from bedplate.serve.wire import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
    printable,
    usage,
)
from bedplate.serve.worker import Busy, Worker

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": what}
    for status, what in {
        400: "Something in the request is wrong; the message names it", 401: "No valid API key",
        404: "There is no such model", 408: "The request took too long", 413: "The body is too large",
        422: "No token can be chosen", 429: "The queue is full", 503: "The server is stopping",
    }.items()
}  # fmt: skip

STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


@dataclass
class Served:
    """A model on offer."""

    worker: Worker
    template: ChatTemplate
    since: int = field(default_factory=lambda: int(time.time()))


class Service:
    """The application and its state."""

    def __init__(
        self, models: Mapping[str, Served], *, limits: Limits | None = None, keys: Sequence[str] = (),
        largest_body: int = 2**20,
    ) -> None:  # fmt: skip
        self.models, self.limits = dict(models), limits or Limits()
        self.draining = False
        self.app = FastAPI(title="bedplate", version=__version__, description="Completions in OpenAI's wire format.")
        self._text_routes(self.app)
        self._about_routes(self.app)
        self.app.add_exception_handler(ApiError, _api_error)
        self.app.add_exception_handler(UserError, _user_error)
        self.app.add_exception_handler(RequestValidationError, _invalid)
        self.app.add_exception_handler(HTTPException, _http_error)
        self.guard = Guard(self.app, keys=keys, largest_body=largest_body)

    @property
    def open(self) -> int:
        """Requests that run or wait, over all models."""
        return sum(served.worker.open for served in self.models.values())

    def close(self) -> None:
        """End the threads."""
        for served in self.models.values():
            served.worker.close()

    def find(self, name: str) -> Served:
        """The model that a request asks for."""
        if self.draining:
            cause = "this server is stopping: ask another one"
            raise ApiError(503, cause, kind="server_error", code="stopping", headers={"Retry-After": "5"})
        if name not in self.models:
            cause = f"there is no model {name!r}: choose from {', '.join(self.models)}"
            raise ApiError(404, cause, param="model", code="model_not_found")
        return self.models[name]

    def _text_routes(self, app: FastAPI) -> None:
        @app.post("/v1/completions", responses=ERRORS | STREAM)
        async def completions(asked: CompletionRequest, http: HttpRequest) -> Response:
            """Continue a prompt or several."""
            served = self.find(asked.model)
            return await answer(asked, served.worker, served.template, self.limits, http)

        @app.post("/v1/chat/completions", responses=ERRORS | STREAM)
        async def chat(asked: ChatRequest, http: HttpRequest) -> Response:
            """Continue a chat, by the template that is stored with the model."""
            served = self.find(asked.model)
            return await answer(asked, served.worker, served.template, self.limits, http)

        @app.post("/v1/embeddings", responses=ERRORS)
        async def embeddings(asked: EmbeddingRequest) -> dict[str, Any]:
            """The mean over all tokens of the features before the output layer, for each input."""
            return await self._embed(asked)

    def _about_routes(self, app: FastAPI) -> None:
        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            """What is served."""
            return {"object": "list", "data": [_about(name, served) for name, served in self.models.items()]}

        @app.get("/v1/models/{model}", responses={404: ERRORS[404]})
        async def model(model: str) -> dict[str, Any]:
            """One model."""
            return _about(model, self.find(model))

        @app.post("/tokenize", responses=ERRORS)
        async def tokenize(asked: TokenizeRequest) -> dict[str, Any]:
            """The ids of a text."""
            tokenizer = self.find(asked.model).worker.language_model.tokenizer
            ids = await asyncio.to_thread(tokenizer.encode, asked.text)
            return {"ids": ids, "count": len(ids)}

        @app.post("/detokenize", responses=ERRORS)
        async def detokenize(asked: DetokenizeRequest) -> dict[str, Any]:
            """The text of ids."""
            return {"text": self.find(asked.model).worker.language_model.tokenizer.decode(asked.ids)}

        @app.get("/health")
        async def health() -> dict[str, str]:
            """Whether the process lives."""
            return {"status": "ok"}

        @app.get("/ready", responses={503: ERRORS[503]})
        async def ready() -> Response:
            """Whether requests are taken."""
            return JSONResponse({"ready": not self.draining}, status_code=503 if self.draining else 200)

        @app.get("/metrics", response_class=PlainTextResponse)
        async def metrics() -> str:
            """Counters for Prometheus."""
            return self._metrics()

    async def _embed(self, asked: EmbeddingRequest) -> dict[str, Any]:
        worker = self.find(asked.model).worker
        model, tokenizer = worker.language_model.model, worker.language_model.tokenizer
        several = [asked.input] if isinstance(asked.input, str) else asked.input
        inputs: list[Any] = [several] if several and isinstance(several[0], int) else list(several)
        if not inputs or len(inputs) > 64:
            raise ApiError(400, f"there are {len(inputs)} inputs: give 1 to 64", param="input")
        ids = [tokenizer.encode(each) or [end_mark(tokenizer)] if isinstance(each, str) else each for each in inputs]
        ids = [fit(model, each, keep=0, truncate=False) for each in ids]
        try:
            vectors = await worker.call(lambda: [_mean_features(model, each) for each in ids])
        except Busy:
            raise ApiError(429, "the queue of this server is full: try again soon", kind="rate_limit_error",
                           code="queue_full", headers={"Retry-After": "1"}) from None  # fmt: skip
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, asked.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        count = usage(sum(map(len, ids)), 0)
        del count["completion_tokens"]
        return {"object": "list", "data": data, "model": asked.model, "usage": count, "truncated": False}

    def _metrics(self) -> str:
        lines = ["# TYPE bedplate_replies_total counter"]
        for (path, status), count in sorted(self.guard.replies.items()):
            lines.append(f'bedplate_replies_total{{path="{path}",status="{status}"}} {count}')
        for name, kind, of in (
            ("bedplate_tokens_total", "counter", lambda worker: worker.tokens),
            ("bedplate_requests_running", "gauge", lambda worker: worker.running),
            ("bedplate_requests_open", "gauge", lambda worker: worker.open),
        ):
            lines.append(f"# TYPE {name} {kind}")
            lines += [f"{name}{{model={json.dumps(key)}}} {of(each.worker)}" for key, each in self.models.items()]
        return "\n".join(lines) + "\n"


@torch.inference_mode()
def _mean_features(model: Any, ids: Sequence[int]) -> np.ndarray:
    with evaluating(model):
        features = model.features(torch.tensor([ids], device=next(model.parameters()).device))
    return features[0].float().mean(dim=0).cpu().numpy()


def _encoded(vector: np.ndarray, form: str) -> list[float] | str:
    return vector.tolist() if form == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _about(name: str, served: Served) -> dict[str, Any]:
    config = served.worker.language_model.config
    about = {"id": name, "object": "model", "created": served.since, "owned_by": "bedplate"}
    return about | {"context_length": config.context_length, "completion_only": served.template.plain}


def _reply(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


async def _api_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _reply(error)


async def _user_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return _reply(user_error(error))


async def _invalid(http: HttpRequest, error: Exception) -> Response:
    """The first thing that is wrong with a body, named."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "extra_forbidden":
        message = f"the field {where} is unknown or not supported: leave it out"
    else:
        message = f"{where or 'the body'}: {first['msg']}"
    return _reply(ApiError(400, printable(message)[:500], param=printable(where)[:100] or None))


async def _http_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    return _reply(ApiError(status, f"{error.detail}", headers=error.headers))
