"""GPT-1 by itself: its size, its initialization, its contracts, and the heads that tasks add."""

import math

import pytest
import torch

from bedplate.errors import UserError
from bedplate.models import build
from bedplate.models.gpt1 import GPT1, SIZES, ClassifierConfig, Config, GPT1Chooser, GPT1Classifier, TaskConfig
from bedplate.objectives.next_token import NextToken
from bedplate.verify.contracts import verify

TINY = {"vocab_size": 50, "context_length": 16, "dim": 16, "num_layers": 2, "num_heads": 2}


def test_the_published_parameter_count_and_no_memory() -> None:
    with torch.device("meta"):
        model = build(SIZES["openai-gpt"])
        assert model(torch.zeros(2, 512, dtype=torch.long)).shape == (2, 512, 40478)
    assert sum(parameter.numel() for parameter in model.parameters()) == 116_534_784


def test_every_contract_holds() -> None:
    torch.manual_seed(0)
    rows = verify(GPT1(Config(**TINY, dropout=0.0)).eval())
    assert [row.verdict for row in rows] == ["pass"] * 8, rows


def test_initialization_is_the_published_one() -> None:
    torch.manual_seed(0)
    model = GPT1Classifier(ClassifierConfig(vocab_size=3000, dim=256, num_heads=4, num_classes=500))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.03), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float("norm.weight" in name))), name


def test_the_first_loss_is_that_of_a_uniform_guess() -> None:
    torch.manual_seed(0)
    model = GPT1(Config(context_length=32, dim=64, num_layers=2, num_heads=2, dropout=0.0))
    ids = torch.randint(40478, (4, 33))
    loss = NextToken().loss(model, {"ids": ids[:, :-1], "targets": ids[:, 1:]}, None, 0)
    assert loss.total.item() / loss.count.item() == pytest.approx(math.log(40478), abs=0.05)


def test_what_leaves_a_block_is_normalized() -> None:
    """Post-norm: no final norm is there because the last one of each block is one."""
    torch.manual_seed(0)
    features = GPT1(Config(**TINY)).eval().features(torch.randint(50, (2, 9)))
    torch.testing.assert_close(features.mean(-1), torch.zeros(2, 9), rtol=0, atol=1e-5)
    torch.testing.assert_close(features.var(-1, correction=0), torch.ones(2, 9), rtol=0, atol=1e-3)


def test_the_answers_of_an_item_share_a_dropout_mask() -> None:
    torch.manual_seed(0)
    model = GPT1Chooser(TaskConfig(**TINY, task_dropout=0.5)).train()
    vectors = torch.randn(40, 1, 16).expand(40, 3, 16)  # three equal answers
    scores = model.classify(vectors)
    assert torch.equal(scores, scores[:, :1].expand(40, 3)) and len(scores[:, 0].unique()) > 30


def test_two_orders_are_added() -> None:
    torch.manual_seed(0)
    model = GPT1Classifier(ClassifierConfig(**TINY, num_classes=3)).eval()
    vectors = torch.randn(4, 2, 16)
    expected = (vectors[:, 0] + vectors[:, 1]) @ model.task_head.weight.T
    torch.testing.assert_close(model.classify(vectors), expected)
    torch.testing.assert_close(model.classify(vectors.flip(1)), expected)


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="17 tokens are more than the context length of 16"):
        GPT1(Config(**TINY))(torch.zeros(1, 17, dtype=torch.long))


@pytest.mark.parametrize(
    "changes",
    [{"dim": 15}, {"num_layers": 0}, {"activation": "swoosh"}, {"dropout": 1.0}, {"norm_eps": 0.0},
     {"num_classes": 0}, {"task_dropout": -0.1}],
)  # fmt: skip
def test_senseless_settings_are_user_errors(changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        ClassifierConfig(**TINY | changes)
