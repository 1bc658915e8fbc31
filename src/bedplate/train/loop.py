"""The training loop: one plain function, read from top to bottom.

What varies is handed in: a source (`batch(step)`, a pure function of the step) and an objective (`loss`, and perhaps
`setup`, `before_step`, `after_step`). The loop knows neither models nor objectives nor data.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bedplate.errors import UserError
from bedplate.files import remove_leftovers
from bedplate.train.checkpoint import last_good, load_checkpoint, newest_checkpoint, save_checkpoint
from bedplate.train.optimizer import AdamW
from bedplate.train.precision import autocast
from bedplate.train.run import log_metrics, rewind_metrics
from bedplate.train.schedule import WarmupCosine

Batch = Mapping[str, Any]
KEPT_CHECKPOINTS = 2  # the newest, and one more in case the disk damages it


@runtime_checkable
class Source(Protocol):
    """Where batches come from: the same step gives the same global batch, whatever was asked before.

    Its leading axis counts items, so that micro-batches and ranks can slice it.
    """

    def batch(self, step: int) -> Batch: ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the loop itself needs to know."""

    steps: int
    micro_batch_size: int
    optimizer: AdamW = field(default_factory=AdamW)
    schedule: WarmupCosine = field(default_factory=WarmupCosine)
    precision: str = "fp32"
    seed: int = 0
    evaluate_every: int = 100
    checkpoint_every: int = 100


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

    `evaluate(model)` gives measures to log next to the loss; `watch` sees every logged line. Ctrl-C or SIGTERM ends
    the run after the current step, saved. Raises UserError, before the weights change, when a loss or a gradient is not
    finite or nothing in a batch counts, and when no checkpoint can be written.
    """
    device = next(model.parameters()).device
    companion = objective.setup(model) if hasattr(objective, "setup") else None
    optimizer = settings.optimizer.build(model)
    step = load_checkpoint(newest_checkpoint(folder), model, optimizer, companion) if resume else 0
    saved = step if resume else None
    folder.mkdir(parents=True, exist_ok=True)
    rewind_metrics(folder, step)
    remove_leftovers(folder / "checkpoints")
    model.train()

    def save() -> None:
        nonlocal saved
        if saved != step:
            save_checkpoint(folder, step, model, optimizer, companion, keep=KEPT_CHECKPOINTS)
        saved = step

    with _stop_signal() as stopped:
        while step < settings.steps and not stopped:
            started = time.perf_counter()
            # Every step has its own seed: resuming needs no generator state, and dropout never depends on the past.
            torch.manual_seed(settings.seed * 2**32 + step)
            lr = settings.optimizer.lr * settings.schedule.factor(step, steps=settings.steps)
            for group in optimizer.param_groups:
                group["lr"] = lr

            batch = to_device(source.batch(step), device)
            sums = accumulate(model, objective, batch, companion, step, settings)
            count = sums.pop("count")
            if not count:
                raise UserError(
                    f"nothing in the batch of step {step + 1} counts", fix="check the targets of the source"
                )
            _check_finite(sums, step, folder)
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(count)
            if hasattr(objective, "before_step"):
                objective.before_step(model, companion, step)
            norm = nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.clip)
            _check_finite({"gradient norm": norm.item()}, step, folder)
            optimizer.step()
            optimizer.zero_grad()
            if hasattr(objective, "after_step"):
                objective.after_step(model, companion, step)

            step += 1
            metrics: dict[str, Any] = {"step": step, **{name: value / count for name, value in sums.items()}}
            metrics |= {"lr": lr, "grad_norm": norm.item()}
            seconds = time.perf_counter() - started
            if evaluate and (step % settings.evaluate_every == 0 or step == settings.steps):
                model.eval()
                metrics |= evaluate(model)
                model.train()
            metrics |= {"items_per_second": count / seconds, "seconds": seconds}
            log_metrics(folder, metrics)
            watch(metrics)
            if step % settings.checkpoint_every == 0:
                save()
        save()
    model.eval()
    return Outcome(step=step, interrupted=step < settings.steps)


def accumulate(
    model: nn.Module, objective: Any, batch: Batch, companion: nn.Module | None, step: int, settings: Settings
) -> dict[str, float]:
    """Leave the gradient of the summed loss in the parameters; returns the sums and the count over the whole batch."""
    device = next(model.parameters()).device
    sums: dict[str, float] = {"loss": 0.0, "count": 0.0}
    for part in micro_batches(batch, settings.micro_batch_size):
        with autocast(settings.precision, device):
            loss = objective.loss(model, part, companion, step)
        loss.total.backward()
        for name, value in {"loss": loss.total, "count": loss.count, **loss.metrics}.items():
            sums[name] = sums.get(name, 0.0) + value.item()
    return sums


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


def _check_finite(values: Mapping[str, float], step: int, folder: Path) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            fix = f"lower optimizer.lr or use precision=fp32 (nothing was updated; {last_good(folder)})"
            raise UserError(f"the {name} of step {step + 1} is {value}", fix=fix)


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """A list that gets an entry when Ctrl-C or SIGTERM arrives: a step is never torn. A second Ctrl-C ends at once."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

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
