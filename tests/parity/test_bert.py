"""BERT against transformers: what each head gives and every parameter's gradient, padded rows included."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.bert_reference import HEADS, ours_given, padded_rows, reference_model, theirs_given
from tests.support import assert_close

from bedplate.models import from_pretrained, table_of

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
    "two dropouts": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.2},
}
CASES = [(name, torch.float64, 1e-10) for name in CONFIGURATIONS] + [("three segments", torch.float32, 2e-5)]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("name", "dtype", "bound"), CASES)
def test_outputs_and_gradients(head: str, name: str, dtype: torch.dtype, bound: float, tmp_path: Path) -> None:
    reference = reference_model(head, **CONFIGURATIONS[name])
    reference.save_pretrained(tmp_path)
    ours, reference = from_pretrained(tmp_path, dtype=dtype), reference.to(dtype)
    rows = padded_rows(reference.config.type_vocab_size)
    for place, (actual, expected) in enumerate(
        zip(ours_given(ours, **rows), theirs_given(reference, **rows), strict=True)
    ):
        if actual.shape[:2] == rows["mask"].shape:  # what stands where a row is filled up means nothing
            actual, expected = actual[rows["mask"]], expected[rows["mask"]]
        assert_close(actual, expected, bound=bound, name=f"output {place}")
        weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(place), dtype=dtype)
        (actual * weights).sum().backward(retain_graph=True)
        (expected * weights).sum().backward(retain_graph=True)
    found = table_of(ours).to_theirs({name: each.grad for name, each in ours.named_parameters()}, ours.config)
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert found.keys() == theirs.keys()
    for parameter, gradient in theirs.items():
        assert_close(found[parameter], gradient, bound=5 * bound, name=f"gradient of {parameter}")


@pytest.mark.parametrize("head", HEADS)
def test_rows_without_a_mask(head: str, tmp_path: Path) -> None:
    reference = reference_model(head)
    reference.save_pretrained(tmp_path)
    ours, rows = from_pretrained(tmp_path, dtype=torch.float64), padded_rows(2)
    del rows["mask"]
    with torch.no_grad():
        pairs = zip(ours_given(ours, **rows), theirs_given(reference.double(), **rows), strict=True)
    for actual, expected in pairs:
        assert_close(actual, expected, bound=1e-10, name="output")


def test_every_hidden_state(tmp_path: Path) -> None:
    reference = reference_model("BertModel").double()
    reference.save_pretrained(tmp_path)
    ours, rows = from_pretrained(tmp_path, dtype=torch.float64), padded_rows(2)
    with torch.no_grad():
        actual = ours.bert.hidden_states(**rows)
        asked = {"token_type_ids": rows["segments"], "attention_mask": rows["mask"].long()}
        expected = reference(rows["ids"], **asked, output_hidden_states=True).hidden_states
    assert len(actual) == len(expected) == 3
    for mine, theirs in zip(actual, expected, strict=True):
        assert_close(mine[rows["mask"]], theirs[rows["mask"]], bound=1e-10, name="hidden state")
