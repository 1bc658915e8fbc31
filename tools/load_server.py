"""A load on a real server: many clients, requests mixed with aborts and bad input, every answer compared.

python tools/load_server.py                                  5,000 requests of 200 clients
python tools/load_server.py --minutes 10 --clients 200       the same for ten minutes
python tools/load_server.py --requests 60 --clients 10 --json FILE

Each accepted request must be answered once and as when it is alone, bad input with 4xx, nothing with 5xx; at the end
no request is left in the server and its memory is what it was. Exit code 1 says that something was otherwise.
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

from bedplate.bench.measure import conditions
from bedplate.files import write_json
from load_cases import BODY, MODEL, POISON, Case, make_cases

KINDS = {"whole": 60, "stream": 22, "leave": 8, "bad": 8, "slow": 2}  # of requests, in percent


@dataclass
class Tally:
    """What came back."""

    statuses: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)  # seconds, of whole answers
    tokens: int = 0
    sent: int = 0
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)  # seconds since the start, MB of the server


@contextmanager
def running() -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its address and process id."""
    command = [
        sys.executable,
        "-m",
        "bedplate",
        "serve",
        MODEL,
        "--port",
        "0",
        "--queue",
        "64",
        "--max-body",
        str(BODY),
    ]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout
            address = re.search(r"at (http://\S+)", process.stdout.readline())
            assert address, "the server did not start"
            yield address[1], process.pid
            process.terminate()
            assert process.wait(timeout=60) == 0, "the server did not end well"
        finally:
            process.kill()
            process.communicate()
        errors.seek(0)
        said = errors.read()
        assert not said, f"the server complained: {said[-2000:]}"


async def load(
    address: str, pid: int, cases: list[Case], *, requests: int, clients: int, minutes: float, seed: int
) -> Tally:
    """Send the requests, or for some minutes whatever number the clients get through."""
    tally, started = Tally(), time.monotonic()

    def more() -> bool:
        tally.sent += 1
        return time.monotonic() - started < 60 * minutes if minutes else tally.sent <= requests

    async def client() -> None:
        while more():
            dice = random.Random(f"{seed} {tally.sent}")
            kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
            try:
                await SEND[kind](connections, dice, cases, tally)
            except (httpx.HTTPError, AssertionError, ValueError, KeyError, IndexError) as error:
                tally.wrong.append(f"{kind}: {type(error).__name__} {error}"[:500])

    async def watch() -> None:
        while True:
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            tally.memory.append((time.monotonic() - started, int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024))
            await asyncio.sleep(0.5)

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as connections:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(client() for _ in range(clients)))
        for _ in range(100):  # those that left are noticed at the next step
            metrics = (await connections.get("/metrics")).text
            assert "bedplate_requests_open{" in metrics, metrics
            left = sum(float(number) for number in re.findall(r"bedplate_requests_\w+\{.*\} (\S+)", metrics))
            if not left:
                break
            await asyncio.sleep(0.1)
        watching.cancel()
    if left:
        tally.wrong.append(f"{left:g} requests are left in the server")
    if failures := re.findall(r'bedplate_replies_total\{.*status="5\d\d"\} \S+', metrics):
        tally.wrong += failures
    return tally


async def send_whole(connections: Any, dice: random.Random, cases: list[Case], tally: Tally) -> None:
    """A request whose answer comes at once; when the queue is full the client comes again, as it is told."""
    case = dice.choice(cases)
    started = time.monotonic()
    while (reply := await connections.post(case.path, json=case.body)).status_code == 429:
        tally.statuses["429, came again"] += 1
        await asyncio.sleep(float(reply.headers["Retry-After"]) * dice.uniform(0.2, 1))
        started = time.monotonic()
    tally.statuses[f"whole {reply.status_code}"] += 1
    assert reply.status_code == 200, reply.text
    tally.waits.append(time.monotonic() - started)
    content = reply.json()
    tally.tokens += content["usage"]["completion_tokens"]
    choices = content["choices"]
    texts = [each["message"]["content"] if "message" in each else each["text"] for each in choices]
    compare(case, texts, [each["finish_reason"] for each in choices])
    assert content["truncated"] is False
    if case.logprobs is not None:
        assert [each["logprobs"]["token_logprobs"] for each in choices] == case.logprobs, "log-probabilities differ"


async def send_stream(
    connections: Any, dice: random.Random, cases: list[Case], tally: Tally, *, leave: bool = False
) -> None:
    """A request whose answer comes in pieces; `leave`: the client goes after some of them."""
    case, name = dice.choice(cases), "left" if leave else "stream"
    patience = dice.randrange(1, 6)
    while True:
        async with connections.stream("POST", case.path, json=case.body | {"stream": True}) as reply:
            if reply.status_code != 429:
                tally.statuses[f"{name} {reply.status_code}"] += 1
                assert reply.status_code == 200, await reply.aread()
                texts, ends, last = [""] * case.body["n"], [""] * case.body["n"], ""
                async for line in reply.aiter_lines():
                    if line.startswith("data: {"):
                        for choice in json.loads(line[6:])["choices"]:
                            piece = choice["delta"].get("content") if "delta" in choice else choice["text"]
                            texts[choice["index"]] += piece or ""
                            ends[choice["index"]] += choice["finish_reason"] or ""
                        patience -= 1
                    last = line or last
                    if leave and patience <= 0:
                        return
                assert last == "data: [DONE]", f"the stream ended with {last!r}"
                return compare(case, texts, ends)
            await reply.aread()
        tally.statuses["429, came again"] += 1
        await asyncio.sleep(float(reply.headers["Retry-After"]) * dice.uniform(0.2, 1))


async def leave_stream(connections: Any, dice: random.Random, cases: list[Case], tally: Tally) -> None:
    """A client that goes away in the middle."""
    await send_stream(connections, dice, cases, tally, leave=True)


async def send_bad(connections: Any, dice: random.Random, cases: list[Case], tally: Tally) -> None:
    """Something that no server should take."""
    name = dice.choice(list(POISON))
    path = "/v1/chat/completions" if "schema" in name else "/v1/completions"
    reply = await connections.post(path, content=POISON[name], headers={"Content-Type": "application/json"})
    tally.statuses[f"bad {reply.status_code}"] += 1
    assert 400 <= reply.status_code < 500 and reply.json()["error"]["message"], f"{name}: {reply.status_code}"


async def send_slowly(connections: Any, dice: random.Random, cases: list[Case], tally: Tally) -> None:
    """A body that comes byte by byte: answered all the same, or refused for its time."""
    case = dice.choice(cases)
    data = json.dumps(case.body).encode()

    async def dribble() -> Any:
        for start in range(0, len(data), 40):
            yield data[start : start + 40]
            await asyncio.sleep(0.05)

    reply = await connections.post(case.path, content=dribble(), headers={"Content-Type": "application/json"})
    tally.statuses[f"slow {reply.status_code}"] += 1
    assert reply.status_code in (200, 408, 429), reply.text


SEND = {"whole": send_whole, "stream": send_stream, "leave": leave_stream, "bad": send_bad, "slow": send_slowly}


def compare(case: Case, texts: list[str], ends: list[str]) -> None:
    """With what the request gives alone."""
    assert texts == case.texts, f"{case.body}: {texts!r} and not {case.texts!r}"
    assert ends == case.finish_reasons, f"{case.body}: ends {ends} and not {case.finish_reasons}"


def report(tally: Tally, seconds: float) -> dict[str, Any]:
    """The figures, and what was wrong with them."""
    waits = sorted(tally.waits) or [0.0]
    early = [size for moment, size in tally.memory if moment >= seconds / 10][0]
    late = tally.memory[-1][1]
    if late > 1.1 * early + 30:
        tally.wrong.append(f"the memory of the server grew from {early:.0f} to {late:.0f} MB")
    return {
        "seconds": round(seconds, 1),
        "answers": dict(sorted(tally.statuses.items())),
        "requests a second": round(sum(tally.statuses.values()) / seconds, 1),
        "tokens a second, whole answers": round(tally.tokens / seconds, 1),
        "wait, seconds": {f"p{share}": round(waits[(len(waits) - 1) * share // 100], 3) for share in (50, 95, 99)},
        "memory, MB": {
            "start": tally.memory[0][1],
            "after a tenth": early,
            "most": max(m for _, m in tally.memory),
            "end": late,
        },
        "wrong": tally.wrong[:20],
        **conditions(),
    }


def main() -> int:
    """Run the load and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=0, help="instead of a number of requests")
    parser.add_argument("--cases", type=int, default=150, help="different requests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = make_cases(options.cases, options.seed)
    with running() as (address, pid):
        started = time.monotonic()
        amount = {"requests": options.requests, "clients": options.clients, "minutes": options.minutes}
        tally = asyncio.run(load(address, pid, cases, seed=options.seed, **amount))
        found = report(tally, time.monotonic() - started)
    print(json.dumps(found, indent=2))
    print("ok" if not tally.wrong else f"{len(tally.wrong)} things were wrong")
    if options.json:
        write_json(options.json, found)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
