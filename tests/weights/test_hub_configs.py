"""The configurations that lie beside published GPT-2 weights are read, with all their historical keys."""

from typing import Any

import pytest

from bedplate.errors import UserError
from bedplate.models.gpt2 import HF, SIZES

OPENAI = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "vocab_size": 50257,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}  # fmt: skip
MEDIUM = {"n_embd": 1024, "n_head": 16, "n_layer": 24, "n_special": 0, "predict_special_tokens": True}
LARGE = {"n_embd": 1280, "n_head": 20, "n_layer": 36}
XL = {"n_embd": 1600, "n_head": 25, "n_layer": 48, "output_past": True}
DISTILLED = {
    "_num_labels": 1, "n_layer": 6, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "use_cache": True,
    "is_decoder": False, "is_encoder_decoder": False, "pruned_heads": {}, "torchscript": False, "use_bfloat16": False,
    "do_sample": False, "max_length": 20, "min_length": 0, "num_beams": 1, "temperature": 1.0, "top_k": 50,
    "top_p": 1.0, "repetition_penalty": 1.0, "length_penalty": 1.0, "early_stopping": False, "prefix": None,
    "no_repeat_ngram_size": 0, "bad_words_ids": None, "num_return_sequences": 1, "finetuning_task": None,
    "output_attentions": False, "output_hidden_states": False, "chunk_size_feed_forward": 0,
    "transformers_version": "4.6.1", "torch_dtype": "float32", "gradient_checkpointing": False, "n_inner": None,
    "reorder_and_upcast_attn": False, "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "size"), [({}, "gpt2"), (MEDIUM, "gpt2-medium"), (LARGE, "gpt2-large"), (XL, "gpt2-xl")]
)
def test_published_sizes(changes: dict[str, Any], size: str) -> None:
    assert HF.config_from(OPENAI | changes) == SIZES[size]


def test_a_fine_tuned_or_distilled_model_with_every_key_of_its_time() -> None:
    config = HF.config_from(OPENAI | DISTILLED)
    assert (config.num_layers, config.mlp_dim, config.scale_by_layer) == (6, None, False)


@pytest.mark.parametrize(
    ("key", "value"),
    [("pruned_heads", {"1": [0]}), ("add_cross_attention", True), ("quantization_config", {"bits": 4})],
)
def test_what_would_change_the_model_is_refused(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=key):
        HF.config_from(OPENAI | {key: value})


@pytest.mark.parametrize(
    ("key", "value", "words"), [("n_layer", "12", "a whole number"), ("n_embd", 10**30, "1048576")]
)
def test_values_of_another_kind_are_named(key: str, value: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        HF.config_from(OPENAI | {key: value})
