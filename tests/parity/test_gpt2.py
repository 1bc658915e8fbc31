"""GPT-2 against transformers: forward, gradient and cached decoding, over usual and unusual configurations."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import assert_parity
from transformers import GPT2Config, GPT2LMHeadModel

from bedplate.models import from_pretrained

SMALL = {"vocab_size": 101, "n_positions": 40, "n_embd": 24, "n_layer": 3, "n_head": 3}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "like the published": {},
    "scores divided by layer": {"scale_attn_by_inverse_layer_idx": True},
    "scores not scaled": {"scale_attn_weights": False},
    "both": {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False},
    "upcast scores": {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
    "untied head": {"tie_word_embeddings": False},
    "odd inner width": {"n_inner": 37},
    "seven heads": {"n_embd": 35, "n_head": 7},
    "one layer, one head": {"n_layer": 1, "n_head": 1},
    "large epsilon": {"layer_norm_epsilon": 1e-2},
    "no dropout": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "relu": {"activation_function": "relu"},
    "silu": {"activation_function": "silu"},
    "tanh": {"activation_function": "tanh"},
    "gelu by erf": {"activation_function": "gelu"},
    "gelu by tanh, other name": {"activation_function": "gelu_pytorch_tanh"},
}


def reference_model(**changes: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**SMALL | {"bos_token_id": 0, "eos_token_id": 0} | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms away from 0 and 1, so that none can be left out
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def reference(request: pytest.FixtureRequest) -> GPT2LMHeadModel:
    return reference_model(**request.param)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_logits_and_gradients(reference: GPT2LMHeadModel, tmp_path: Path, dtype: torch.dtype, bound: float) -> None:
    reference.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path, dtype=dtype)
    ids = torch.randint(101, (2, 40), generator=torch.Generator().manual_seed(0))
    pairs = {"token_embedding.weight": "transformer.wte.weight", "final_norm.bias": "transformer.ln_f.bias",
             "blocks.0.mlp.down.bias": "transformer.h.0.mlp.c_proj.bias",
             "blocks.0.attention_norm.weight": "transformer.h.0.ln_1.weight"}  # fmt: skip
    assert_parity(ours, reference.to(dtype), ids, bound=bound, parameters=pairs)


def test_cached_decoding(reference: GPT2LMHeadModel, tmp_path: Path) -> None:
    reference.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path, dtype=torch.float64)
    ids = torch.randint(101, (2, 20))
    with torch.no_grad():
        expected = reference.double()(ids).logits
        state = ours.new_state(2)
        actual = torch.cat([ours(part, state=state) for part in ids.split([7, 5, *[1] * 8], dim=1)], dim=1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
