"""GPT-3 and GPT-Neo against transformers: forward, every gradient and cached decoding, over many configurations."""

from typing import Any

import pytest
import torch
from tests.parity.gpt3_reference import CONFIGURATIONS, models
from tests.support import assert_close
from torch.nn.functional import cross_entropy

from bedplate.objectives.next_token import NextToken

both = pytest.mark.parametrize("kind", ["GPT-3", "GPT-Neo"])
each = pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)


@both
@each
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_logits_and_every_gradient(kind: str, changes: dict[str, Any], dtype: torch.dtype, bound: float) -> None:
    ours, reference, table = models(kind, dtype, **changes)
    ids = torch.randint(101, (3, 41), generator=torch.Generator().manual_seed(0))
    loss = NextToken().loss(ours, {"ids": ids[:, :-1], "targets": ids[:, 1:]}, None, 0)
    (loss.total / loss.count).backward()
    logits = reference(ids[:, :-1]).logits
    cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    assert_close(ours(ids[:, :-1]), logits, bound=bound, name="logits")
    found = table.to_theirs({name: parameter.grad for name, parameter in ours.named_parameters()}, ours.config)
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert found.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert_close(found[name], gradient, bound=bound, name=f"gradient of {name}")


@both
@each
def test_cached_decoding(kind: str, changes: dict[str, Any]) -> None:
    ours, reference, _ = models(kind, **changes)
    ids = torch.randint(101, (2, 20))
    with torch.no_grad():
        state = ours.new_state(2)
        actual = torch.cat([ours(part, state=state) for part in ids.split([7, 5, *[1] * 8], dim=1)], dim=1)
        torch.testing.assert_close(actual, reference(ids).logits, rtol=0, atol=1e-10)
