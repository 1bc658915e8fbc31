"""The server under the load test: started as a user starts it, and watched from outside. Linux only."""

import asyncio
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import numpy as np

from load_client import Tally

SAMPLE_SECONDS = 0.25
FILES = 4  # that the server may hold open at the end beyond those at the start


@contextmanager
def serving(model: str, wrong: list[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server with default options on a free port: its address and process; notes when it does not end well."""
    command = [sys.executable, "-m", "bedplate", "serve", model, "--port", "0"]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout
            line = process.stdout.readline()
            found = re.search(r"at (http://\S+)", line)
            assert found, f"the server did not start: {line}"
            yield found[1], process
            process.send_signal(signal.SIGTERM)
            if process.wait(timeout=60):
                wrong.append(f"the server ended with code {process.returncode}")
        finally:
            process.kill()
            process.communicate()
            errors.seek(0)
            if said := errors.read():
                wrong.append(f"the server said: {said[:2000]}")


def read_metrics(address: str) -> list[tuple[str, str, float]]:
    """Name, labels and value of every line of /metrics."""
    text = urlopen(address + "/metrics").read().decode()
    return [(name, labels, float(value)) for name, labels, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", text, re.M)]


def gauge(address: str, name: str) -> float:
    """The sum of a metric over all labels."""
    return sum(value for each, _, value in read_metrics(address) if each == f"bedplate_{name}")


def open_files(process: int) -> int:
    """How many files and connections a process holds."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def come_to_rest(address: str, process: int, files: int) -> list[str]:
    """What is still left of the load ten seconds after it."""
    until = time.monotonic() + 10
    while True:
        gauges = {name: gauge(address, name) for name in ("requests_open", "requests_running")}
        left = [f"{value:g} {name} at the end" for name, value in gauges.items() if value]
        more = open_files(process) - files
        left += [f"{more} more open files than at the start"] if more > FILES else []
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.05)


def uncounted(address: str, tally: Tally) -> list[str]:
    """Where the server's own counters contradict what the clients saw."""
    counted: Counter[int] = Counter()
    for name, labels, value in read_metrics(address):
        if name == "bedplate_replies_total" and "/metrics" not in labels:
            counted[int(labels.split('status="')[1][:3])] += int(value)
    for (_, status), count in tally.replies.items():
        counted[status] -= count
    # What is left can only be of clients that did not wait for a status.
    left = {status: count for status, count in counted.items() if count}
    wrong = []
    if any(status >= 500 or count < 0 for status, count in left.items()) or sum(left.values()) > tally.unseen:
        wrong.append(f"replies that nobody saw, by status: {left}; {tally.unseen} clients did not wait for one")
    if gauge(address, "tokens_total") < tally.tokens:
        wrong.append(f"the server counts {gauge(address, 'tokens_total'):g} tokens, the clients got {tally.tokens}")
    return wrong


@dataclass(frozen=True)
class Sample:
    """Memory of the server at a moment."""

    seconds: float
    megabytes: float


async def watch_memory(process: int, samples: list[Sample]) -> None:
    """Add samples until it is canceled or the process is gone."""
    began = time.monotonic()
    while found := re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text()):
        samples.append(Sample(time.monotonic() - began, int(found[1]) / 1e3))
        await asyncio.sleep(SAMPLE_SECONDS)


def memory(samples: Sequence[Sample]) -> dict[str, float]:
    """Megabytes at the start, after the first tenth and at the end, and the growth after the first tenth."""
    tenth = max(1, len(samples) // 10)
    later = samples[tenth:] or samples
    slope = np.polyfit([each.seconds for each in later], [each.megabytes for each in later], 1)[0] if later[1:] else 0.0
    return {
        "memory at the start, MB": samples[0].megabytes,
        "memory after a tenth, MB": median(each.megabytes for each in later[:tenth]),
        "memory at the end, MB": median(each.megabytes for each in samples[-tenth:]),
        "slope, MB a minute": 60 * float(slope),
    }
