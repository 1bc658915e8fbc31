"""BERT against transformers: what each head gives and every parameter's gradient, padded rows included."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.support import assert_close
from torch import Tensor

from bedplate.models import from_pretrained, table_of

SMALL = {
    "vocab_size": 101, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 37,
    "max_position_embeddings": 20,
}  # fmt: skip
HEADS = (
    "BertForPreTraining", "BertForMaskedLM", "BertForSequenceClassification", "BertForTokenClassification",
    "BertForQuestionAnswering", "BertModel",
)  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "like the published": {},
    "gelu by tanh": {"hidden_act": "gelu_new"},
    "relu": {"hidden_act": "relu"},
    "one segment": {"type_vocab_size": 1},
    "three segments": {"type_vocab_size": 3},
    "seven heads": {"hidden_size": 35, "num_attention_heads": 7},
    "one layer, one head": {"num_hidden_layers": 1, "num_attention_heads": 1},
    "large epsilon": {"layer_norm_eps": 1e-2},
    "five labels": {"num_labels": 5, "classifier_dropout": 0.3},
    "no dropout": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.2},
}


def reference_model(head: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, head)(transformers.BertConfig(**SMALL | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms away from 0 and 1, so that none can be left out
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def inputs(num_segments: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of 20, 13 and 1 tokens; id 0 fills up, for transformers takes no gradient from it."""
    chance = torch.Generator().manual_seed(0)
    mask = torch.arange(20) < torch.tensor([[20], [13], [1]])
    ids = torch.randint(1, 101, (3, 20), generator=chance) * mask
    return ids, torch.randint(num_segments, (3, 20), generator=chance) * mask, mask


def ours_given(model: Any, ids: Tensor, segments: Tensor, mask: Tensor | None) -> list[Tensor]:
    found = model(ids, segments=segments, mask=mask)
    if isinstance(found, Tensor):
        return list(found.unbind(-1)) if type(model).__name__ == "BERTSpans" else [found]
    return list(vars(found).values())


def theirs_given(model: Any, ids: Tensor, segments: Tensor, mask: Tensor | None) -> list[Tensor]:
    return list(model(ids, token_type_ids=segments, attention_mask=None if mask is None else mask.long()).values())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_outputs_and_gradients(head: str, changes: Any, tmp_path: Path, dtype: torch.dtype, bound: float) -> None:
    reference = reference_model(head, **changes)
    reference.save_pretrained(tmp_path)
    ours, reference = from_pretrained(tmp_path, dtype=dtype), reference.to(dtype)
    ids, segments, mask = inputs(reference.config.type_vocab_size)
    for used in (None, mask):
        pairs = zip(
            *(each(m, ids, segments, used) for each, m in ((ours_given, ours), (theirs_given, reference))), strict=True
        )
        for place, (actual, expected) in enumerate(pairs):
            real = (
                mask
                if actual.shape[:2] == mask.shape and used is not None
                else torch.ones(len(actual), dtype=torch.bool)
            )
            assert_close(actual[real], expected[real], bound=bound, name=f"output {place}")
            weights = torch.randn(expected[real].shape, generator=torch.Generator().manual_seed(place), dtype=dtype)
            (actual[real] * weights).sum().backward(retain_graph=True)
            (expected[real] * weights).sum().backward(retain_graph=True)
        if used is None:
            ours.zero_grad(), reference.zero_grad()  # id 0 stands for a token there
    found = table_of(ours).to_theirs({name: each.grad for name, each in ours.named_parameters()}, ours.config)
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert found.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert_close(found[name], gradient, bound=5 * bound, name=f"gradient of {name}")
