"""The load test of `tools/`, as a small one: it passes, and it notices what is wrong."""

import asyncio
from dataclasses import replace

from tests.serve.running import MODEL, running

from bedplate.language_model import load
from load_cases import bad_requests, known_cases
from load_client import Tally
from load_server import Sample, memory, uncounted
from load_test import Load, grows, load_test


def test_a_small_load_is_served_right() -> None:
    result = load_test(MODEL, requests=60, clients=10, seconds=None, seed=0)
    assert result["wrong"] == []
    assert sum(count for name, count in result["replies"].items() if "429" not in name) == 60
    assert result["figures"]["answers compared whole"] > 30


def test_answers_that_differ_are_noticed() -> None:
    cases = known_cases(load(MODEL), model=MODEL, count=4, seed=1)
    other = [
        replace(case, choices=tuple(replace(choice, text=f"?{choice.text}") for choice in case.choices))
        for case in cases
    ]
    with running() as (address, process):
        clients = Load(address, other, [replace(bad, status=402) for bad in bad_requests(MODEL)], seed=1)
        asyncio.run(clients.run(clients=5, requests=20, seconds=None, process=process.pid))
        kinds = [kind for kind, _ in clients.tally.replies.elements() if kind != "leaves a stream"]
        assert len(clients.tally.wrong) >= len(kinds) > 10
        assert not uncounted(address, clients.tally)
        assert uncounted(address, Tally(replies=clients.tally.replies | {("whole", 500): 1}))
        assert uncounted(address, Tally())


def test_memory_that_grows_after_the_first_tenth_is_noticed() -> None:
    warm_up = [Sample(second, 400 + 10 * second) for second in range(10)]
    flat = warm_up + [Sample(second, 500) for second in range(10, 100)]
    leak = warm_up + [Sample(second, 500 + 0.2 * (second - 10)) for second in range(10, 100)]
    assert not grows(memory(flat) | {"seconds": 100.0}) and memory(flat)["slope, MB a minute"] < 1e-6
    assert grows(memory(leak) | {"seconds": 100.0}) and abs(memory(leak)["slope, MB a minute"] - 12) < 1e-6
