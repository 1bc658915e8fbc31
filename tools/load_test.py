"""Many clients at once against `bedplate serve`, each of which must get what it would get alone.

python tools/load_test.py                  5,000 requests of 200 clients, on this machine
python tools/load_test.py --minutes 10     as many requests as ten minutes hold: memory must stay flat

Some clients leave, send slowly or send nonsense. Ends with `ok`, or with what was wrong and exit code 1.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.parse import urlparse

from bedplate.bench.measure import conditions
from bedplate.errors import UserError
from bedplate.files import write_json
from bedplate.language_model import load
from load_cases import Bad, Case, bad_requests, known_cases
from load_client import Connection, Tally, Wrong, streamed_answer, whole_answer
from load_server import Sample, come_to_rest, gauge, memory, open_files, serving, uncounted, watch_memory

# Kinds of requests, and how many of a hundred are such.
KINDS = {
    "whole": 40,
    "stream": 30,
    "slow sender": 5,
    "leaves a stream": 8,
    "leaves early": 4,
    "half sent": 3,
    "bad": 10,
}
PATIENCE = 120.0  # seconds in which every answer must have come, with all that a full queue makes a client wait
GROWTH = 0.02  # of memory since the first tenth of the time, that is still called flat
JUDGED_SECONDS = 30.0  # shorter runs are too short to tell growth from the first use of everything
MOST_WRONG = 100  # after so many it ends


class Load:
    """What is sent, and by how many clients."""

    def __init__(self, address: str, cases: Sequence[Case], bad: Sequence[Bad], *, seed: int) -> None:
        self.address, self.cases, self.bad, self.seed = address, cases, bad, seed
        self.tally = Tally()

    async def run(self, *, clients: int, requests: int | None, seconds: float | None, process: int) -> list[Sample]:
        """Send all requests, or as many as the time holds; gives the memory of the server meanwhile."""
        until = time.monotonic() + seconds if seconds else float("inf")
        numbers = itertools.takewhile(
            lambda _: time.monotonic() < until and len(self.tally.wrong) < MOST_WRONG,
            range(requests) if requests else itertools.count(),
        )
        samples: list[Sample] = []
        sampler = asyncio.create_task(watch_memory(process, samples))
        await asyncio.gather(*(self._client(numbers) for _ in range(clients)))
        sampler.cancel()
        return samples

    async def _client(self, numbers: Iterator[int]) -> None:
        url = urlparse(self.address)
        connection = Connection(url.hostname or "", url.port or 0)
        for number in numbers:
            dice = random.Random(f"{self.seed}/{number}")
            (kind,) = dice.choices(list(KINDS), list(KINDS.values()))
            try:
                async with asyncio.timeout(PATIENCE):
                    await (self._refused(connection, dice) if kind == "bad" else self._one(connection, kind, dice))
            except Exception as error:  # the others go on
                self.tally.wrong.append(f"request {number}, {kind}: {type(error).__name__} {error}"[:1000])
                connection.leave()
        connection.leave()

    async def _refused(self, connection: Connection, dice: random.Random) -> None:
        bad = dice.choice(self.bad)
        await connection.ask(bad.path, bad.body)
        status = await connection.status()
        self.tally.replies["bad", status] += 1
        reply = json.loads(await connection.body())
        if status != bad.status or not reply["error"]["message"]:
            raise Wrong(f"{bad.name}: {status}, {reply}")

    async def _one(self, connection: Connection, kind: str, dice: random.Random) -> None:
        case, tally = dice.choice(self.cases), self.tally
        stream = kind in ("stream", "leaves a stream") or (kind == "slow sender" and dice.random() < 0.5)
        streaming = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        body = json.dumps(case.body | streaming).encode()
        if kind in ("half sent", "leaves early"):
            tally.unseen += 1
            sent = dice.randrange(20, 100 + len(body)) if kind == "half sent" else None
            await connection.ask(case.path, body, sent=sent)
            await asyncio.sleep(dice.random())
            return connection.leave()
        while True:
            began = time.perf_counter()
            await connection.ask(case.path, body, pieces=5 if kind == "slow sender" else 1)
            status = await connection.status()
            tally.replies[kind, status] += 1
            if status != 429:
                break
            await connection.body()
            connection.leave()
            await asyncio.sleep(float(connection.headers["retry-after"]))
        if status != 200:
            raise Wrong(f"status {status}: {await connection.body()!r}")
        if kind == "leaves a stream":
            return await streamed_answer(connection, case, tally, events=dice.randint(1, 20))
        await (streamed_answer if stream else whole_answer)(connection, case, tally)
        tally.seconds.append(time.perf_counter() - began)
        tally.tokens += case.tokens


def figures(tally: Tally, samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    """What is printed."""
    percentiles = quantiles(tally.seconds, n=100, method="inclusive") if tally.seconds[1:] else [0.0] * 99
    statuses = Counter(status for _, status in tally.replies.elements())
    requests = statuses.total() - statuses[429] + tally.unseen  # one that comes again is still one
    return {
        "seconds": seconds,
        "requests a second": requests / seconds,
        "tokens a second": tally.tokens / seconds,
        "answers compared whole": len(tally.seconds),
        "refused for a full queue (429)": statuses[429],
        **{f"latency p{each}, s": percentiles[each - 1] for each in (50, 95, 99)},
        **memory(samples),
    }


def grows(found: Mapping[str, float]) -> bool:
    """Whether the server's memory grew; a short run cannot tell."""
    limit = (1 + GROWTH) * found["memory after a tenth, MB"]
    return found["seconds"] > JUDGED_SECONDS and found["memory at the end, MB"] > limit


def load_test(model: str, *, requests: int | None, clients: int, seconds: float | None, seed: int) -> dict[str, Any]:
    """Serve a model, load it, and tell what came; `wrong` in it is empty when all was well."""
    distinct = min(150, -(-(requests or 1000) // 4))
    cases = known_cases(load(model), model=Path(model).name, count=distinct, seed=seed)
    wrong: list[str] = []
    with serving(model, wrong) as (address, process):
        gauge(address, "requests_open")  # it answers
        files = open_files(process.pid)
        load_of_clients = Load(address, cases, bad_requests(Path(model).name), seed=seed)
        began = time.monotonic()
        samples = asyncio.run(
            load_of_clients.run(clients=clients, requests=requests, seconds=seconds, process=process.pid)
        )
        tally, took = load_of_clients.tally, time.monotonic() - began
        wrong += tally.wrong
        if process.poll() is None:
            wrong += come_to_rest(address, process.pid, files) + uncounted(address, tally)
    found = figures(tally, samples, took)
    if grows(found):
        wrong.append("the server's memory grows")
    replies = {f"{kind}, {status}": count for (kind, status), count in sorted(tally.replies.items())}
    thin = samples[:: max(1, len(samples) // 100)]
    return {
        "replies": replies | {"did not wait for a reply": tally.unseen},
        "figures": found,
        "memory": [(round(each.seconds, 1), each.megabytes) for each in thin],
        "wrong": wrong,
    }


def main() -> int:
    """Run the test as the command line says; 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, metavar="M", help="go on for so long, instead of a number of requests")
    parser.add_argument("--model", default="gpt2-tiny", help="as for bedplate serve")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, with versions and machine")
    options = parser.parse_args()
    if min(options.requests, options.clients, 1 if options.minutes is None else options.minutes) <= 0:
        parser.error("requests, clients and minutes are numbers above 0")
    try:
        result = load_test(
            options.model,
            requests=None if options.minutes else options.requests,
            clients=options.clients,
            seconds=60 * options.minutes if options.minutes else None,
            seed=options.seed,
        )
    except UserError as error:
        parser.error(str(error))
    for name, value in (result["replies"] | result["figures"]).items():
        print(f"{name:32}{value:12,.2f}" if isinstance(value, float) else f"{name:32}{value:9,}")
    if options.json:
        write_json(options.json, result | conditions() | {"clients": options.clients, "seed": options.seed})
    if result["figures"]["seconds"] <= JUDGED_SECONDS:
        print(f"memory is judged in runs of more than {JUDGED_SECONDS:g} s")
    print("\n".join(result["wrong"][:20]) or "ok")
    return int(bool(result["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
