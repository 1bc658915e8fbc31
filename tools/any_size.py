"""What training on a large corpus costs: memory, the time to reach a far step, the time to open and to read.

python tools/any_size.py 10            10 GB of generated token shards in a temporary folder, removed at the end
python tools/any_size.py 10 --in DIR   the same below DIR

The figures are those of a process of its own that trains a tiny GPT-2, so that what grows is due to the data.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bedplate.data.prefetch import Prefetched
from bedplate.data.shards import SHARD_TOKENS, TokenShards, write_ids
from bedplate.data.source import TokenWindows
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.models.gpt2 import GPT2, Config
from bedplate.objectives.next_token import NextToken
from bedplate.train.loop import Settings, train

VOCABULARY = 257  # bytes and the end mark
DOCUMENT = 1000  # tokens, on average
LENGTH, BATCH, STEPS = 64, 256, 100  # short windows, and many: 25 600 places of the corpus are read
FAR = 1_000_000


def generate(num_tokens: int, *, seed: int = 0) -> Iterator[np.ndarray]:
    """Random bytes as ids, in documents of random lengths."""
    random = np.random.default_rng(seed)
    for start in range(0, num_tokens, 2**22):
        ids = random.integers(0, VOCABULARY - 1, min(2**22, num_tokens - start), dtype=np.uint16)
        ids[random.integers(0, len(ids), max(1, len(ids) // DOCUMENT))] = VOCABULARY - 1
        yield ids


def write_generated(folder: Path, *, num_tokens: int, shard_tokens: int = SHARD_TOKENS) -> TokenShards:
    """Token shards of random text; ids take two bytes each."""
    tokenizer = ByteBPE.train([], vocab_size=VOCABULARY)
    return write_ids(generate(num_tokens), tokenizer, folder, shard_tokens=shard_tokens)


def measure(folder: Path) -> dict[str, Any]:
    """The figures of this process, in megabytes and milliseconds."""
    small, runs = write_generated(folder / "small", num_tokens=2**20), folder / "runs"
    model = GPT2(Config(vocab_size=VOCABULARY, context_length=LENGTH, dim=8, num_layers=1, num_heads=1, dropout=0.0))
    _train(model, small, runs / "small")  # torch's own memory, before it is measured
    before = resident()
    seeks = [_seek(folder / "large") for _ in range(5)]
    shards = TokenShards.open(folder / "large")
    seen = _train(model, shards, runs / "large")
    checks = [_milliseconds(shards.check) for _ in range(2)]
    return {
        "GB": sum(entry["bytes"] for entry in shards.manifest["files"].values()) / 1e9,
        "documents": shards.manifest["num_documents"],
        "resident before, MB": before["VmRSS"],
        "growth, MB": max(each["VmRSS"] for each in seen) - before["VmRSS"],
        "growth of own memory, MB": max(each["RssAnon"] for each in seen) - before["RssAnon"],
        "growth of mapped files, MB": max(each["RssFile"] for each in seen) - before["RssFile"],
        "growth of peak, MB": seen[-1]["VmHWM"] - before["VmHWM"],
        f"open and read step {FAR}, cold, first, ms": seeks[0],
        f"open and read step {FAR}, cold, median of 5, ms": median(seeks),
        "check all hashes, ms": checks[0],
        "check again, ms": checks[1],
        "batch 480x1024, cold, ms": _batch_time(shards, cold=True),
        "batch 480x1024, warm, ms": _batch_time(shards, cold=False),
        "wait for batch 480x1024, cold, made ahead, ms": _waiting_time(shards),
    }


def resident() -> dict[str, float]:
    """Megabytes of this process in memory: all, its own, of mapped files, and the most ever. Linux only."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(lines[key].split()[0]) / 1e3 for key in ("VmRSS", "RssAnon", "RssFile", "VmHWM")}


def _train(model: GPT2, shards: TokenShards, folder: Path) -> list[dict[str, float]]:
    windows = TokenWindows(shards, length=LENGTH, batch_size=BATCH, seed=0, isolate=True)
    seen: list[dict[str, float]] = []
    settings = Settings(steps=STEPS, micro_batch_size=BATCH, checkpoint_every=STEPS)
    with Prefetched(windows) as source:
        train(model, source, NextToken(), settings=settings, folder=folder, watch=lambda _: seen.append(resident()))
    return seen


def _seek(folder: Path) -> float:
    _forget(folder)

    def seek() -> None:
        windows = TokenWindows(TokenShards.open(folder), length=LENGTH, batch_size=BATCH, seed=0, isolate=True)
        windows.batch(FAR)

    return _milliseconds(seek)


def _batch_time(shards: TokenShards, *, cold: bool) -> float:
    windows = TokenWindows(shards, length=1024, batch_size=480, seed=0, isolate=True)
    times: list[float] = []
    for step in range(7):
        if cold:
            _forget(shards.folder)
        else:
            windows.batch(step)
        times.append(_milliseconds(lambda step=step: windows.batch(step)))
    return median(times)


def _waiting_time(shards: TokenShards) -> float:
    """What is left of the time for a batch where a step takes a fifth of a second: nothing is computed meanwhile."""
    times: list[float] = []
    with Prefetched(TokenWindows(shards, length=1024, batch_size=480, seed=0, isolate=True)) as source:
        for step in range(8):
            times.append(_milliseconds(lambda step=step: source.batch(step)))
            _forget(shards.folder)
            time.sleep(0.2)
    return median(times[1:])


def _forget(folder: Path) -> None:
    """Drop the files from the page cache, as if they had never been read."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _milliseconds(function: Any) -> float:
    began = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - began)


def measured(folder: Path, *, num_tokens: int, shard_tokens: int = SHARD_TOKENS) -> dict[str, Any]:
    """Write shards into a folder and measure them in a process of its own."""
    write_generated(folder / "large", num_tokens=num_tokens, shard_tokens=shard_tokens)
    command = [sys.executable, __file__, "--measure", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gigabytes", type=float, nargs="?", default=10)
    parser.add_argument("--in", dest="folder", type=Path, metavar="DIR", help="where to put the shards")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = measured(Path(folder), num_tokens=int(options.gigabytes * 1e9 / 2))
    print(json.dumps({key: round(value, 2) for key, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
