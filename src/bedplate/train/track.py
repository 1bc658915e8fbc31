"""Where a run can be watched: TensorBoard events in its folder, and Weights & Biases or MLflow when asked for.

A tracker only looks on. One that fails, at its start or later, is dropped with one line of warning; the run goes on.
"""

import os
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from bedplate.errors import UserError, nearest, require
from bedplate.files import read_json_object, write_json
from bedplate.train.run import read_metrics

REMEMBERED = "trackers.json"  # the ids of a run elsewhere, so that it goes on there when it is resumed here
EVENTS = "events.out.tfevents."
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
WAITING, PATIENCE = 10_000, 60.0  # steps that may wait for a slow server; seconds to wait for it at the end


@runtime_checkable
class Tracker(Protocol):
    """What every tracker can do."""

    def log(self, step: int, measures: dict[str, float]) -> None: ...

    def close(self, ended: str) -> None: ...


class TensorBoard:
    """An event file in the run folder, one record a step.

    torch's SummaryWriter would start a thread that prints a traceback when the disk is full, keep two minutes in
    memory, which a kill loses, and take several times longer. Here each record is handed to the system at once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None
        self._message: Any = None

    def log(self, step: int, measures: dict[str, float]) -> None:
        """Write a record; the first one begins a file."""
        if self._writer is None:
            self._begin(step)
        values = [{"tag": name, "simple_value": value} for name, value in measures.items()]
        self._write(step=step, summary={"value": values})

    def close(self, ended: str) -> None:
        """Nothing waits to be written."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, step: int) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        # TensorBoard reads files in the order of their names, and a resumed run may begin in the second it was killed.
        before = [int(path.name.removeprefix(EVENTS)) for path in self.folder.glob(f"{EVENTS}*")]
        number = max([int(time.time()), *(number + 1 for number in before)])
        self._writer = RecordWriter((self.folder / f"{EVENTS}{number:010d}").open("xb"))
        self._message = vars(event_pb2)["Event"]  # made at run time, where no type checker sees it
        self._write(file_version="brain.Event:2")
        # A session that starts at a step purges what an earlier file holds from there on: SummaryWriter's purge_step.
        self._write(step=step, session_log={"status": "START"})

    def _write(self, **fields: Any) -> None:
        try:
            self._writer.write(self._message(wall_time=time.time(), **fields).SerializeToString())
            self._writer.flush()
        except OSError:  # a full disk: what waits must not be written later, behind the gap
            with suppress(OSError):
                self._writer.close()
            raise


class WeightsAndBiases:
    """A run on wandb.ai, on the user's own server, or offline: what the environment (WANDB_MODE and others) says."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        wandb = self.library()
        identity = _remember(folder, "wandb", {"id": uuid.uuid4().hex[:12]})["id"]
        project = os.environ.get("WANDB_PROJECT", "bedplate")
        self._run = wandb.init(
            project=project, name=folder.resolve().name, config=dict(settings), dir=folder, id=identity, resume="allow"
        )

    @staticmethod
    def library() -> ModuleType:
        """The library, or a UserError that says how to install it."""
        return require("wandb", extra="wandb")

    def log(self, step: int, measures: dict[str, float]) -> None:
        """Send the measures of a step."""
        self._run.log(measures, step=step)

    def close(self, ended: str) -> None:
        """Wait until everything is sent."""
        self._run.finish(exit_code=int(ended == FAILED))


class MLflow:
    """A run in the store that the environment or MLflow's own default names."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._mlflow = mlflow = self.library()
        known = _remembered(folder).get("mlflow")
        # MLflow's default store lies in the working folder, which may be another one when the run is resumed.
        if known and known["store"] and not mlflow.is_tracking_uri_set():
            mlflow.set_tracking_uri(known["store"])
        store = (
            None if mlflow.is_tracking_uri_set() else mlflow.get_tracking_uri()
        )  # one that is set may hold a password
        run = mlflow.start_run(run_name=folder.resolve().name, run_id=known["id"] if known else None)
        self._identity = run.info.run_id
        if not known:  # MLflow refuses to change a parameter, as a resumed run may
            _remember(folder, "mlflow", {"id": self._identity, "store": store})
            mlflow.log_params(dict(settings))
        self._background = Background(self._send)

    @staticmethod
    def library() -> ModuleType:
        """The library, or a UserError that says how to install it."""
        return require("mlflow", extra="mlflow")

    def log(self, step: int, measures: dict[str, float]) -> None:
        """Note the measures of a step, to be sent."""
        self._background.put(step, measures)

    def close(self, ended: str) -> None:
        """Wait until everything is stored."""
        self._background.finish()
        self._mlflow.end_run({FINISHED: "FINISHED", STOPPED: "KILLED", FAILED: "FAILED"}[ended])

    def _send(self, step: int, measures: dict[str, float]) -> None:
        self._mlflow.log_metrics(measures, step=step, run_id=self._identity)


class Background:
    """A thread that sends, so that a slow server costs no training time. The next call raises what went wrong in it.

    MLflow's own asynchronous logging would print an error for every step that is lost, and tell nobody else.
    """

    def __init__(self, send: Callable[[int, dict[str, float]], None]) -> None:
        self._send = send
        self._waiting: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(WAITING)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def put(self, step: int, measures: dict[str, float]) -> None:
        """Send this after all that waits."""
        if self._failure:
            raise self._failure
        if self._waiting.full():
            raise TimeoutError(f"it is {WAITING} steps behind")
        self._waiting.put((step, measures))

    def finish(self) -> None:
        """Wait until all is sent, for a while."""
        if not self._waiting.full():
            self._waiting.put(None)
            self._thread.join(PATIENCE)
        if self._failure or self._thread.is_alive():
            raise self._failure or TimeoutError("it did not answer in time")

    def _work(self) -> None:
        try:
            while item := self._waiting.get():
                self._send(*item)
        except Exception as error:
            self._failure = error


TRACKERS = {"wandb": WeightsAndBiases, "mlflow": MLflow}


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError for a tracker that does not exist or is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"there is no tracker {name!r}", fix=nearest(name, TRACKERS))
        TRACKERS[name].library()


@contextmanager
def tracked(
    folder: Path, names: Sequence[str], settings: Mapping[str, Any], *, watch: Callable[[dict[str, Any]], None]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function to call with each logged line: the trackers see it, then `watch`. They are told how the run ended."""
    trackers: dict[str, Tracker] = {"tensorboard": TensorBoard(folder)}
    # What a killed run had logged after its checkpoint is logged again, bit for bit; elsewhere it has been seen.
    seen = max((line["step"] for line in read_metrics(folder)), default=0) if names else 0
    step = 0
    for name in dict.fromkeys(names):
        with _dropped_when_it_fails(trackers, name):
            trackers[name] = TRACKERS[name](folder, settings)

    def note(metrics: dict[str, Any]) -> None:
        nonlocal step
        step = metrics["step"]
        measures = measures_of(metrics)
        for name, tracker in list(trackers.items()):
            if name == "tensorboard" or step > seen:
                with _dropped_when_it_fails(trackers, name):
                    tracker.log(step, measures)
        watch(metrics)

    ended = FAILED
    try:
        yield note
        ended = STOPPED if 0 < step < settings["steps"] else FINISHED
    except KeyboardInterrupt:
        ended = STOPPED
        raise
    finally:
        for name, tracker in list(trackers.items()):
            with _dropped_when_it_fails(trackers, name):
                tracker.close(ended)


def measures_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a logged line under names in groups: train/loss, held_out/bits_per_byte, time/data_seconds."""
    return {
        _grouped(name): float(value)
        for name, value in metrics.items()
        if name != "step" and isinstance(value, (int, float))
    }


def tracker_names(folder: Path) -> list[str]:
    """The trackers, besides TensorBoard, that a run has used."""
    try:
        return [name for name in _remembered(folder) if name in TRACKERS]
    except UserError:  # damaged; a run can go on without
        return []


def _grouped(name: str) -> str:
    if name.startswith("held_out_"):
        return f"held_out/{name.removeprefix('held_out_')}"
    return f"time/{name}" if name.endswith(("seconds", "per_second")) else f"train/{name}"


def _remembered(folder: Path) -> dict[str, Any]:
    path = folder / REMEMBERED
    return read_json_object(path) if path.exists() else {}


def _remember(folder: Path, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """What the run folder says of a tracker; `entry`, from now on, when it says nothing yet."""
    known = _remembered(folder)
    if name not in known:
        known[name] = entry
        write_json(folder / REMEMBERED, known)
    return known[name]


@contextmanager
def _dropped_when_it_fails(trackers: dict[str, Tracker], name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is, it is not worth a run
        trackers.pop(name, None)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        with suppress(OSError, ValueError):  # nobody may be listening
            print(f"warning: {name} failed ({reason}); the run goes on without it", file=sys.stderr, flush=True)
