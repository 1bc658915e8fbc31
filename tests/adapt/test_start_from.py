"""A model that starts from a trained one computes what it did, and its new rows are new."""

from dataclasses import replace

import pytest
import torch

from bedplate.adapt.start_from import start_from
from bedplate.errors import UserError
from bedplate.models import build
from bedplate.models.gpt1 import ClassifierConfig, Config

OLD = Config(vocab_size=400, context_length=16, dim=64, num_layers=2, num_heads=2)
NEW = ClassifierConfig(**vars(OLD) | {"vocab_size": 500}, num_classes=3)


@pytest.mark.parametrize("tied", [True, False])
def test_more_tokens_and_a_head(tied: bool) -> None:
    torch.manual_seed(0)
    trained, model = build(replace(OLD, tied=tied)).eval(), build(replace(NEW, tied=tied)).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter))
    head = model.task_head.weight.clone()
    start_from(model, trained)
    ids = torch.randint(400, (2, 16))
    torch.testing.assert_close(model(ids)[..., :400], trained(ids))
    assert model.token_embedding.weight[400:].std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(model.task_head.weight, head)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"dim": 32}, "shape"), ({"vocab_size": 399}, "shape"), ({"context_length": 32}, "shape"),
        ({"num_layers": 1}, "blocks.1"),
    ],
)  # fmt: skip
def test_other_differences_are_refused_and_nothing_is_copied(changes: dict[str, int], problem: str) -> None:
    model = build(replace(NEW, **changes))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=problem):
        start_from(model, build(OLD))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
