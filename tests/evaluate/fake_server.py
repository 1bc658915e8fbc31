"""An OpenAI-style server around one of our models that commits the fault it is told to."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.language_model import LanguageModel


@dataclass(kw_only=True)
class Service:
    """What is served, and how it deviates."""

    language_model: LanguageModel
    tokenizer: ByteBPE
    bos: bool = False
    before: str = ""  # text around each prompt
    after: str = ""
    temperature: float = 0.0  # whatever was asked
    refuses: tuple[str, ...] = ()  # options answered with 400
    ignores: tuple[str, ...] = ()  # options that do nothing
    counts: bool = True  # reports usage
    tops: bool = True  # reports the likeliest tokens
    shifted: bool = False  # log-probabilities of an echo are those of the place before
    content: bool = False  # log-probabilities in the layout of chat, as llama.cpp gives them
    name: str = "tiny"
    key: str = ""  # asked of everyone
    stop_after: int | None = None
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(3))

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and content of the response to a request for a completion."""
        if body["model"] != self.name:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist"}}
        if refused := next((name for name in self.refuses if name in body), None):
            return 400, {"error": {"message": f"{refused} is not supported"}}
        if "empty" in self.refuses and not body["prompt"]:
            return 400, {"error": {"message": "prompt is empty"}}
        body = {name: value for name, value in body.items() if name not in self.ignores}
        end = self.tokenizer.end_id
        prompt = [end] * self.bos + self.tokenizer.encode(self.before + body["prompt"] + self.after) or [end]
        ids = [*prompt, *self._continuation(prompt, min(body["max_tokens"], self.stop_after or 99))]
        first = 0 if body.get("echo") else len(prompt)
        choice: dict[str, Any] = {"index": 0, "text": self.tokenizer.decode(ids[first:])}
        choice["finish_reason"] = "stop" if ids[-1] == end else "length"
        if "logprobs" in body:
            choice["logprobs"] = self._logprobs(ids, first, body["logprobs"])
        counted = {"prompt_tokens": len(prompt), "completion_tokens": len(ids) - len(prompt)}
        return 200, {"object": "text_completion", "choices": [choice]} | ({"usage": counted} if self.counts else {})

    def _continuation(self, prompt: Sequence[int], length: int) -> list[int]:
        model: Any = self.language_model.model
        state, ids = model.new_state(1), list(prompt)
        for _ in range(length):
            with torch.no_grad():
                unread = ids if len(ids) == len(prompt) else ids[-1:]
                scores = model.logits(model.features(torch.tensor([unread]), state=state)[0, -1])
            ids.append(self._choose(scores.float()))
            if ids[-1] == self.tokenizer.end_id:
                break
        return ids[len(prompt) :]

    def _choose(self, scores: torch.Tensor) -> int:
        if self.temperature == 0:
            return int(scores.argmax())
        return int(torch.multinomial((scores / self.temperature).softmax(-1), 1, generator=self.generator))

    def _logprobs(self, ids: Sequence[int], first: int, number: int) -> dict[str, Any]:
        with torch.no_grad():
            scores = self.language_model.model(torch.tensor([ids]))[0].float().log_softmax(-1)
        texts = [self.tokenizer.decode([id]) for id in ids]
        if self.shifted and first == 0:
            scores = scores.roll(1, dims=0)
        chosen: list[float | None] = [None, *(scores[i, id].item() for i, id in enumerate(ids[1:]))]
        tops: list[dict[str, float]] = [{}]
        values, places = scores[:-1].topk(number)
        tops += [
            {self.tokenizer.decode([id]): value for id, value in zip(row_ids, row_values, strict=True)}
            for row_ids, row_values in zip(places.tolist(), values.tolist(), strict=True)
        ]
        rows = list(zip(texts, chosen, tops, strict=True))[first:]
        if self.content:
            others = [[{"token": text, "logprob": value} for text, value in row[2].items()] for row in rows]
            parts = [{"token": text, "logprob": value} for text, value, _ in rows]
            return {"content": [part | {"top_logprobs": top} for part, top in zip(parts, others, strict=True)]}
        lists = {"tokens": [row[0] for row in rows], "token_logprobs": [row[1] for row in rows]}
        return lists | ({"top_logprobs": [row[2] for row in rows]} if self.tops else {})


@contextmanager
def running(service: Service) -> Iterator[str]:
    """The address of the service while it runs in a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/v1/models"
            self._send(200 if found else 404, {"object": "list", "data": [{"id": service.name}]} if found else {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*service.answer(body))

        def _send(self, status: int, content: dict[str, Any]) -> None:
            if service.key and self.headers["Authorization"] != f"Bearer {service.key}":
                status, content = 401, {"error": {"message": "who are you?"}}
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
