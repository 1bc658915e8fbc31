"""How the ranks of a job share the work of a step, on torch's own engines. Models contain nothing of it.

Blocks are found as the children of ModuleLists, linear layers by the uniform names of their parts.
"""

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from bedplate.errors import UserError, nearest
from bedplate.nn.position import Alibi
from bedplate.train import ranks

STRATEGIES = {
    "ddp": "every rank holds the model and sees a part of the batch",
    "fsdp": "ranks hold shards of every block, and see a part of the batch (FSDP2)",
    "tp": "ranks hold parts of every layer, and see the same batch (tensor parallel)",
}
# The plan of tensor parallelism: column-wise layers need no message, row-wise ones add up their parts.
COLUMNS = ("attention.query", "attention.key", "attention.value", "mlp.up", "mlp.gate")
ROWS = ("attention.out", "mlp.down")


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How a step is computed. Nothing here changes what is learned, beyond rounding."""

    strategy: str = "ddp"
    offload: bool = False  # fsdp on a GPU: parameters, gradients and moments wait in the memory of the CPU
    checkpointing: bool = False  # blocks compute their activations again in the backward pass
    compile: bool = False  # torch.compile, block by block

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UserError(f"there is no strategy {self.strategy!r}", fix=nearest(self.strategy, STRATEGIES))
        if self.offload and self.strategy != "fsdp":
            raise UserError(f"{self.strategy} keeps all parameters on the device", fix="use fsdp with offload")


class Work:
    """A model and its companion, arranged over the ranks. Losses and evaluations run inside `inside`."""

    def __init__(
        self,
        model: nn.Module,
        companion: nn.Module | None = None,
        average: nn.Module | None = None,
        *,
        parallel: Parallel | None = None,
        precision: str = "fp32",
    ) -> None:
        parallel = parallel or Parallel()
        self.model, self.companion, self.strategy = model, companion, parallel.strategy
        self.device = next(model.parameters()).device
        self.sharded = ranks.world_size() > 1 and parallel.strategy in ("fsdp", "tp")
        shares_batch = ranks.world_size() > 1 and parallel.strategy != "tp"
        self.rank, self.world = (ranks.rank(), ranks.world_size()) if shares_batch else (0, 1)
        self.copies = ranks.world_size() // self.world  # ranks that compute the same items
        holder: nn.Module = _Inside(model, companion)
        self._used = model if average is None else average
        self._measured: nn.Module = holder if average is None else _Inside(average, None)
        if ranks.world_size() > 1 and parallel.strategy == "tp":
            for each in (model, average):
                if each is not None:
                    _split_layers(each)
        for block in blocks_of(model):
            if parallel.checkpointing:
                block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
            if parallel.compile:
                block.compile()
        if shares_batch and parallel.strategy == "fsdp":
            self.device = ranks.device()  # where blocks come together, wherever their shards rest
            _shard(self._measured, self._used, offload=parallel.offload, precision=precision, trained=average is None)
            if average is not None:
                _shard(holder, model, offload=parallel.offload, precision=precision)
        elif shares_batch and any(parameter.requires_grad for parameter in holder.parameters()):
            # The parameters of a companion may rest in some steps.
            resting = companion is not None and any(each.requires_grad for each in companion.parameters())
            holder = DistributedDataParallel(holder, find_unused_parameters=resting, gradient_as_bucket_view=True)
        self.holder = holder

    def add_up(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the whole batch from those of each rank."""
        return {name: total / self.copies for name, total in ranks.summed(sums).items()}

    def inside(self, function: Callable[[], Any]) -> Any:
        """Call a function that uses the model: as a forward pass of what holds it, so that shards come together."""
        return self.holder(function)

    def measured(self, function: Callable[[nn.Module], Any]) -> Any:
        """Call a function with the model as others will use it: its averaged weights, where there are any."""
        result = self._measured(functools.partial(function, self._used))
        if isinstance(self._measured, FSDPModule) and self._measured is not self.holder:
            # Only a backward pass would clear what each forward pass of an average notes.
            self._measured._get_fsdp_state()._comm_ctx.post_forward_order.clear()
        return result

    def reduced(self, last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward pass of a micro-batch: only the last one sends gradients."""
        if isinstance(self.holder, FSDPModule):
            self.holder.set_requires_gradient_sync(last)
        return self.holder.no_sync() if isinstance(self.holder, DistributedDataParallel) and not last else nullcontext()

    def share(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """This rank's items of a global batch."""
        items = len(next(iter(batch.values())))
        if items < self.world or (self.strategy == "fsdp" and items % self.world):
            cause = f"a batch of {items} items cannot be shared by {self.world} ranks"
            raise UserError(cause, fix=f"make batch_size a multiple of {self.world}")
        start, end = (items * each // self.world for each in (self.rank, self.rank + 1))
        return {name: value[start:end] for name, value in batch.items()}


class _Inside(nn.Module):
    """Holds all that is trained; its forward pass is any function of it."""

    def __init__(self, model: nn.Module, companion: nn.Module | None) -> None:
        super().__init__()
        self.model, self.companion = model, companion

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated units of a model: the children of its outermost lists."""
    found: list[nn.Module] = []
    for child in model.children():
        found += child.children() if isinstance(child, nn.ModuleList) else blocks_of(child)
    return found


def is_sharded(tensor: Tensor) -> bool:
    """Whether ranks hold parts of this tensor."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The tensor with the parts of all ranks; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _shard(holder: nn.Module, model: nn.Module, *, offload: bool, precision: str, trained: bool = True) -> None:
    """Shard a model; what is not `trained` is sharded again after each forward pass, as no backward pass follows."""
    here = ranks.device().type
    options: dict[str, Any] = {
        "mesh": init_device_mesh(here, (ranks.world_size(),)),
        "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
    }
    # Autocast computes as it does without shards; gathering blocks in bf16 spares it its copies of their weights. The
    # residual path stays in float32. On a CPU autocast wants norms in float32.
    small = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = small if precision == "bf16" and here == "cuda" else MixedPrecisionPolicy()
    for block in blocks_of(model):
        fully_shard(block, mp_policy=policy, **options)
    fully_shard(holder, reshard_after_forward=None if trained else True, **options)


def _split_layers(model: nn.Module) -> None:
    mesh = init_device_mesh(ranks.device().type, (ranks.world_size(),))
    plan = {name: ColwiseParallel() for name in COLUMNS} | {name: RowwiseParallel() for name in ROWS}
    for block in blocks_of(model):
        heads = getattr(getattr(block, "attention", None), "num_kv_heads", 0)
        if heads % mesh.size():
            cause = f"{heads} heads cannot be split over {mesh.size()} ranks"
            raise UserError(cause, fix="choose a number of ranks that divides the number of heads")
        names = {name for name, _ in block.named_modules()}
        if heads:
            block.get_submodule("attention").register_forward_pre_hook(_own_slopes, with_kwargs=True)
        parallelize_module(block, mesh, {name: style for name, style in plan.items() if name in names})


def _own_slopes(attention: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Linear biases have a slope for every head: this rank's heads get theirs."""
    bias = options.get("bias")
    if isinstance(bias, Alibi):
        options = options | {"bias": replace(bias, slopes=bias.slopes.chunk(ranks.world_size())[ranks.rank()])}
    return inputs, options
