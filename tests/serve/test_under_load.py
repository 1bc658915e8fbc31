"""What must not bring a server down, or change what anybody else gets."""

import json
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

import load_server
from bedplate.cli import main
from load_cases import BODY, POISON

GOOD = {"model": MODEL, "prompt": "def read(", "max_tokens": 8, "seed": 3}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running("--slots", 4, "--queue", 64, "--max-body", BODY) as (address, _):
        yield address


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


def test_many_clients_each_get_what_they_would_get_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A small load of the tool: good requests, streams, clients that leave, bad and slow ones."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.argv", ["load_server.py", "--requests", "120", "--clients", "20", "--cases", "30"])
        assert load_server.main() == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    found = json.loads(printed[: printed.rindex("}") + 1])
    assert sum(found["answers"].values()) >= 120 and len(found["answers"]) >= 5


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
        body = GOOD | {"max_tokens": 240, "n": 12}  # enough to be still running when the next one comes
        thread = threading.Thread(target=lambda: replies.append(post(address, "/v1/completions", **body)))
        thread.start()
        wait_for(lambda: gauge(address, "bedplate_requests_running") == 2)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        late = post(address, "/v1/completions", **GOOD)
        assert late.status_code == 503 and late.headers["Retry-After"]
        assert httpx.get(address + "/ready").status_code == 503
        thread.join()
        assert replies[0].status_code == 200
        finished = [choice["finish_reason"] for choice in replies[0].json()["choices"]]
        assert len(finished) == 12 and set(finished) <= {"length", "stop"}
        assert replies[0].json()["usage"]["completion_tokens"] > 2000
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
