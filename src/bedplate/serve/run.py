"""Starting and stopping: models are opened, the port is taken, and on SIGTERM what runs may finish."""

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import uvicorn

from bedplate.errors import UserError
from bedplate.generate.chat import ChatTemplate
from bedplate.language_model import load
from bedplate.serve.app import Served, Service
from bedplate.serve.worker import Worker


class Server(uvicorn.Server):
    """uvicorn, but the first signal only stops new work: the listening ends when the last request has, or is late."""

    def __init__(self, config: uvicorn.Config, service: Service, *, drain_seconds: float) -> None:
        super().__init__(config)
        self._service, self._drain_seconds = service, drain_seconds

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A second signal does not wait."""
        if self._service.draining:
            super().handle_exit(sig, frame)
        self._service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """uvicorn asks ten times a second whether to go on."""
        if self._service.draining:
            self._drain_seconds -= 0.1
            if self._service.open == 0 or self._drain_seconds < 0:
                return True
        return await super().on_tick(counter)


def open_models(
    targets: Sequence[str], *, slots: int, queue_length: int, dtype: torch.dtype, weights: str | None = None
) -> dict[str, Served]:
    """Each target under its base name; quantized to `weights`, with what that cost printed."""
    models: dict[str, Served] = {}
    for target in targets:
        name = Path(target).name or target
        if name in models:
            raise UserError(f"two models are called {name!r}", fix="rename one of the folders")
        language_model = load(target, dtype=dtype)
        if weights:
            print(f"{name}: {language_model.quantize(weights)}")
        worker = Worker(language_model, slots=slots, queue_length=queue_length)
        models[name] = Served(worker, ChatTemplate(language_model.chat_template))
    return models


def read_keys(path: Path) -> list[str]:
    """API keys, one a line; empty lines and lines that begin with # do not count."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"{path} cannot be read ({reason})", fix="give a text file with one key a line") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise UserError(f"{path} holds no key", fix="write one key a line, or leave --api-keys out")
    return keys


def take_port(host: str, port: int) -> socket.socket:
    """The socket to listen on; port 0 is any free one."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # from now on clients wait instead of being refused, also while the server starts
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host}:{port} ({reason})", fix="choose another --port or --host") from error
    return listener


def serve(service: Service, listener: socket.socket, *, drain_seconds: float) -> None:
    """Answer until a signal ends it."""
    config = uvicorn.Config(
        service.guard,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        timeout_keep_alive=75,  # short ones end under the next request of a client that keeps its connection
        h11_max_incomplete_event_size=2**16,
    )
    try:
        asyncio.run(Server(config, service, drain_seconds=drain_seconds).serve(sockets=[listener]))
    finally:
        service.close()
