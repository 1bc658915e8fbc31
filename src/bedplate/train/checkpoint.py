"""Training checkpoints: `checkpoints/step-N/` folders that appear whole, with hashes and all that resuming needs."""

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bedplate.errors import UserError
from bedplate.files import atomic_folder, read_json_object, sha256_file, write_json

WEIGHTS, TRAINING, ABOUT = "weights.safetensors", "training.safetensors", "checkpoint.json"


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    companion: nn.Module | None,
    *,
    keep: int,
) -> Path:
    """Write the state after `step` updates and forget all but the newest `keep` checkpoints of the run in `folder`."""
    target = folder / "checkpoints" / f"step-{step:08d}"
    tensors, scalars = _flatten(optimizer.state_dict()["state"])
    if companion is not None:
        tensors |= {f"companion.{name}": value for name, value in companion.state_dict().items()}
    try:
        with atomic_folder(target) as temporary:
            save_file(_owned(model.state_dict()), temporary / WEIGHTS)
            save_file(_owned(tensors), temporary / TRAINING)
            hashes = {name: sha256_file(temporary / name) for name in (WEIGHTS, TRAINING)}
            write_json(temporary / ABOUT, {"step": step, "optimizer": scalars, "sha256": hashes})
    except (OSError, SafetensorError) as error:  # safetensors wraps a full disk in an error of its own
        reason = getattr(error, "strerror", None) or error
        cause = f"the checkpoint of step {step} could not be written ({reason}); {last_good(folder, other_than=target)}"
        raise UserError(cause, fix=f"free space or fix permissions, then: bedplate train --resume {folder}") from error
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first. A write that was cut off is not among them."""
    return sorted(path for path in (folder / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def newest_checkpoint(folder: Path) -> Path:
    """The newest checkpoint whose files match their hashes; damaged ones are passed over. None is a UserError."""
    damaged = []
    for path in reversed(list_checkpoints(folder)):
        if _intact(path):
            return path
        damaged.append(path.name)
    if damaged:
        raise UserError(f"every checkpoint in {folder} is damaged ({', '.join(damaged)})", fix="start the run again")
    raise UserError(f"{folder} has no checkpoint yet", fix="let the run reach its first one, or start it again")


def last_good(folder: Path, *, other_than: Path | None = None) -> str:
    """For messages: where the last checkpoint is, if there is one."""
    found = [path for path in list_checkpoints(folder) if path != other_than]
    return f"the last checkpoint is {found[-1]}" if found else "there is no checkpoint yet"


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Fill a model with a checkpoint's weights."""
    try:
        model.load_state_dict(load_file(checkpoint / WEIGHTS))
    except RuntimeError as error:
        cause = f"the weights in {checkpoint} belong to a model of other sizes"
        raise UserError(cause, fix="resume with the settings that the run began with") from error


def load_checkpoint(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, companion: nn.Module | None
) -> int:
    """Restore everything; returns the number of updates made."""
    about = read_json_object(checkpoint / ABOUT)
    load_weights(checkpoint, model)
    tensors = load_file(checkpoint / TRAINING)
    prefix = "companion."
    if companion is not None:
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        companion.load_state_dict(own)
    state = optimizer.state_dict()
    state["state"] = _unflatten({k: v for k, v in tensors.items() if not k.startswith(prefix)}, about["optimizer"])
    optimizer.load_state_dict(state)
    return about["step"]


def _intact(path: Path) -> bool:
    try:
        about = read_json_object(path / ABOUT)
        hashes = about["sha256"]
        complete = isinstance(about["step"], int) and isinstance(about["optimizer"], dict)
        return complete and all(sha256_file(path / name) == hashes[name] for name in (WEIGHTS, TRAINING))
    except (UserError, OSError, KeyError, TypeError):
        return False


def _flatten(state: dict[int, dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Optimizer state as tensors and scalars under names such as `0.exp_avg`."""
    flat = {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in flat.items() if name not in tensors}


def _unflatten(tensors: dict[str, Tensor], scalars: dict[str, Any]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **scalars}.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    return state


def _owned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
