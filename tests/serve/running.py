"""A server in a process of its own, as a user starts it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

import httpx2 as httpx

MODEL = "gpt2-tiny"


@contextmanager
def running(*options: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start `bedplate serve` on a free port; gives its address and its process, which is ended afterwards."""
    command = [sys.executable, "-m", "bedplate", "serve", MODEL, "--port", "0", *map(str, options)]
    with TemporaryFile("w+") as errors:  # no pipe: nobody reads it while the server runs
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout
            line = process.stdout.readline()
            found = re.search(r"at (http://\S+)", line)
            assert found, line
            yield found[1], process
        finally:
            process.kill()
            process.communicate()
            errors.seek(0)
            said = errors.read()
    assert said == "", said


def post(address: str, path: str, **body: object) -> httpx.Response:
    """A JSON request."""
    return httpx.post(address + path, json=body, timeout=60)


def gauge(address: str, name: str) -> float:
    """A number from /metrics."""
    text = httpx.get(address + "/metrics").text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))
