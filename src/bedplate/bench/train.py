"""`bedplate bench train`: one optimizer step of GPT-2, ours against transformers' model in a plain loop."""

import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from bedplate.bench.measure import Row, peak_memory, print_own_peak, take_turns
from bedplate.errors import require
from bedplate.models.gpt2 import GPT2, HF, SIZES
from bedplate.objectives.next_token import NextToken
from bedplate.train.loop import Settings, accumulate
from bedplate.train.optimizer import AdamW, clip_gradients
from bedplate.train.parallel import Work
from bedplate.train.precision import autocast

Step = Callable[[], float]


def run(*, size: str = "gpt2", batch: int = 4, length: int = 256, repeats: int = 5) -> list[Row]:
    """Tokens per second and peak memory of a training step, in both precisions."""
    rows = []
    for precision in ("fp32", "bf16"):
        seconds = take_turns(
            *(make(size, precision, batch, length) for make in (ours_step, peer_step)), repeats=repeats
        )
        speed = [batch * length / s for s in seconds]
        name = f"train {size} {precision} {batch}x{length}"
        rows.append(Row(name=name, ours=speed[0], peer=speed[1], unit="tokens/s", higher_is_better=True))
        what = (size, precision, str(batch), str(length))
        memory = [peak_memory("bedplate.bench.train", side, *what) for side in ("ours", "peer")]
        rows.append(Row(name=f"{name}, peak memory", ours=memory[0], peer=memory[1], unit="GB", higher_is_better=False))
    return rows


def ours_step(size: str, precision: str, batch_size: int, length: int) -> Step:
    """One step as the training loop makes it; returns the loss."""
    torch.manual_seed(0)
    model = GPT2(replace(SIZES[size], dropout=0.0)).train()
    settings = Settings(steps=1, micro_batch_size=batch_size, precision=precision)
    work, optimizer = Work(model), AdamW().build(model)
    ids = _ids(batch_size, length)
    batch = {"ids": ids[:, :-1], "targets": ids[:, 1:]}

    def step() -> float:
        sums = accumulate(work, NextToken(), batch, 0, settings)
        count = sums["count"].item()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(count)
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return sums["loss"].item() / count

    return step


def peer_step(size: str, precision: str, batch_size: int, length: int) -> Step:
    """The loop that transformers' documentation shows, with clipping; returns the loss."""
    transformers = require("transformers", extra="dev")
    torch.manual_seed(0)
    values = HF.config_to(replace(SIZES[size], dropout=0.0))
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**values)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, weight_decay=0.1)
    ids = _ids(batch_size, length)

    def step() -> float:
        with autocast(precision, ids.device):
            loss = model(input_ids=ids[:, :-1], labels=ids[:, :-1], shift_labels=ids[:, 1:].contiguous()).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def _ids(batch: int, length: int) -> Tensor:
    return torch.randint(50257, (batch, length + 1), generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    side, size, precision, batch, length = sys.argv[1:]
    step = {"ours": ours_step, "peer": peer_step}[side](size, precision, int(batch), int(length))
    for _ in range(2):
        step()
    print_own_peak()
