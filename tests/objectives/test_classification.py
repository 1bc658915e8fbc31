"""Losses of fine-tuning against transformers' own, and rows that do not depend on their company."""

from pathlib import Path

import pytest
import torch
import transformers
from tests.train.test_any_split import largest_error
from torch import Tensor

from bedplate.models import build, save_pretrained
from bedplate.models.bert import ClassifierConfig, SpanConfig, TaggerConfig
from bedplate.nn.fast.linear_cross_entropy import IGNORE
from bedplate.objectives.classification import Classification, SpanAnswer
from bedplate.objectives.objective import Objective
from bedplate.train.loop import Settings, accumulate
from bedplate.train.parallel import Work

SIZE = {"vocab_size": 60, "context_length": 24, "dim": 16, "num_layers": 2, "num_heads": 2, "mlp_dim": 24}
SIZE |= {"dropout": 0.0, "attention_dropout": 0.0}
CASES = {
    "texts": (ClassifierConfig(**SIZE, num_classes=3), Classification(), "BertForSequenceClassification"),
    "tokens": (TaggerConfig(**SIZE, num_classes=4), Classification(), "BertForTokenClassification"),
    "spans": (SpanConfig(**SIZE), SpanAnswer(), "BertForQuestionAnswering"),
}


def batch_for(kind: str) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(0)
    mask = torch.arange(12) < torch.tensor([[12], [5], [9], [12], [2], [7]])
    ids = torch.randint(1, 60, (6, 12), generator=chance) * mask
    labels = torch.randint(3, (6,), generator=chance)
    if kind == "tokens":
        labels = torch.randint(4, (6, 12), generator=chance).where(mask & (torch.arange(12) % 3 > 0), IGNORE)
    if kind == "spans":
        labels = torch.tensor([[3, 5], [0, 0], [2, 8], [11, 11], [1, 1], [4, 6]])
    return {"ids": ids, "segments": torch.zeros_like(ids), "mask": mask, "labels": labels}


@pytest.mark.parametrize("kind", CASES)
def test_the_loss_of_transformers(kind: str, tmp_path: Path) -> None:
    """Of full rows: theirs gives the places that fill up a row a part of the probability of spans."""
    config, objective, architecture = CASES[kind]
    torch.manual_seed(0)
    model, batch = build(config).double(), batch_for(kind)
    save_pretrained(model, tmp_path)
    reference = getattr(transformers, architecture).from_pretrained(tmp_path, dtype=torch.float64).eval()
    if kind == "spans":
        batch = {name: value[[0, 3]] for name, value in batch.items()}
        labels = {"start_positions": batch["labels"][:, 0], "end_positions": batch["labels"][:, 1]}
    else:
        labels = {"labels": batch["labels"]}
    loss = objective.loss(model, batch, None, 0)
    expected = reference(batch["ids"], attention_mask=batch["mask"].long(), **labels).loss
    assert (loss.total / loss.count).item() == pytest.approx(expected.item(), abs=1e-6)


def gradient(model: torch.nn.Module, objective: Objective, batch: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    sums = accumulate(Work(model), objective, batch, 0, Settings(steps=1, micro_batch_size=rows))
    found = {name: each.grad / sums["count"].item() for name, each in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("rows", [1, 4])
def test_any_split_gives_the_same_gradient(kind: str, rows: int) -> None:
    config, objective, _ = CASES[kind]
    torch.manual_seed(0)
    model, batch = build(config).double(), batch_for(kind)
    assert largest_error(gradient(model, objective, batch, rows), gradient(model, objective, batch, 6)) < 1e-12


@pytest.mark.parametrize("kind", CASES)
def test_a_row_costs_the_same_alone(kind: str) -> None:
    config, objective, _ = CASES[kind]
    torch.manual_seed(0)
    model, batch = build(config).double(), batch_for(kind)
    whole, alone = objective.loss(model, batch, None, 0).total, 0.0
    for row, length in enumerate(batch["mask"].sum(1).tolist()):
        part = {name: each[row : row + 1] for name, each in batch.items()}
        part |= {name: part[name][:, :length] for name in part if name != "labels" or kind == "tokens"}
        alone += objective.loss(model, part, None, 0).total
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-10)
