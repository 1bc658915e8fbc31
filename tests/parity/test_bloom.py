"""BLOOM against transformers: forward, every gradient and cached decoding, over usual and unusual configurations."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import assert_close
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BloomConfig, BloomForCausalLM

from bedplate.models import from_pretrained
from bedplate.models.bloom import HF
from bedplate.objectives.next_token import NextToken
from bedplate.verify.reference import as_exact_as_weights

SMALL = {"vocab_size": 101, "hidden_size": 24, "n_layer": 3, "n_head": 4}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "like the published": {},
    "residual after the norm": {"apply_residual_connection_post_layernorm": True},
    "three heads": {"n_head": 3},
    "six heads": {"n_head": 6},
    "twelve heads": {"n_head": 12},
    "seven heads of five": {"hidden_size": 35, "n_head": 7},
    "one layer, one head": {"n_layer": 1, "n_head": 1},
    "untied head": {"tie_word_embeddings": False},
    "large epsilon, ranks": {"layer_norm_epsilon": 1e-2, "pretraining_tp": 2},
    "all at once": {
        "n_head": 3, "tie_word_embeddings": False, "apply_residual_connection_post_layernorm": True,
        "hidden_dropout": 0.1, "attention_dropout": 0.1,
    },
}  # fmt: skip


def reference_model(**changes: Any) -> BloomForCausalLM:
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(**SMALL | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms away from 0 and 1, so that none can be left out
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def their_logits(reference: BloomForCausalLM, ids: Tensor) -> Tensor:
    return reference(ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_logits_and_every_gradient(changes: dict[str, Any], tmp_path: Path, dtype: torch.dtype, bound: float) -> None:
    """In float64 with exact constants on their side, in float32 with transformers as it is."""
    reference = reference_model(**changes)
    reference.save_pretrained(tmp_path)
    ours, reference = from_pretrained(tmp_path, dtype=dtype), reference.to(dtype)
    if dtype == torch.float64:
        as_exact_as_weights(reference)
    ids = torch.randint(101, (3, 41), generator=torch.Generator().manual_seed(0))
    loss = NextToken().loss(ours, {"ids": ids[:, :-1], "targets": ids[:, 1:]}, None, 0)
    (loss.total / loss.count).backward()
    logits = their_logits(reference, ids[:, :-1])
    cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    assert_close(ours(ids[:, :-1]), logits, bound=bound, name="logits")
    found = HF.to_theirs({name: parameter.grad for name, parameter in ours.named_parameters()}, ours.config)
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert found.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert_close(found[name], gradient, bound=bound, name=f"gradient of {name}")


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_cached_decoding(changes: dict[str, Any], tmp_path: Path) -> None:
    reference = reference_model(**changes)
    reference.save_pretrained(tmp_path)
    ours, ids = from_pretrained(tmp_path, dtype=torch.float64), torch.randint(101, (2, 20))
    with torch.no_grad():
        expected = their_logits(as_exact_as_weights(reference.double()), ids)
        state = ours.new_state(2)
        actual = torch.cat([ours(part, state=state) for part in ids.split([7, 5, *[1] * 8], dim=1)], dim=1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
