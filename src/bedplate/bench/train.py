"""`bedplate bench train`: optimizer steps of GPT-2 and Llama over sizes, precisions, batches, strategies and ranks.

Cells of one rank are measured beside transformers' model in a plain loop, in one process; cells of more ranks in a job
of their own. The batch is per rank, so that efficiency compares equal work on each (weak scaling).
"""

import csv
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bedplate.bench.devices import matrix_rate
from bedplate.bench.measure import Row, peak_memory, print_own_peak, seconds_of, take_turns
from bedplate.bench.shape import shape_of
from bedplate.errors import UserError, nearest, require
from bedplate.models import build, gpt2, llama, published_sizes, table_of
from bedplate.objectives.next_token import NextToken
from bedplate.train import ranks
from bedplate.train.loop import Settings, accumulate
from bedplate.train.memory import memory_peak
from bedplate.train.optimizer import AdamW, clip_gradients
from bedplate.train.parallel import Parallel, Work
from bedplate.train.precision import autocast

Step = Callable[[], float]
MODULE = "bedplate.bench.train"


def sizes() -> dict[str, Any]:
    """Published decoders that the peer has, too, without dropout."""
    found = {name: each for name, each in published_sizes().items() if isinstance(each, gpt2.Config | llama.Config)}
    return {name: _without_dropout(config) for name, config in found.items()}


def _without_dropout(config: Any) -> Any:
    return replace(config, **{field.name: 0.0 for field in fields(config) if field.name.endswith("dropout")})


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination that is measured."""

    size: str = "gpt2"
    precision: str = "fp32"
    batch: int = 4  # sequences on each rank
    length: int = 256
    strategy: str = "ddp"  # matters with several ranks
    ranks: int = 1
    threads: int = 0  # of each rank; 0: as torch chooses
    checkpointing: bool = False
    compile: bool = False

    @property
    def sequences(self) -> int:
        """Of an update; tensor parallel ranks see the same ones."""
        return self.batch * (1 if self.strategy == "tp" else self.ranks)

    @property
    def name(self) -> str:
        """For a reader, such as `train gpt2 fp32 4x256` or `train gpt2 bf16 4x256, fsdp on 2 ranks`."""
        extras = [f"{self.strategy} on {self.ranks} ranks"] if self.ranks > 1 else []
        extras += [name for name in ("checkpointing", "compile") if getattr(self, name)]
        return ", ".join([f"train {self.size} {self.precision} {self.batch}x{self.length}", *extras])


def cells(
    sizes: Sequence[str],
    precisions: Sequence[str],
    batches: Sequence[int],
    strategies: Sequence[str] = ("ddp",),
    rank_counts: Sequence[int] = (1,),
    **fixed: Any,
) -> list[Cell]:
    """The grid, one rank before several: what they are compared with. One rank knows no strategy."""
    if max(rank_counts) > 1 and not torch.cuda.is_available():
        fixed |= {"threads": max(1, (os.cpu_count() or 1) // max(rank_counts))}  # equal cores for every rank
    grid = []
    for count, size, precision, batch in itertools.product(sorted(rank_counts), sizes, precisions, batches):
        for strategy in strategies if count > 1 else strategies[:1]:
            grid.append(Cell(size=size, precision=precision, batch=batch, strategy=strategy, ranks=count, **fixed))
    return grid


def run(grid: Sequence[Cell], *, repeats: int = 5, watch: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Two rows for each cell, tokens a second and peak memory of a process; a cell without room has none."""
    rows: list[dict[str, Any]] = []
    alone: dict[Cell, float] = {}
    rates: dict[str, float] = {}
    for cell in grid:
        if cell.size not in sizes():
            raise UserError(f"training {cell.size!r} is not measured", fix=nearest(cell.size, sizes()))
        watch(f"{cell.name} ...")
        if cell.threads:
            torch.set_num_threads(cell.threads)
        if cell.precision not in rates:
            rates[cell.precision] = matrix_rate(cell.precision, device=ranks.device())
        measured = _one_rank(cell, repeats) if cell.ranks == 1 else _job(cell, repeats)
        if measured is None:
            rows.append({"name": cell.name, "ours": None, "peer": None, "unit": "out of memory", "ratio": None})
            continue
        speed, peer_speed, memory, peer_memory = measured
        operations = shape_of(sizes()[cell.size]).operations(cell.length)
        if cell.ranks == 1:
            alone[replace(cell, strategy="ddp")] = speed
        base = alone.get(replace(cell, ranks=1, strategy="ddp"))
        about = {
            "mfu": speed * operations / (cell.ranks * rates[cell.precision] * 1e12),
            "efficiency": speed / (cell.ranks * base) if base else None,
            **asdict(cell),
        }
        for what, ours, peer in (("", speed, peer_speed), (", peak memory", memory, peer_memory)):
            row = Row(
                name=cell.name + what,
                ours=ours,
                peer=peer,
                unit="GB" if what else "tokens/s",
                higher_is_better=not what,
            )
            rows.append(row.line() | (asdict(cell) if what else about))
    return rows


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """All rows, one line each."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(rows)


def _one_rank(cell: Cell, repeats: int) -> tuple[float, float | None, float, float | None] | None:
    """Tokens a second and gigabytes, ours and transformers'."""
    tokens = cell.batch * cell.length
    try:
        seconds = take_turns(ours_step(cell), peer_step(cell), repeats=repeats)
        memory = [peak_memory(MODULE, side, json.dumps(asdict(cell))) for side in ("ours", "peer")]
    except torch.OutOfMemoryError:
        return None
    return tokens / seconds[0], tokens / seconds[1], memory[0], memory[1]


def _job(cell: Cell, repeats: int) -> tuple[float, None, float, None] | None:
    """The same of a job of several ranks: its speed, and the memory of its largest process."""
    launcher = ("torch.distributed.run", "--standalone", f"--nproc-per-node={cell.ranks}")
    command = [sys.executable, "-m", *launcher, "-m", MODULE, "job", json.dumps(asdict(cell)), str(repeats)]
    environment = os.environ | ({"OMP_NUM_THREADS": str(cell.threads)} if cell.threads else {})
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "OutOfMemoryError" in result.stderr:
        return None
    if result.returncode:
        mistakes = [line for line in result.stderr.splitlines() if "error: " in line]
        cause = mistakes[0].partition("error: ")[2] if mistakes else (result.stderr.strip() or "no message")[-300:]
        raise UserError(f"{cell.name} failed ({cause})", fix="leave this combination out")
    speed, memory = (float(word) for word in result.stdout.split()[-2:])
    return speed, None, memory, None


def ours_step(cell: Cell) -> Step:
    """One step as the training loop makes it; returns the loss."""
    device = ranks.device()
    torch.manual_seed(0)
    model = build(sizes()[cell.size]).to(device).train()
    parallel = Parallel(strategy=cell.strategy, checkpointing=cell.checkpointing, compile=cell.compile)
    settings = Settings(steps=1, micro_batch_size=cell.batch, precision=cell.precision)
    work = Work(model, parallel=parallel, precision=cell.precision)
    optimizer = AdamW().build(model)
    ids = _ids(cell, cell.sequences).to(device)
    batch = work.share({"ids": ids[:, :-1], "targets": ids[:, 1:]})

    def step() -> float:
        sums = accumulate(work, NextToken(), batch, 0, settings)
        count = sums["count"].item()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(count / work.world)
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return sums["loss"].item() / count

    return step


def peer_step(cell: Cell) -> Step:
    """The loop that transformers' documentation shows, with clipping; returns the loss."""
    transformers = require("transformers", extra="dev")
    transformers.utils.logging.set_verbosity_error()
    device = ranks.device()
    torch.manual_seed(0)
    config = sizes()[cell.size]
    with torch.device("meta"):
        values = table_of(build(config)).config_to(config)
    theirs = transformers.AutoConfig.for_model(**values)
    model = transformers.AutoModelForCausalLM.from_config(theirs).to(device).train()
    if cell.checkpointing:
        model.gradient_checkpointing_enable()
    forward = torch.compile(model) if cell.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, weight_decay=0.1, fused=device.type == "cuda")
    ids = _ids(cell, cell.batch).to(device)

    def step() -> float:
        with autocast(cell.precision, ids.device):
            loss = forward(input_ids=ids[:, :-1], labels=ids[:, :-1], shift_labels=ids[:, 1:].contiguous()).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def _ids(cell: Cell, sequences: int) -> Tensor:
    vocab = sizes()[cell.size].vocab_size
    return torch.randint(vocab, (sequences, cell.length + 1), generator=torch.Generator().manual_seed(0))


def _measure_job(cell: Cell, repeats: int) -> None:
    """What each rank of a job does; the first one prints the result."""
    with ranks.joined():
        seconds = seconds_of(ours_step(cell), repeats=repeats)
        memory = max(ranks.from_all(memory_peak()))
        if ranks.rank() == 0:
            print(cell.sequences * cell.length / seconds, memory)


if __name__ == "__main__":
    side, words = sys.argv[1:3]
    cell = Cell(**json.loads(words))
    if cell.threads:
        torch.set_num_threads(cell.threads)
    try:
        if side == "job":
            _measure_job(cell, int(sys.argv[3]))
        else:
            step = {"ours": ours_step, "peer": peer_step}[side](cell)
            for _ in range(2):  # moments exist from the second on
                step()
            print_own_peak()
    except UserError as error:
        sys.exit(f"error: {error}")
