"""T5, T5 1.1 and mT5 against transformers: logits and every gradient."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import assert_close
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration
from transformers.models.mt5 import modeling_mt5
from transformers.models.t5 import modeling_t5

from bedplate.models import from_pretrained, table_of

END = 1
SMALL = {
    "vocab_size": 61, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 3,
    "decoder_start_token_id": 0,
}  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "T5": {},
    "T5 1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "gated, tied and scaled": {"feed_forward_proj": "gated-silu"},
    "tied, not scaled": {"tie_word_embeddings": False, "tied anyway": True},
    "few near buckets, wide heads": {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 11,
                                     "d_kv": 16, "num_heads": 5, "num_decoder_layers": 3},
    "mT5": {"mt5": True},
}  # fmt: skip


def reference_model(changes: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    changes = dict(changes)
    multilingual, tied = changes.pop("mt5", False), changes.pop("tied anyway", False)
    config, model = (MT5Config, MT5ForConditionalGeneration) if multilingual else (T5Config, T5ForConditionalGeneration)
    made = model(config(**SMALL | changes)).eval()
    if multilingual or ("tie_word_embeddings" in changes and not tied):  # as the published ones, which transformers
        made.lm_head.weight = torch.nn.Parameter(torch.randn_like(made.lm_head.weight))  # unties when it reads them
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def reference(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    model = reference_model(request.param)
    model.save_pretrained(tmp_path)
    return model


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Theirs rounds the mean square to float32 whatever it computes with: in float64 it is left as it is."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))

    monkeypatch.setattr(modeling_t5.T5LayerNorm, "forward", forward)
    monkeypatch.setattr(modeling_mt5.MT5LayerNorm, "forward", forward)
    yield


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.usefixtures("exact_norms")
def test_logits_and_gradients(reference: Any, tmp_path: Path, dtype: torch.dtype, bound: float) -> None:
    ours, theirs = from_pretrained(tmp_path, dtype=dtype), reference.to(dtype)
    mask = torch.arange(30)[None] < torch.tensor([30, 1, 17])[:, None]  # distances beyond the exact buckets
    source = torch.randint(2, 61, mask.shape, generator=torch.Generator().manual_seed(0)).where(mask, 0)
    ids = torch.randint(2, 61, (3, 25), generator=torch.Generator().manual_seed(1))
    actual = ours(source, ids, mask=mask)
    expected = theirs(input_ids=source, attention_mask=mask.long(), decoder_input_ids=ids).logits
    assert_close(actual, expected, bound=bound, name="logits")
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=dtype)
    (actual * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    mine = table_of(ours).to_theirs(gradients, ours.config)
    other = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert mine.keys() == other.keys()
    for name, gradient in other.items():
        assert_close(mine[name], gradient, bound=bound, name=f"gradient of {name}")
