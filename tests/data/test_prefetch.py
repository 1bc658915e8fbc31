"""Prefetching changes when batches are made, and nothing else."""

import multiprocessing
import subprocess
import sys
import threading
import time
import warnings

import pytest
import torch

from bedplate.data.prefetch import AHEAD, Prefetched
from bedplate.errors import UserError
from bedplate.train.loop import Source


class Steps:
    """A source whose batch is its step; it notes who made which, and fails where it is told to."""

    def __init__(self, *, seconds=0.0, fails=None):
        self.seconds, self.fails = seconds, fails
        self.made = []

    def batch(self, step):
        time.sleep(self.seconds)
        self.made.append((step, threading.current_thread().name))
        if step == self.fails:
            raise UserError(f"step {step} cannot be read", fix="check the disk")
        return {"ids": torch.tensor([step])}


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("bedplate-prefetch")]


@pytest.mark.parametrize("ahead", [1, AHEAD, 5])
@pytest.mark.parametrize("steps", [range(20), range(7, 20), [3, 4, 5, 4, 5, 6, 0, 1, 9, 9, 2, 3]])
def test_any_order_of_steps_gives_the_batches_of_the_source(steps, ahead):
    with Prefetched(Steps(), ahead=ahead) as source:
        assert isinstance(source, Source)
        assert [source.batch(step)["ids"].item() for step in steps] == list(steps)


def test_in_order_each_batch_is_made_once_and_in_the_background():
    steps = Steps()
    with Prefetched(steps) as source:
        for step in range(50):
            source.batch(step)
    made = [step for step, _ in steps.made]
    assert sorted(made) == list(range(len(made))) and 50 <= len(made) <= 50 + AHEAD
    assert [step for step, name in steps.made if not name.startswith("bedplate-prefetch")] == [0]


def test_learning_does_not_wait():
    with Prefetched(Steps(seconds=0.05)) as source:
        source.batch(0)
        waited = []
        for step in range(1, 9):
            time.sleep(0.1)  # a step that takes twice as long as its batch
            began = time.perf_counter()
            source.batch(step)
            waited.append(time.perf_counter() - began)
    assert sorted(waited)[4] < 0.01  # the source alone would take 0.05


def test_a_mistake_is_raised_at_its_step():
    with Prefetched(Steps(fails=3)) as source:
        for step in range(3):
            assert source.batch(step)["ids"].item() == step
        time.sleep(0.05)  # the thread has failed by now
        with pytest.raises(UserError, match="step 3 cannot be read"):
            source.batch(3)
        assert source.batch(4)["ids"].item() == 4
        assert source.batch(2)["ids"].item() == 2
        with pytest.raises(UserError, match="step 3 cannot be read"):
            source.batch(3)


def test_a_mistake_after_the_last_step_is_nobodys():
    with Prefetched(Steps(fails=3)) as source:
        assert [source.batch(step)["ids"].item() for step in range(3)] == [0, 1, 2]


def test_the_thread_ends_with_the_block():
    before = len(threads())
    with pytest.raises(KeyboardInterrupt), Prefetched(Steps(seconds=0.01)) as source:
        source.batch(0)
        assert len(threads()) == before + 1
        raise KeyboardInterrupt
    assert len(threads()) == before


LEFT_OPEN = """
import sys, time
from bedplate.data.prefetch import Prefetched
class Slow:
    def batch(self, step):
        time.sleep(0.2 * (step > 0))
        return {"ids": [step]}
source = Prefetched(Slow())
source.batch(0)
print("made", flush=True)
if sys.argv[1] == "raise":
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize("end", ["return", "raise"])
def test_a_process_ends_though_nobody_closed(end):
    result = subprocess.run([sys.executable, "-c", LEFT_OPEN, end], capture_output=True, text=True, timeout=60)
    assert result.stdout == "made\n"
    assert (result.returncode == 0) == (end == "return") and ("KeyboardInterrupt" in result.stderr) == (end == "raise")


def ask(source, connection):
    connection.send([source.batch(step)["ids"].item() for step in (1, 2, 7)])
    source.close()


def test_a_fork_makes_its_own_batches():
    with Prefetched(Steps()) as source:
        source.batch(0)
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=ask, args=(source, there))
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # forks beside threads, since 3.12
            process.start()
        assert here.poll(30), "the fork hangs"
        assert here.recv() == [1, 2, 7]
        process.join(30)
        assert process.exitcode == 0
        assert source.batch(1)["ids"].item() == 1


@pytest.mark.parametrize("name", ["attach", "state"])
def test_a_source_that_depends_on_what_is_trained_is_refused(name):
    source = Steps()
    setattr(source, name, lambda *_: None)
    with pytest.raises(TypeError, match="cannot be made in advance"):
        Prefetched(source)
