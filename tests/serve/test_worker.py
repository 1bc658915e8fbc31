"""The thread that owns an engine outlives what goes wrong in it."""

import asyncio
from typing import Any

import pytest
from tests.generate.tiny import random_model, tokenizer

from bedplate.generate import Engine, Request
from bedplate.generate.chat import ChatTemplate
from bedplate.language_model import LanguageModel
from bedplate.serve.worker import Busy, Worker


@pytest.fixture
def worker() -> Any:
    worker = Worker(LanguageModel(random_model(), tokenizer()), slots=2, queue_length=2)
    yield worker
    worker.close()


async def last(worker: Worker, request: Request) -> Any:
    (ticket,) = worker.submit([request])
    while True:
        update = await asyncio.wait_for(ticket.updates.get(), 20)
        if update.generation or update.error:
            return update


def test_an_engine_that_fails_begins_anew(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(prompt=[1, 2], max_new_tokens=3)

    def fails(self: Engine) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", fails)
        assert "MemoryError" in asyncio.run(last(worker, request)).error
    assert len(asyncio.run(last(worker, request)).generation.ids) == 3 and worker.open == 0


def test_a_request_that_the_engine_refuses_is_told(worker: Worker) -> None:
    assert "id 9999" in asyncio.run(last(worker, Request(prompt=[9999]))).error
    assert worker.open == 0


def test_more_than_fits_is_refused_whole(worker: Worker) -> None:
    async def fill() -> None:
        requests = [Request(prompt=[1], max_new_tokens=2)] * 5
        with pytest.raises(Busy):
            worker.submit(requests)
        assert worker.open == 0
        tickets = worker.submit(requests[:4])
        for ticket in tickets:
            worker.drop(ticket)
            worker.drop(ticket)
        assert worker.open == 0

    asyncio.run(fill())


def test_templates_are_rendered_in_a_sandbox() -> None:
    template = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>")
    assert template.render([{"role": "user", "content": "hi"}]) == "<user>hi<assistant>"
    from bedplate.errors import UserError

    escape = ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(UserError, match="refuses"):
        escape.render([])
    strict = ChatTemplate("{{ raise_exception('turns must alternate') }}")
    with pytest.raises(UserError, match="turns must alternate"):
        strict.render([])
    with pytest.raises(UserError, match="broken"):
        ChatTemplate("{% for %}")
