"""Benchmarks: ratios point the right way, sides take turns, and both sides compute the same."""

import time

import pytest
import torch

from bedplate.bench import train
from bedplate.bench.measure import Row, peak_memory, table, take_turns
from bedplate.models import gpt2


def test_a_ratio_above_one_means_better() -> None:
    speed = Row(name="speed", ours=20.0, peer=10.0, unit="tokens/s", higher_is_better=True)
    memory = Row(name="memory", ours=20.0, peer=10.0, unit="GB", higher_is_better=False)
    assert (speed.ratio, memory.ratio) == (2.0, 0.5)
    assert [set(row) for row in table([speed.line()])["rows"]] == [{"name", "ours", "peer", "unit", "ratio"}]
    assert Row(name="alone", ours=20.0, peer=None, unit="tokens/s", higher_is_better=True).ratio is None


def test_sides_take_turns_after_one_call_each() -> None:
    calls: list[str] = []
    ours, peer = take_turns(lambda: calls.append("ours"), lambda: (calls.append("peer"), time.sleep(0.01)), repeats=3)
    assert calls == ["ours", "peer"] * 4
    assert ours < 0.01 <= peer


def test_memory_is_of_the_child_alone(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = bytearray(300 * 10**6)
    holder[::4096] = b"x" * len(holder[::4096])
    code = "from bedplate.bench.measure import print_own_peak; print_own_peak()"
    (tmp_path / "probe.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(str(tmp_path))
    peak = peak_memory("probe")
    assert 0.05 < peak < 0.6, "as large as torch alone"
    assert len(holder)


def test_both_sides_of_the_training_benchmark_take_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """From equal weights they report the same loss, so that they do the same work."""
    monkeypatch.setitem(gpt2.SIZES, "mini", gpt2.Config(dim=32, num_layers=2, num_heads=2, context_length=64))
    ours, peer = (make(train.Cell(size="mini", batch=2, length=32)) for make in (train.ours_step, train.peer_step))
    # Both start at the loss of a uniform guess; the weights differ, the data do not.
    assert ours() == pytest.approx(peer(), rel=0.01)
    assert ours() < torch.log(torch.tensor(50257.0))
