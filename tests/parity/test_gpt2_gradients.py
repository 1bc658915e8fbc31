"""Every parameter's gradient equals that of transformers, carried over by the checkpoint table itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.test_gpt2 import CONFIGURATIONS, reference_model
from tests.support import assert_close
from torch.nn.functional import cross_entropy

from bedplate.models import from_pretrained
from bedplate.models.gpt2 import HF
from bedplate.objectives.next_token import NextToken


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_the_loss_and_every_gradient(changes: dict[str, Any], tmp_path: Path, dtype: torch.dtype, bound: float) -> None:
    """The reference is their logits in torch's own loss: the loss inside their model is rounded to float32."""
    reference = reference_model(**changes)
    reference.save_pretrained(tmp_path)
    ours, reference = from_pretrained(tmp_path, dtype=dtype), reference.to(dtype)
    ids = torch.randint(101, (3, 17), generator=torch.Generator().manual_seed(0))
    loss = NextToken().loss(ours, {"ids": ids[:, :-1], "targets": ids[:, 1:]}, None, 0)
    (loss.total / loss.count).backward()
    expected = cross_entropy(reference(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())
    expected.backward()
    assert_close((loss.total / loss.count).detach(), expected.detach(), bound=bound, name="loss")
    found = HF.to_theirs({name: parameter.grad for name, parameter in ours.named_parameters()}, ours.config)
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert found.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert_close(found[name], gradient, bound=bound, name=f"gradient of {name}")


def test_positions_of_a_longer_context_stay_unused(tmp_path: Path) -> None:
    reference = reference_model()
    reference.save_pretrained(tmp_path)
    ours, ids = from_pretrained(tmp_path), torch.arange(7)[None]
    ours(ids).sum().backward()
    gradient = ours.position_embedding.weight.grad
    assert gradient[:7].any(dim=1).all() and not gradient[7:].any()


def test_half_precision_models_compute_alike(tmp_path: Path) -> None:
    """In bfloat16, with 8 bits, the two differ by rounding only."""
    reference = reference_model()
    reference.save_pretrained(tmp_path)
    ours, ids = from_pretrained(tmp_path, dtype=torch.bfloat16), torch.randint(101, (2, 30))
    with torch.no_grad():
        exact = reference(ids).logits
        mine, theirs = (model(ids) for model in (ours, reference.to(torch.bfloat16)))
    errors = [(logits.float() - exact).norm() / exact.norm() for logits in (mine, theirs.logits)]
    assert errors[0] < 0.03 and errors[0] < 2 * errors[1]
