"""PaLM, of which transformers has no class, against its formulas written out."""

from typing import Any

import pytest
import torch
from tests.support import assert_close
from torch import Tensor

from bedplate.models.palm import Config, PaLM

TINY = {"vocab_size": 101, "context_length": 64, "dim": 24, "num_layers": 2, "num_heads": 3, "head_dim": 8}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "as published": {},
    "wide heads": {"head_dim": 20, "num_heads": 2},
    "odd inner width": {"mlp_dim": 37},
    "as many heads of keys": {"num_kv_heads": 3},
    "grouped": {"num_kv_heads": 2, "num_heads": 4, "norm_eps": 1e-2, "rotary_base": 100.0},
}
IDS = torch.randint(101, (2, 33), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def model(request: pytest.FixtureRequest) -> PaLM:
    torch.manual_seed(0)
    model = PaLM(Config(**TINY | request.param)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # gains away from 1, so that none can be left out
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def formula(model: PaLM, ids: Tensor) -> Tensor:
    """Section 2 with one loop for each head and complex numbers for rotary positions."""
    config, weights = model.config, dict(model.named_parameters())
    group, width = config.num_heads // config.num_kv_heads, config.head_dim // 2
    exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
    angles = torch.arange(ids.shape[1]).float()[:, None] * (1 / config.rotary_base**exponents)  # float32, as trained
    turn = torch.complex(angles.cos().double(), angles.sin().double())
    future = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()

    def norm(x: Tensor, gain: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        return centered / (centered.square().mean(-1, keepdim=True) + config.norm_eps).sqrt() * gain

    def head(x: Tensor, matrix: Tensor, number: int) -> Tensor:
        return x @ matrix[number * config.head_dim : (number + 1) * config.head_dim].T

    def turned(x: Tensor) -> Tensor:
        pairs = torch.complex(x[..., :width], x[..., width:]) * turn
        return torch.cat((pairs.real, pairs.imag), -1)

    x = weights["token_embedding.weight"][ids]
    for layer in range(config.num_layers):
        own = {name.removeprefix(f"blocks.{layer}."): value for name, value in weights.items()}
        normed, mixed = norm(x, own["norm.weight"]), []
        for number in range(config.num_heads):
            query = turned(head(normed, own["attention.query.weight"], number))
            key = turned(head(normed, own["attention.key.weight"], number // group))
            scores = (query @ key.transpose(1, 2) / config.head_dim**0.5).masked_fill(future, -torch.inf)
            mixed.append(scores.softmax(-1) @ head(normed, own["attention.value.weight"], number // group))
        gate, up = (normed @ own[f"mlp.{name}.weight"].T for name in ("gate", "up"))
        mlp = (gate * gate.sigmoid() * up) @ own["mlp.down.weight"].T
        x = x + torch.cat(mixed, -1) @ own["attention.out.weight"].T + mlp
    return norm(x, weights["final_norm.weight"]) @ weights["token_embedding.weight"].T / config.dim**0.5


def test_logits_and_every_gradient_are_those_of_the_formulas(model: PaLM) -> None:
    parameters = dict(model.named_parameters())
    weights = torch.randn(2, 33, 101, dtype=torch.float64)
    found, expected = (
        (logits, torch.autograd.grad((logits * weights).sum(), list(parameters.values())))
        for logits in (model(IDS), formula(model, IDS))
    )
    assert_close(found[0], expected[0], bound=1e-10, name="logits")
    for name, mine, theirs in zip(parameters, found[1], expected[1], strict=True):
        assert_close(mine, theirs, bound=1e-10, name=f"gradient of {name}")
    with torch.no_grad():
        assert_close(model.float()(IDS).double(), expected[0], bound=1e-5, name="logits in float32")
