"""RetNet against torchscale's formulas: logits and every gradient.

Of its parallel form with an epsilon of 1e-30, which shows differences of 1e-10; of its recurrent form with any.
"""

from typing import Any

import pytest
import torch
from tests.parity.torchscale import Form, logits_of, parallel, recurrent
from tests.support import assert_close

from bedplate.models import build, table_of
from bedplate.models.retnet import Config

SMALL: dict[str, Any] = {
    "vocab_size": 61, "context_length": 64, "dim": 24, "num_layers": 2, "num_heads": 3, "value_dim": 36, "mlp_dim": 20,
    "norm_eps": 1e-30,
}  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "paper": {"decay": "spread", "value_dim": 48, "mlp_dim": 48},
    "released": {"mlp": "gated silu"},
    "untied": {"mlp": "gated gelu", "tied": False},
    "one head": {"num_heads": 1, "decay": "spread", "mlp": "gated relu"},
    "heads of two, scaled embedding": {"num_heads": 12, "value_dim": 24, "scale_embedding": True, "mlp": "gated silu"},
}


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize(("form", "eps"), [(parallel, 1e-30), (recurrent, 1e-6), (recurrent, 0.3)])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_logits_and_gradients(name: str, form: Form, eps: float, dtype: torch.dtype, bound: float) -> None:
    torch.manual_seed(0)
    model = build(Config(**SMALL | CONFIGURATIONS[name] | {"norm_eps": eps})).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ids = torch.randint(61, (2, 40), generator=torch.Generator().manual_seed(0))
    actual = model(ids)
    weights = table_of(model).to_theirs(dict(model.state_dict()), model.config)
    weights = {key: tensor.clone().requires_grad_(not key.startswith("retnet")) for key, tensor in weights.items()}
    expected = logits_of(model.config, weights, ids, form=form)
    assert_close(actual, expected, bound=bound, name="logits")
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    (actual * pull).sum().backward()
    (expected * pull).sum().backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    mine = table_of(model).to_theirs(gradients, model.config)
    for key, tensor in weights.items():
        if tensor.requires_grad:
            assert_close(mine[key], tensor.grad, bound=bound, name=f"gradient of {key}")
