"""Llama, Mistral and Qwen2 against transformers: logits and every gradient, also far beyond the trained context."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import assert_close
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel, Qwen2Config
from transformers import Qwen2ForCausalLM as Qwen2

from bedplate.models import from_pretrained, table_of
from bedplate.verify.reference import as_exact_as_weights

SMALL = {
    "vocab_size": 101, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
CONFIGURATIONS: dict[str, tuple[type, dict[str, Any]]] = {
    "grouped heads": (LlamaConfig, {}),
    "as many heads of keys": (LlamaConfig, {"num_key_value_heads": 4}),
    "one head of keys": (LlamaConfig, {"num_key_value_heads": 1}),
    "wide heads": (LlamaConfig, {"head_dim": 16}),
    "tied": (LlamaConfig, {"tie_word_embeddings": True, "rms_norm_eps": 1e-2}),
    "biases": (LlamaConfig, {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu_pytorch_tanh"}),
    "another base": (LlamaConfig, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "linear": (LlamaConfig, {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0}}),
    "dynamic": (LlamaConfig, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.5, "rope_theta": 1e4},
                              "max_position_embeddings": 24}),
    "yarn": (LlamaConfig, {"rope_parameters": YARN | {"rope_theta": 1e4}}),
    "yarn with everything": (LlamaConfig, {"head_dim": 32, "rope_parameters": YARN | {
        "rope_theta": 500.0, "beta_fast": 8.0, "beta_slow": 0.5, "attention_factor": 1.3, "truncate": False}}),
    "llama3": (LlamaConfig, {"head_dim": 16, "rope_parameters": LLAMA3 | {"rope_theta": 500.0}}),
    "mistral": (MistralConfig, {"sliding_window": 7}),
    "mistral without a window": (MistralConfig, {"sliding_window": None, "head_dim": 10}),
    "qwen2": (Qwen2Config, {}),
    "qwen2 tied": (Qwen2Config, {"tie_word_embeddings": True, "num_key_value_heads": 1}),
}  # fmt: skip
MODELS = {LlamaConfig: LlamaForCausalLM, MistralConfig: MistralForCausalLM, Qwen2Config: Qwen2}


def reference_model(kind: type, changes: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[kind](kind(**SMALL | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and gains away from 0 and 1, so that none can be left out
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def reference(request: pytest.FixtureRequest) -> PreTrainedModel:
    return reference_model(*request.param)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_logits_and_every_gradient(
    reference: PreTrainedModel, tmp_path: Path, dtype: torch.dtype, bound: float
) -> None:
    """57 tokens: beyond the 16 or 24 that the stretched ones were trained with, and many windows of 7."""
    reference.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path, dtype=dtype)
    reference = as_exact_as_weights(reference.to(dtype))
    ids = torch.randint(101, (2, 57), generator=torch.Generator().manual_seed(0))
    actual, expected = ours(ids), reference(ids).logits
    assert_close(actual, expected, bound=bound, name="logits")
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    for logits in (actual, expected):
        (logits * weights).sum().backward()
    found = {name: parameter.grad for name, parameter in ours.named_parameters()}
    found = table_of(ours).to_theirs(found, ours.config)
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert found.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert_close(found[name], gradient, bound=bound, name=f"gradient of {name}")
