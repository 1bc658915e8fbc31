"""Training checkpoints: `checkpoints/step-N/` folders that appear whole, with hashes and all that resuming needs.

What one rank holds is written as safetensors. What ranks hold in parts is written by torch.distributed.checkpoint,
each rank its own, and read by any other number of ranks.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed_checkpoint
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor

from bedplate.errors import UserError
from bedplate.files import (
    atomic_folder,
    read_json_object,
    remove_folder,
    remove_leftovers,
    sha256_file,
    write_json,
)
from bedplate.train import ranks
from bedplate.train.run import rewind_metrics

WEIGHTS, TRAINING, ABOUT, SHARDS = "weights.safetensors", "training.safetensors", "checkpoint.json", ".metadata"
MODEL, OPTIMIZER = "model.", "optimizer."


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything that decides how a run goes on, beside the step: what a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    companion: nn.Module | None = None
    average: nn.Module | None = None
    source: Any = None  # when it has `state()` and `restore(tensors)`

    def modules(self) -> dict[str, nn.Module]:
        """The parts that are modules, by the prefix of their names."""
        parts = {MODEL: self.model, "companion.": self.companion, "average.": self.average}
        return {prefix: part for prefix, part in parts.items() if part is not None}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, such as `model.final_norm.weight` and `optimizer.model.final_norm.weight.exp_avg`."""
        found: dict[str, Tensor] = {}
        for prefix, part in self.modules().items():
            found |= {f"{prefix}{name}": tensor.detach() for name, tensor in part.state_dict().items()}
        for name, parameter in self.trained():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"{OPTIMIZER}{name}.{key}"] = torch.as_tensor(value)
        if hasattr(self.source, "state"):
            found |= {f"source.{name}": tensor for name, tensor in self.source.state().items()}
        return found

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that the optimizer moves, by name."""
        moved = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        for prefix, part in self.modules().items():
            yield from ((f"{prefix}{name}", each) for name, each in part.named_parameters() if id(each) in moved)


def save_checkpoint(folder: Path, step: int, state: State, *, sharded: bool, kept: set[int], keep: int) -> None:
    """Write the state after `step` updates; forget all but the newest `keep` checkpoints and those of steps `kept`."""
    target = checkpoint_path(folder, step)
    try:
        with _one_folder(target) as temporary:
            tensors = state.tensors()
            if sharded:
                distributed_checkpoint.save(dict(tensors), checkpoint_id=temporary)
            elif ranks.rank() == 0:
                weights = {name.removeprefix(MODEL): part for name, part in tensors.items() if name.startswith(MODEL)}
                save_file(_owned(weights), temporary / WEIGHTS)
                rest = {name: part for name, part in tensors.items() if not name.startswith(MODEL)}
                save_file(_owned(rest), temporary / TRAINING)
            if ranks.rank() == 0:
                hashes = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
                write_json(temporary / ABOUT, {"step": step, "sha256": hashes})
    except (OSError, SafetensorError, distributed_checkpoint.CheckpointException) as error:
        reason = _reason(error)
        cause = f"the checkpoint of step {step} could not be written ({reason}); {last_good(folder, other_than=target)}"
        raise UserError(cause, fix=f"free space or fix permissions, then: bedplate train --resume {folder}") from error
    if ranks.rank() == 0:
        for old in [path for path in list_checkpoints(folder) if step_of(path) <= step][:-keep]:
            if step_of(old) not in kept:
                with suppress(OSError):  # what cannot be removed stays
                    remove_folder(old)


def rewind(folder: Path, step: int, *, resumed: bool) -> None:
    """Make a run's folder what it was after `step` updates, without what killed processes left.

    The checkpoints beyond the one that a run is resumed from are damaged, or it would be one of them: they go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rewind_metrics(folder, step)
    remove_leftovers(folder / "checkpoints")
    for path in list_checkpoints(folder):
        if resumed and step_of(path) > step:
            with suppress(OSError):
                remove_folder(path)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` updates lies."""
    return folder / "checkpoints" / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The updates made before this checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first. A write that was cut off is not among them."""
    return sorted(path for path in (folder / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def newest_checkpoint(folder: Path) -> Path:
    """The newest checkpoint whose files match their hashes; damaged ones are passed over. None is a UserError."""
    damaged = []
    for path in reversed(list_checkpoints(folder)):
        if is_intact(path):
            return path
        damaged.append(path.name)
    if damaged:
        raise UserError(f"every checkpoint in {folder} is damaged ({', '.join(damaged)})", fix="start the run again")
    raise UserError(f"{folder} has no checkpoint yet", fix="let the run reach its first one, or start it again")


def last_good(folder: Path, *, other_than: Path | None = None) -> str:
    """For messages: where the last checkpoint is, if there is one."""
    found = [path for path in list_checkpoints(folder) if path != other_than]
    return f"the last checkpoint is {found[-1]}" if found else "there is no checkpoint yet"


def load_weights(checkpoint: Path, model: nn.Module, *, averaged: bool = False) -> None:
    """Fill a model with a checkpoint's weights, or with their average where the run kept one."""
    prefix = "average." if averaged else MODEL
    targets = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    _fill(targets, checkpoint, _content(checkpoint, training=averaged), alone=True)


def load_checkpoint(checkpoint: Path, state: State) -> int:
    """Restore everything; returns the number of updates made."""
    content = _content(checkpoint)
    targets = {name: tensor for name, tensor in state.tensors().items() if not name.startswith(("source.", OPTIMIZER))}
    for name, parameter in state.trained():
        values = {}
        for full, saved in content.items():
            key = full.removeprefix(f"{OPTIMIZER}{name}.")
            if key != full and "." not in key:
                here = parameter.device  # the fused optimizer wants even its count of steps beside its weights
                own = saved.shape == parameter.shape and saved.ndim
                like = parameter.detach() if own else torch.empty(saved.shape, device=here)
                values[key] = targets[full] = torch.zeros_like(like, dtype=saved.dtype)
        if values:
            state.optimizer.state[parameter] = values
    played = {name: torch.empty_like(saved, device="cpu") for name, saved in content.items() if "source." in name[:7]}
    _fill(targets | played, checkpoint, content)
    if played:
        state.source.restore({name.removeprefix("source."): tensor for name, tensor in played.items()})
    return read_json_object(checkpoint / ABOUT)["step"]


def _content(checkpoint: Path, *, training: bool = True) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; where ranks hold parts, only what they are like (on the device `meta`)."""
    if (checkpoint / SHARDS).exists():
        entries = distributed_checkpoint.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
        return {
            name: torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
            for name, entry in entries.items()
            if isinstance(entry, TensorStorageMetadata)
        }
    weights = {f"{MODEL}{name}": tensor for name, tensor in load_file(checkpoint / WEIGHTS).items()}
    return weights | load_file(checkpoint / TRAINING) if training else weights


def _fill(
    targets: Mapping[str, Tensor], checkpoint: Path, content: Mapping[str, Tensor], *, alone: bool = False
) -> None:
    """Copy tensors into place by name, whole or this rank's parts; `alone`: without the other ranks."""
    if any(name not in content or content[name].shape != target.shape for name, target in targets.items()):
        cause = f"the tensors in {checkpoint} belong to a model or objective of other sizes"
        raise UserError(cause, fix="resume with the settings that the run began with")
    if (checkpoint / SHARDS).exists():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process may read it, too
            distributed_checkpoint.load(dict(targets), checkpoint_id=checkpoint, no_dist=alone)
        return
    for name, target in targets.items():
        value = content[name]
        if isinstance(target, DTensor):
            value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
        target.detach().copy_(value)


@contextmanager
def _one_folder(target: Path) -> Iterator[Path]:
    """The same new folder on every rank; it takes its place when all have written."""
    if ranks.world_size() == 1:
        with atomic_folder(target) as temporary:
            yield temporary
    elif ranks.rank() == 0:
        with atomic_folder(target) as temporary:
            ranks.from_leader(temporary)
            yield temporary
        ranks.barrier()
    else:
        yield ranks.from_leader(None)
        ranks.barrier()


def is_intact(path: Path) -> bool:
    """Whether a checkpoint is whole: every file that its record lists has the recorded hash."""
    try:
        about = read_json_object(path / ABOUT)
        hashes = about["sha256"]
        complete = isinstance(about["step"], int) and (WEIGHTS in hashes or SHARDS in hashes)
        return complete and all(sha256_file(path / name) == digest for name, digest in hashes.items())
    except (UserError, OSError, KeyError, TypeError, AttributeError):
        return False


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, and each with memory of its own: safetensors refuses tied tensors."""
    owned: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        owned[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return owned


def _reason(error: BaseException) -> str:
    """What went wrong, in a line; of several ranks, on the first that failed."""
    if isinstance(error, distributed_checkpoint.CheckpointException) and error.failures:
        number, (first, _) = next(iter(error.failures.items()))
        return f"on rank {number}: {getattr(first, 'strerror', None) or first}"
    return getattr(error, "strerror", None) or str(error).splitlines()[0]  # safetensors wraps a full disk
