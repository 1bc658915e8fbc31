"""`bedplate bench model` of a RetNet: what its forms are for, reading in chunks and writing at a constant cost."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from bedplate.bench.measure import Row, take_turns
from bedplate.models.retnet import SIZES, RetNet
from bedplate.nn.retention import retain_parallel
from bedplate.train import ranks

READ, NEAR, FAR = 8192, 64, 16_384  # tokens that are read at once; positions at which tokens are written


def bench(
    size: str, *, repeats: int, read: int = READ, far: int = FAR, watch: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Reading a text, beside the parallel form of the same model; writing a token far out, beside one of the first."""
    torch.manual_seed(0)
    model = RetNet(replace(SIZES[size], context_length=2 * far)).to(ranks.device()).eval()
    parallel = copy.deepcopy(model)
    blocks: Any = parallel.blocks
    for block in blocks:
        block.retention.form = retain_parallel
    ids = torch.randint(model.config.vocab_size, (1, read), device=ranks.device())
    watch(f"reading {read} tokens ...")
    sides = take_turns(_reading(model, ids), _reading(parallel, ids), repeats=repeats)
    rows = [_row(f"read {size} fp32 1x{read}", read, sides, "parallel form")]
    watch(f"writing at positions {NEAR} and {far} ...")
    sides = take_turns(_writing(model, far), _writing(model, NEAR), repeats=20 * repeats)
    rows.append(_row(f"write {size} fp32 at position {far}", 1, sides, f"at position {NEAR}"))
    return rows


def _row(name: str, tokens: int, seconds: tuple[float, float], peer: str) -> dict[str, Any]:
    ours, theirs = (tokens / each for each in seconds)
    row = Row(name=name, ours=ours, peer=theirs, unit="tokens/s", higher_is_better=True)
    return row.line() | {"peer name": peer}


def _reading(model: RetNet, ids: torch.Tensor) -> Callable[[], None]:
    def side() -> None:
        with torch.inference_mode():
            model.features(ids)

    return side


def _writing(model: RetNet, position: int) -> Callable[[], None]:
    """A token behind so many others; what these were does not change its cost."""
    state = model.new_state(1)
    for layer in state:
        layer.count(position)
    token = torch.zeros(1, 1, dtype=torch.long, device=ranks.device())

    def side() -> None:
        with torch.inference_mode():
            model(token, state=state)

    return side
