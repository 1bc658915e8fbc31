"""The processes ("ranks") of one job, as torchrun or any launcher that sets RANK and WORLD_SIZE starts them."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bedplate.errors import UserError

Value = TypeVar("Value")
PATIENCE = timedelta(days=1)  # for what rank 0 does alone, such as tokenizing; a rank that is lost is noticed at once
_patient: list[dist.ProcessGroup] = []  # the group for words between ranks, while this process is part of a job


def rank() -> int:
    """The number of this process in its job; 0 leads, writes files and speaks."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes the job has."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """Where this process computes: the GPU of its local rank, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


@contextmanager
def joined() -> Iterator[None]:
    """Take part in the job that the environment describes, if it does; leave it at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    here = device()
    if here.type == "cuda":
        torch.cuda.set_device(here)
    # A restarted job must not find the addresses that processes of its last attempt left in the launcher's store.
    store, number, size = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=size)
    _patient.append(dist.new_group(backend="gloo", timeout=PATIENCE))  # pyrefly: ignore[bad-argument-type]
    try:
        yield
        barrier()  # no rank leaves while another still listens to it
    except (RuntimeError, dist.DistError) as error:
        if not _is_lost_connection(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        cause = f"rank {rank()} lost the other processes of the job: one of them ended or was killed ({reason})"
        raise UserError(cause, fix="look for its message, then go on with: bedplate train --resume RUN") from error
    finally:
        _patient.clear()
    # Not after an error: it would wait for what other ranks are in the middle of, and they for this one to end.
    dist.destroy_process_group()


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier(group=_group())


def from_leader(value: Any) -> Any:
    """The value that rank 0 has, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_group())
    return box[0]


def leader_first(function: Callable[[], Value]) -> Value | None:
    """Call a function on rank 0 before the others go on; they get None, and all get its UserError."""
    result, mistake = None, None
    if rank() == 0:
        try:
            result = function()
        except UserError as error:
            mistake = error
    if (mistake := from_leader(mistake)) is not None:
        raise mistake
    return result


def decided(function: Callable[[], Value]) -> Value:
    """What a function gives on rank 0, or its UserError, on every rank: what they read on their own may differ."""
    return from_leader(leader_first(function))


def from_all(value: Any) -> list[Any]:
    """The values of all ranks, in order."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=_group())
    return values


def summed(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor summed over all ranks, in one message."""
    if not dist.is_initialized() or not values:
        return dict(values)
    flat = torch.cat([value.detach().double().flatten() for value in values.values()])
    dist.all_reduce(flat)
    parts = flat.split([value.numel() for value in values.values()])
    return {
        name: part.reshape(value.shape).to(value.dtype)
        for (name, value), part in zip(values.items(), parts, strict=True)
    }


def _group() -> dist.ProcessGroup | None:
    return _patient[0] if _patient else None


def _is_lost_connection(error: BaseException) -> bool:
    words = ("connection closed", "connection reset", "broken pipe", "timed out", "remote process", "gloo", "nccl")
    return any(word in str(error).lower() for word in words)
