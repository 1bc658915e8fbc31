"""Four kinds of learning in miniature, which the contract of source and objective must carry without a branch.

Each is a (model, source, objective); all are float64 and tiny. `python -m torch.distributed.run ... miniatures.py
JOBS` trains some of them; the tests compare logs and checkpoints.
"""

import copy
import json
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call

from bedplate.models.gpt2 import GPT2, Config
from bedplate.objectives.next_token import NextToken
from bedplate.objectives.objective import Loss
from bedplate.train import ranks
from bedplate.train.loop import Settings, train
from bedplate.train.optimizer import AdamW
from bedplate.train.parallel import Parallel
from bedplate.train.schedule import WarmupCosine

DIM = 8


class Network(nn.Module):
    """Blocks with a residual path; a part that rarely learns, and dropout."""

    def __init__(self, outputs: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Linear(DIM, DIM)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(DIM, DIM), nn.Tanh()) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(DIM, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for block in self.blocks:
            x = x + block(self.dropout(x))
        return self.head(x)


@dataclass(frozen=True)
class Points:
    """Eight random points a step, with a list of boxes each."""

    def batch(self, step: int) -> dict[str, Any]:
        chance = torch.Generator().manual_seed(step)
        x = torch.randn(8, 2, DIM, generator=chance, dtype=torch.float64)
        boxes = [torch.randn(1 + (step + n) % 3, 2, generator=chance, dtype=torch.float64) for n in range(8)]
        return {"x": x, "boxes": boxes, "items_per_box": torch.full((8,), 8 / sum(map(len, boxes))).double()}


@dataclass(frozen=True)
class SelfDistillation:
    """A momentum teacher with a center over the whole batch; the head waits three steps (DINO)."""

    def setup(self, model: nn.Module) -> nn.Module:
        companion = nn.Module()
        companion.teacher = copy.deepcopy(model).requires_grad_(False)
        companion.register_buffer("center", torch.zeros(4, dtype=torch.float64))
        return companion

    def loss(self, model: Any, batch: Any, companion: Any, step: int) -> Loss:
        first, second = batch["x"].unbind(1)
        with torch.no_grad():
            teacher = companion.teacher(first)
        target = ((teacher - companion.center) / 0.1).softmax(-1)
        total = -(target * model(second).log_softmax(-1)).sum()
        return Loss(total=total, count=torch.tensor(len(first)), sums={"outputs": teacher.sum(0)})

    def before_step(self, model: Any, companion: Any, step: int, sums: Any) -> None:
        if step < 3:
            for parameter in model.head.parameters():
                parameter.grad = None

    def after_step(self, model: Any, companion: Any, step: int, sums: Any) -> None:
        companion.center.lerp_(sums["outputs"] / sums["count"], 0.1)
        with torch.no_grad():
            for mean, parameter in zip(companion.teacher.parameters(), model.parameters(), strict=True):
                mean.lerp_(parameter, 0.05)


@dataclass(frozen=True)
class SetPrediction:
    """Three guesses of a point each matched to the true ones (DETR); the denominator is a fact of the whole batch."""

    def loss(self, model: Any, batch: Any, companion: None, step: int) -> Loss:
        guesses = model(batch["x"][:, 0]).unflatten(-1, (3, 2))
        total = guesses.sum() * 0
        for guess, true in zip(guesses, batch["boxes"], strict=True):
            costs = torch.cdist(guess, true, p=1)
            rows, columns = linear_sum_assignment(costs.detach().numpy())
            total = total + batch["items_per_box"][0] * costs[rows, columns].sum()
        return Loss(total=total, count=torch.tensor(len(guesses)))


class Games:
    """A source that plays with the live policy: a phase of two updates on what was played at its beginning."""

    def __init__(self) -> None:
        self.played: dict[str, Tensor] = {}

    def attach(self, model: nn.Module, companion: nn.Module | None) -> None:
        self.model = model

    def batch(self, step: int) -> dict[str, Any]:
        if step % 2 == 0:
            chance = torch.Generator().manual_seed(step)
            x = torch.randn(8, DIM, generator=chance, dtype=torch.float64)
            with torch.no_grad():
                logprobs = self.model(x).log_softmax(-1)
            action = torch.multinomial(logprobs.exp(), 1, generator=chance)
            reward = (action[:, 0] == (x[:, 0] > 0).long()).double()
            advantage = (reward - reward.mean()) / (reward.std() + 1e-6)
            self.played = {"x": x, "action": action, "old": logprobs.gather(1, action), "advantage": advantage[:, None]}
        return self.played

    def state(self) -> dict[str, Tensor]:
        return self.played

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.played = tensors


@dataclass(frozen=True)
class ClippedPolicy:
    """The surrogate of PPO."""

    def loss(self, model: Any, batch: Any, companion: None, step: int) -> Loss:
        ratio = (model(batch["x"]).log_softmax(-1).gather(1, batch["action"]) - batch["old"]).exp()
        gain = torch.minimum(ratio * batch["advantage"], ratio.clamp(0.8, 1.2) * batch["advantage"])
        return Loss(total=-gain.sum(), count=torch.tensor(len(ratio)), sums={"ratio": ratio.sum()})


@dataclass(frozen=True)
class Adversarial:
    """A generator and its opponent, who joins after three updates and has parameter groups of its own (GAN)."""

    def setup(self, model: nn.Module) -> nn.Module:
        return Network(1).double()

    def loss(self, model: Any, batch: Any, companion: Any, step: int) -> Loss:
        true, noise = batch["x"].unbind(1)
        made = model(noise)
        near, count = (made - true).square().sum(), torch.tensor(len(true))
        if step < 3:
            return Loss(total=near, count=count)
        frozen = {name: parameter.detach() for name, parameter in companion.named_parameters()}
        fool = -functional_call(companion, frozen, (made,)).sum()
        judge = torch.relu(1 - companion(true)).sum() + torch.relu(1 + companion(made.detach())).sum()
        return Loss(total=near + 0.1 * fool + judge, count=count, sums={"judge": judge})


@dataclass(frozen=True)
class Rows:
    """Eight rows of tokens a step, of different lengths, with documents packed into them."""

    def batch(self, step: int) -> dict[str, Tensor]:
        chance = torch.Generator().manual_seed(step)
        ids = torch.randint(50, (8, 13), generator=chance)
        targets = ids[:, 1:].clone()
        for row, length in enumerate((12, 3, 7, 12, 1, 9, 12, 5)):
            targets[row, length:] = -100
        documents = (torch.arange(12) >= torch.randint(1, 12, (8, 1), generator=chance)).long()
        return {"ids": ids[:, :-1], "targets": targets, "documents": documents}


def make(kind: str) -> tuple[nn.Module, Any, Any]:
    """The model, source and objective of a kind."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config = Config(vocab_size=50, context_length=16, dim=16, num_layers=2, num_heads=2, dropout=0.0)
        return GPT2(config).double(), Rows(), NextToken()
    if kind == "self-distillation":
        return Network(4).double(), Points(), SelfDistillation()
    if kind == "set prediction":
        return Network(6).double(), Points(), SetPrediction()
    if kind == "policy gradient":
        return Network(2).double(), Games(), ClippedPolicy()
    return Network(DIM).double(), Points(), Adversarial()


SETTINGS = Settings(
    steps=9, micro_batch_size=8, optimizer=AdamW(lr=1e-2), schedule=WarmupCosine(warmup_steps=3), average=0.9,
    checkpoint_every=3, evaluate_every=2,
)  # fmt: skip
KINDS = ("self-distillation", "set prediction", "policy gradient", "adversarial")


def run(kind: str, folder: Path, *, resume: bool = False, killed_after: int = 0, **changes: Any) -> nn.Module:
    """Train a kind; any setting may be changed. `killed_after`: the step after which nothing more is done."""

    def watch(metrics: dict[str, Any]) -> None:
        if metrics["step"] == killed_after:
            raise KeyboardInterrupt

    model, source, objective = make(kind)

    def evaluate(used: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"measured": float(objective.loss(used, source.batch(99), None, 99).total)}

    settings = replace(SETTINGS, **changes)
    with suppress(KeyboardInterrupt):
        train(
            model, source, objective, settings=settings, folder=folder, resume=resume, watch=watch,
            evaluate=evaluate if kind == "gpt2" else None,
        )  # fmt: skip
    return model


if __name__ == "__main__":
    with ranks.joined():
        for job in json.loads(sys.argv[1]):
            kinds, folder, parallel = job.pop("kinds"), Path(job.pop("folder")), Parallel(**job.pop("parallel", {}))
            for kind in kinds:
                run(kind, folder / kind, parallel=parallel, **job)
