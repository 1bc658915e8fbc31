"""Tiny random BERTs of transformers, and both sides asked alike."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from bedplate.models import from_pretrained
from bedplate.models.bert import BERTSpans

SMALL = {
    "vocab_size": 101, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 37,
    "max_position_embeddings": 20,
}  # fmt: skip
HEADS = (
    "BertForPreTraining", "BertForMaskedLM", "BertForSequenceClassification", "BertForTokenClassification",
    "BertForQuestionAnswering", "BertModel",
)  # fmt: skip


def reference_model(head: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    changes |= {"num_labels": 2} if head == "BertForQuestionAnswering" else {}
    model = getattr(transformers, head)(transformers.BertConfig(**SMALL | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms away from 0 and 1, so that none can be left out
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def padded_rows(num_segments: int) -> dict[str, Tensor]:
    """Rows of 20, 13 and 1 tokens; id 0 fills up, for transformers takes no gradient from it."""
    chance = torch.Generator().manual_seed(0)
    mask = torch.arange(20) < torch.tensor([[20], [13], [1]])
    ids = torch.randint(1, 101, (3, 20), generator=chance) * mask
    return {"ids": ids, "segments": torch.randint(num_segments, (3, 20), generator=chance) * mask, "mask": mask}


def ours_given(model: Any, ids: Tensor, segments: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    found = model(ids, segments=segments, mask=mask)
    if isinstance(found, Tensor):
        return list(found.unbind(-1)) if isinstance(model, BERTSpans) else [found]
    return list(vars(found).values())


def theirs_given(model: Any, ids: Tensor, segments: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    return list(model(ids, token_type_ids=segments, attention_mask=None if mask is None else mask.long()).values())


def same_outputs(folder: Path, reference: Any) -> None:
    """A folder opens as what a model of transformers computes."""
    ours, rows = from_pretrained(folder), padded_rows(2)
    with torch.no_grad():
        pairs = zip(ours_given(ours, **rows), theirs_given(reference, **rows), strict=True)
    for actual, expected in pairs:
        torch.testing.assert_close(actual[0], expected[0], rtol=1e-5, atol=1e-5)
