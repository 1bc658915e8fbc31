"""Fine-tuning: the formula written out, and any split of a batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bedplate.data.tasks import Item, Marks, collate
from bedplate.errors import UserError
from bedplate.models import build
from bedplate.models.gpt1 import GPT1, ClassifierConfig, TaskConfig
from bedplate.objectives.fine_tuning import FineTuning
from bedplate.objectives.objective import Objective
from bedplate.train.loop import Settings, accumulate
from bedplate.train.parallel import Work

SIZES = {"vocab_size": 43, "context_length": 20, "dim": 8, "num_layers": 2, "num_heads": 2, "dropout": 0.0}
MARKS = Marks.after(40)
CLASSES = ClassifierConfig(**SIZES, num_classes=4, task_dropout=0.0)
ANSWERS = TaskConfig(**SIZES, task_dropout=0.0)


def random_items(lengths: list[int], config: TaskConfig) -> list[Item]:
    chance = torch.Generator().manual_seed(len(lengths))
    items = []
    for length in lengths:
        first, second = (torch.randint(40, (size,), generator=chance).tolist() for size in (length, 4))
        choice = MARKS.multiple_choice(second, [first, second])
        sequences = choice if config is ANSWERS else MARKS.similarity(first, second)
        items.append(Item(sequences=sequences, label=length % 2))
    return items


@pytest.fixture(params=[CLASSES, ANSWERS], ids=["classes", "answers"], scope="module")
def model(request: pytest.FixtureRequest) -> GPT1:
    torch.manual_seed(0)
    return build(request.param).double()


def by_hand(model: GPT1, item: Item, weight: float) -> Tensor:
    """Equations 3 to 5 for one item, a sequence at a time, without padding."""
    vectors, language = [], []
    for sequence in item.sequences:
        ids = torch.tensor([sequence])
        vectors.append(model.features(ids)[0, -1])
        logprobs = model(ids)[0, :-1].log_softmax(-1)
        language.append(-logprobs.gather(1, ids[0, 1:, None]).mean())
    if model.config is ANSWERS:
        scores = torch.cat([model.task_head(vector) for vector in vectors])
    else:
        scores = model.task_head(vectors[0] + vectors[1])
    return -scores.log_softmax(0)[item.label] + weight * torch.stack(language).mean()


@pytest.mark.parametrize("weight", [0.5, 0.0, 2.0])
def test_the_loss_is_equation_5(model: GPT1, weight: float) -> None:
    items = random_items([1, 9, 5], model.config)
    loss = FineTuning(language_weight=weight).loss(model, collate(items), None, 0)
    expected = sum(by_hand(model, item, weight) for item in items)
    torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
    assert loss.count == 3 and 0 <= loss.sums["accuracy"] <= 3 and isinstance(FineTuning(), Objective)
    assert ("language_loss" in loss.sums) == (weight > 0)


@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(1, 13), min_size=1, max_size=6), size=st.integers(1, 6))
def test_any_split_gives_the_same_gradient(model: GPT1, lengths: list[int], size: int) -> None:
    batch = collate(random_items(lengths, model.config))
    model.zero_grad()
    sums = accumulate(Work(model), FineTuning(), batch, 0, Settings(steps=1, micro_batch_size=size))
    split = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    whole = FineTuning().loss(model, batch, None, 0)
    whole.total.backward()
    assert sums["count"] == len(lengths)
    torch.testing.assert_close(sums["loss"], whole.total.detach(), rtol=0, atol=1e-10)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(split[name], parameter.grad, rtol=0, atol=1e-10, msg=name)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(UserError, match="language_weight"):
        FineTuning(language_weight=-1.0)
