"""The training loop: one plain function, read from top to bottom.

What varies is handed in: a source (`batch(step)`, a pure function of the step) and an objective (`loss`, and perhaps
`setup`, `before_step`, `after_step`). The loop knows neither models nor objectives nor data.
"""

import functools
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bedplate.errors import UserError
from bedplate.train import ranks
from bedplate.train.average import follow, start_average
from bedplate.train.checkpoint import State, last_good, load_checkpoint, newest_checkpoint, rewind, save_checkpoint
from bedplate.train.diagnose import first_not_finite
from bedplate.train.optimizer import AdamW, clip_gradients
from bedplate.train.parallel import Parallel, Work
from bedplate.train.precision import autocast
from bedplate.train.run import log_metrics, read_metrics, sync_metrics
from bedplate.train.schedule import Constant, WarmupCosine
from bedplate.train.spikes import Spikes

Batch = Mapping[str, Any]


@runtime_checkable
class Source(Protocol):
    """Where batches come from: the same step gives the same global batch, whatever was asked before.

    Its leading axis counts items, so that micro-batches and ranks can slice it. A source whose batches depend on what
    is trained has `attach(model, companion)`, called once before the first batch, `state()` and `restore(tensors)`.
    """

    def batch(self, step: int) -> Batch: ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the loop itself needs to know."""

    steps: int
    micro_batch_size: int
    optimizer: AdamW = field(default_factory=AdamW)
    schedule: Constant = field(default_factory=WarmupCosine)
    average: float = 0.0  # decay of the moving average of weights; 0 keeps none
    precision: str = "fp32"
    seed: int = 0
    evaluate_every: int = 100
    checkpoint_every: int = 100
    best: str = ""  # a measure of `evaluate`: the checkpoint where it is lowest is kept, too
    keep: int = 2  # checkpoints: the newest, and one more in case the disk damages it
    skip_spikes: bool = False  # make no update from a batch whose loss stands out
    parallel: Parallel = field(default_factory=Parallel)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a call of `train` ended."""

    step: int  # updates made in all
    interrupted: bool


def train(
    model: nn.Module,
    source: Source,
    objective: Any,
    *,
    settings: Settings,
    folder: Path,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    watch: Callable[[dict[str, Any]], None] = lambda metrics: None,
    resume: bool = False,
) -> Outcome:
    """Train a model in place, from scratch or from the newest checkpoint in `folder`.

    `evaluate(model)` gives measures to log next to the loss, of the averaged weights where there are any; `watch` sees
    every logged line. Ctrl-C or SIGTERM ends the run after the current step, saved. Raises UserError, before the
    weights change, when a loss or a gradient is not finite or nothing in a batch counts, and when no checkpoint can be
    written.
    """
    companion = objective.setup(model) if hasattr(objective, "setup") else None
    average = start_average(model) if settings.average else None
    work = Work(model, companion, average, parallel=settings.parallel, precision=settings.precision)
    device = work.device
    optimizer = settings.optimizer.build(model, companion)
    state = State(model=model, optimizer=optimizer, companion=companion, average=average, source=source)
    step = load_checkpoint(ranks.decided(lambda: newest_checkpoint(folder)), state) if resume else 0
    if hasattr(source, "attach"):
        if work.strategy == "fsdp" and work.sharded:
            raise UserError("this source asks the model, of which a rank holds shards", fix="use ddp or tp")
        source.attach(model, companion)
    saved = step if resume else None
    leads = ranks.rank() == 0
    if leads:
        rewind(folder, step, resumed=resume)
    history = ranks.decided(lambda: read_metrics(folder))
    spikes, best = Spikes(history), best_step(history, settings)
    model.train()

    def save() -> None:
        nonlocal saved
        if saved != step:
            if leads:
                sync_metrics(folder)
            save_checkpoint(folder, step, state, sharded=work.sharded, kept={best[1]}, keep=settings.keep)
        saved = step

    with _stop_signal() as stopped:
        while step < settings.steps:
            clock = Clock(device)
            # Every step has its own seed: resuming needs no generator state, and dropout never depends on the past.
            torch.manual_seed(step_seed(settings.seed, step, work.rank))
            lr = settings.optimizer.lr * settings.schedule.factor(step, steps=settings.steps)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["factor"]

            batch = to_device(work.share(source.batch(step)), device)
            clock.lap("data_seconds")
            sums = accumulate(work, objective, batch, step, settings, clock, stop=stopped)
            stopping, count = sums.pop("stop").item() > 0, sums["count"].item()
            if not count:
                cause = f"nothing in the batch of step {step + 1} counts"
                raise UserError(cause, fix="check the targets of the source")
            means = {name: value.item() / count for name, value in sums.items() if value.ndim == 0}
            del means["count"]
            sides = [list(side.parameters()) for side in (model, companion) if side is not None]
            for parameter in (parameter for side in sides for parameter in side):
                if parameter.grad is not None:
                    parameter.grad.div_(count / work.world)  # ranks have averaged
            if hasattr(objective, "before_step"):
                objective.before_step(model, companion, step, sums)
            norms = [clip_gradients(side, settings.optimizer.clip) for side in sides]
            finite = means | {"gradient norm": sum(norms)}
            if bad := [name for name, value in finite.items() if not isfinite(value)]:
                torch.manual_seed(step_seed(settings.seed, step, work.rank))
                place = first_not_finite(work, functools.partial(accumulate, work, objective, batch, step, settings))
                cause = f"the {bad[0]} of step {step + 1} is {finite[bad[0]]}, first in {place}"
                fix = f"lower optimizer.lr or use precision=fp32 (nothing was updated; {last_good(folder)})"
                raise UserError(cause, fix=fix)
            spike = spikes.judge(means["loss"])
            if spike and settings.skip_spikes:
                spike["skipped"] = 1.0
            else:
                optimizer.step()
                if average is not None:
                    follow(average, model, decay=settings.average)
            optimizer.zero_grad()
            if hasattr(objective, "after_step"):
                objective.after_step(model, companion, step, sums)
            clock.lap("optimizer_seconds")

            step += 1
            metrics: dict[str, Any] = {"step": step, **means, "lr": lr, "grad_norm": norms[0]} | spike
            metrics |= {"items_per_second": count / clock.total(), "seconds": clock.total(), **clock.laps}
            if evaluate and (step % settings.evaluate_every == 0 or step == settings.steps):
                model.eval()
                with autocast(settings.precision, device):
                    metrics |= ranks.from_leader(work.measured(evaluate))  # ranks may differ in the last digit
                model.train()
                best = min(best, best_step([metrics], settings))
            if leads:
                log_metrics(folder, metrics)
                watch(metrics)
            stopping = stopping and step < settings.steps
            if step % settings.checkpoint_every == 0 or best[1] == step or stopping:
                save()
            if stopping:
                break
        save()
    model.eval()
    return Outcome(step=step, interrupted=step < settings.steps)


def accumulate(
    work: Work,
    objective: Any,
    batch: Batch,
    step: int,
    settings: Settings,
    clock: "Clock | None" = None,
    *,
    stop: list[int] | tuple[()] = (),
) -> dict[str, Tensor]:
    """Leave the gradient of the summed loss in the parameters; returns all sums over micro-batches and ranks."""
    device = work.device
    clock = clock or Clock(device)
    sums: dict[str, Tensor] = {}
    parts = list(micro_batches(batch, settings.micro_batch_size))
    for number, part in enumerate(parts, start=1):
        with work.reduced(last=number == len(parts)):
            with autocast(settings.precision, device):
                _, loss = work.inside(functools.partial(_total_and_loss, objective, work, part, step))
            clock.lap("forward_seconds")
            loss.total.backward()
            clock.lap("backward_seconds")
        for name, value in {"loss": loss.total, "count": loss.count, **loss.sums}.items():
            value = value.detach().to(device, torch.float64)
            sums[name] = sums[name] + value if name in sums else value
    sums["stop"] = torch.tensor(float(len(stop)), dtype=torch.float64, device=device)  # as late as all can be told
    return work.add_up(sums)


def _total_and_loss(objective: Any, work: Work, part: Batch, step: int) -> tuple[Tensor, Any]:
    loss = objective.loss(work.model, part, work.companion, step)
    return loss.total, loss  # torch's engines look for tensors in tuples


def best_step(history: list[dict[str, Any]], settings: Settings) -> tuple[float, int]:
    """The lowest value of the measure `best` in the log, and its step."""
    measured = [(line[settings.best], line["step"]) for line in history if settings.best in line]
    return min((each for each in measured if isfinite(each[0])), default=(inf, -1))


def step_seed(seed: int, step: int, rank: int) -> int:
    """A number of 63 bits that no other step or rank has."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:8], "big") >> 1


def micro_batches(batch: Batch, size: int) -> Iterator[Batch]:
    """Slices of a batch along its leading axis, tensors and lists alike."""
    items = len(next(iter(batch.values())))
    for start in range(0, items, size):
        yield {name: value[start : start + size] for name, value in batch.items()}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with its tensors on a device, those inside lists and dictionaries too."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        if isinstance(value, Mapping):
            return {name: moved(part) for name, part in value.items()}
        return [moved(part) for part in value] if isinstance(value, (list, tuple)) else value

    return {name: moved(value) for name, value in batch.items()}


class Clock:
    """The seconds of a step and of its parts. On a GPU only the whole step is waited for; its parts overlap."""

    def __init__(self, device: torch.device) -> None:
        self.started = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}
        self.device = device

    def lap(self, name: str) -> None:
        """Count the time since the last lap under this name."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self.last
        self.last = now

    def total(self) -> float:
        """Seconds since the step began."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - self.started


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """A list that gets an entry when Ctrl-C or SIGTERM arrives: a step is never torn. A second Ctrl-C ends at once."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        os.write(2, b"\nStopping after this step, saved. Ctrl-C again stops at once, unsaved.\n")  # safe in a handler

    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        previous = [signal.signal(number, note) for number in signals]
    except ValueError:  # not in the main thread: whoever runs the thread stops it
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
