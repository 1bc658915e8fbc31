"""What must not bring a server down, or change what anybody else gets."""

import json
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlparse

import httpx2 as httpx
import pytest
from tests.serve.running import MODEL, gauge, post, running

import bedplate
from bedplate.cli import main

GOOD = {"model": MODEL, "prompt": "def read(", "max_tokens": 8, "seed": 3}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running("--slots", 4, "--queue", 64, "--max-body", 300_000) as (address, _):
        yield address


DEEP = b'{"model": "gpt2-tiny", "prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
POISON = {
    "not JSON": b"{",
    "no body": b"",
    "not an object": b"[1]",
    "deep nesting": DEEP,
    "NaN bias": b'{"model": "gpt2-tiny", "prompt": "a", "logit_bias": {"5": NaN}}',
    "infinite bias": b'{"model": "gpt2-tiny", "prompt": "a", "logit_bias": {"5": 1e999}}',
    "biases by name": b'{"model": "gpt2-tiny", "prompt": "a", "logit_bias": {"x": 1}}',
    "lone surrogate": b'{"model": "gpt2-tiny", "prompt": "\\ud800"}',
    "surrogate as name": b'{"model": "\\udfff", "prompt": "a"}',
    "surrogate as field": b'{"model": "gpt2-tiny", "prompt": "a", "\\udfff": 1}',
    "a path as name": b'{"model": "../../etc/passwd", "prompt": "a"}',
    "an endless number": b'{"model": "gpt2-tiny", "prompt": "a", "seed": ' + b"9" * 10_000 + b"}",
    "a large seed": b'{"model": "gpt2-tiny", "prompt": "a", "seed": 99999999999999999999}',
    "a negative id": b'{"model": "gpt2-tiny", "prompt": [-1]}',
    "an unknown id": b'{"model": "gpt2-tiny", "prompt": [99999]}',
    "many stops": b'{"model": "gpt2-tiny", "prompt": "a", "stop": [' + b'"x",' * 50_000 + b'"x"]}',
    "an empty stop": b'{"model": "gpt2-tiny", "prompt": "a", "stop": ""}',
    "text as number": b'{"model": "gpt2-tiny", "prompt": "a", "max_tokens": "5"}',
    "no tokens": b'{"model": "gpt2-tiny", "prompt": "a", "max_tokens": 0}',
    "many choices": b'{"model": "gpt2-tiny", "prompt": "a", "n": 100000}',
    "a bad schema": b'{"model": "gpt2-tiny", "messages": [], "response_format": {"type": "json_schema"}}',
    "invalid UTF-8": b'{"model": "gpt2-tiny", "prompt": "\xff"}',
    "too large": b" " * 300_001,
}


@pytest.mark.parametrize("name", POISON)
def test_poison_is_refused_and_disturbs_nobody(address: str, name: str) -> None:
    path = "/v1/chat/completions" if "schema" in name else "/v1/completions"
    reply = httpx.post(address + path, content=POISON[name], headers={"Content-Type": "application/json"})
    assert 400 <= reply.status_code < 500, reply.text
    assert reply.json()["error"]["message"] and "Traceback" not in reply.text
    assert post(address, "/v1/completions", **GOOD).status_code == 200


def test_a_chunked_body_is_measured_too(address: str) -> None:
    reply = httpx.post(address + "/v1/completions", content=(b" " * 10_000 for _ in range(40)))
    assert reply.status_code == 413


def test_many_clients_each_get_what_they_would_get_alone(address: str) -> None:
    """200 requests of 20 clients, some of which leave early or send nonsense."""
    library, prompts = (
        bedplate.load(MODEL),
        ["The open function", "class Reader:", "Raises ValueError if", "a" * 150, "#"],
    )
    whole = {(p, s): library.generate(p, max_new_tokens=24, seed=s) for p in prompts for s in range(4)}

    def expected(prompt: str, count: int, seed: int) -> str:
        alone = whole[prompt, seed]
        return alone.text if count >= len(alone.ids) else library.tokenizer.decode(alone.ids[:count])

    def one(number: int) -> str:
        dice = random.Random(number)
        kind = dice.choices(["good", "stream", "leave", "bad"], [5, 3, 1, 1])[0]
        key = dice.choice(prompts), dice.randint(1, 24), dice.randint(0, 3)
        body = {"model": MODEL, "prompt": key[0], "max_tokens": key[1], "seed": key[2]}
        if kind == "bad":
            return "" if post(address, "/v1/completions", **body, bad=1).status_code == 400 else "bad"
        if kind == "good":
            reply = post(address, "/v1/completions", **body)
            return (
                "" if reply.status_code == 200 and reply.json()["choices"][0]["text"] == expected(*key) else reply.text
            )
        with httpx.stream("POST", address + "/v1/completions", json=body | {"stream": True}, timeout=60) as reply:
            lines = []
            for line in reply.iter_lines():
                lines.append(line)
                if kind == "leave":
                    return ""
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        ends = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        right = text == expected(*key) and lines[-2] == "data: [DONE]" and sum(end is not None for end in ends) == 1
        return "" if right else "\n".join(lines)

    with ThreadPoolExecutor(20) as pool:
        assert [wrong for wrong in pool.map(one, range(200)) if wrong] == []
    wait_until_idle(address)


def wait_until_idle(address: str) -> None:
    names = "bedplate_requests_open", "bedplate_requests_running"
    wait_for(lambda: sum(gauge(address, name) for name in names) == 0)


def wait_for(condition: Callable[[], bool]) -> None:
    """For at most ten seconds."""
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(address: str, stream: bool) -> None:
    url = urlparse(address)
    body = b'{"model": "gpt2-tiny", "prompt": "a", "max_tokens": 250, "n": 4, "stream": %s}' % (
        b"true" if stream else b"false"
    )
    lines = ["POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    before = gauge(address, "bedplate_tokens_total")
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall(head.encode() + body)
        wait_for(lambda: gauge(address, "bedplate_requests_running") == 4)
    wait_until_idle(address)
    assert gauge(address, "bedplate_tokens_total") - before < 4 * 250


def test_a_full_queue_says_when_to_come_again() -> None:
    with running("--slots", 1, "--queue", 1) as (address, _), ThreadPoolExecutor(12) as pool:
        body = {"model": MODEL, "prompt": "a", "max_tokens": 200}
        replies = list(pool.map(lambda _: post(address, "/v1/completions", **body), range(12)))
        codes = [reply.status_code for reply in replies]
        assert set(codes) == {200, 429} and codes.count(429) >= 5
        refused = next(reply for reply in replies if reply.status_code == 429)
        assert refused.headers["Retry-After"] == "1" and refused.json()["error"]["code"] == "queue_full"


def test_keys_and_time_limits(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\nfirst-key\nsecond-key\n")
    with running("--api-keys", tmp_path / "keys", "--timeout", 0.2) as (address, process):
        for header in ({}, {"Authorization": "Bearer nothing"}, {"Authorization": "second-key"}):
            reply = httpx.post(address + "/v1/completions", json=GOOD, headers=header)
            assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(address + "/health").status_code == 200
        with httpx.Client(headers={"Authorization": "Bearer second-key"}) as client:
            assert client.post(address + "/v1/completions", json=GOOD).status_code == 200
            late = client.post(address + "/v1/completions", json=GOOD | {"max_tokens": 250, "n": 8, "prompt": "a"})
            assert late.status_code == 408 and late.json()["error"]["type"] == "timeout_error"
            assert client.post(address + "/v1/completions", json=GOOD).status_code == 200
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
        assert "first-key" not in said and "second-key" not in said


def test_a_stopping_server_finishes_what_runs_and_takes_nothing_new() -> None:
    with running("--slots", 2) as (address, process):
        replies: list[httpx.Response] = []
        body = GOOD | {"max_tokens": 240, "n": 2}
        thread = threading.Thread(target=lambda: replies.append(post(address, "/v1/completions", **body)))
        thread.start()
        wait_for(lambda: gauge(address, "bedplate_requests_running") == 2)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        late = post(address, "/v1/completions", **GOOD)
        assert late.status_code == 503 and late.headers["Retry-After"]
        assert httpx.get(address + "/ready").status_code == 503
        thread.join()
        assert replies[0].status_code == 200 and replies[0].json()["usage"]["completion_tokens"] == 480
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["no-such-model"], "no-such-model"),
        ([MODEL, MODEL], "two models"),
        ([MODEL, "--api-keys", "/nowhere"], "cannot be read"),
        ([MODEL, "--host", "256.1.1.1"], "cannot listen"),
        ([MODEL, "--port", "99999"], "cannot listen"),
    ],
)
def test_a_server_that_cannot_start_says_why(words: list[str], cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", *words]) == 2
    assert cause in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", MODEL, "--port", str(urlparse(address).port)]) == 2
    assert "cannot listen" in capsys.readouterr().err
