"""The Transformer against transformers' MarianMT: logits and every gradient."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import assert_close
from transformers import MarianConfig, MarianMTModel

from bedplate.models import from_pretrained
from bedplate.models.transformer import HF

PAD, END = 60, 0
SMALL = {
    "vocab_size": 61, "d_model": 24, "max_position_embeddings": 40, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 3, "decoder_attention_heads": 3, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "pad_token_id": PAD, "decoder_start_token_id": PAD, "eos_token_id": END, "forced_eos_token_id": None,
}  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "like the paper": {"activation_function": "relu", "scale_embedding": True},
    "like opus-mt": {"activation_function": "swish", "scale_embedding": True, "vocab_size": 61},
    "unscaled embeddings": {"activation_function": "gelu"},
    "more layers that write": {"encoder_layers": 1, "decoder_layers": 3, "scale_embedding": True},
    "odd heads, wide MLP": {"d_model": 30, "encoder_attention_heads": 5, "decoder_attention_heads": 5,
                            "encoder_ffn_dim": 77, "decoder_ffn_dim": 77},
}  # fmt: skip


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def reference(request: pytest.FixtureRequest, tmp_path: Path) -> MarianMTModel:
    torch.manual_seed(0)
    model = MarianMTModel(MarianConfig(**SMALL | request.param)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        model.final_logits_bias.add_(torch.randn_like(model.final_logits_bias))
    model.save_pretrained(tmp_path)
    return model


def padded(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, PAD, mask.shape, generator=torch.Generator().manual_seed(0))
    return ids.where(mask, PAD), mask


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_logits_and_gradients(reference: MarianMTModel, tmp_path: Path, dtype: torch.dtype, bound: float) -> None:
    ours, theirs = from_pretrained(tmp_path, dtype=dtype), reference.to(dtype)
    source, mask = padded([9, 1, 6])
    ids = torch.randint(1, PAD, (3, 7), generator=torch.Generator().manual_seed(1))
    actual = ours(source, ids, mask=mask)
    expected = theirs(input_ids=source, attention_mask=mask.long(), decoder_input_ids=ids).logits
    assert_close(actual, expected, bound=bound, name="logits")
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=dtype)
    (actual * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    mine = HF.to_theirs(gradients, ours.config)
    other = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    assert mine.keys() == other.keys()
    for name, gradient in other.items():
        assert_close(mine[name], gradient, bound=bound, name=f"gradient of {name}")
