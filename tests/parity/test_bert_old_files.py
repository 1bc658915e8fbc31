"""BERT's files as they were published over the years open, and what cannot be right is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.parity.bert_reference import padded_rows, reference_model, same_outputs, theirs_given
from torch import Tensor

from bedplate.errors import UserError
from bedplate.models import from_pretrained
from bedplate.models.bert import BERT, TIED, PretrainingBERT

WEIGHTS = "model.safetensors"


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


@pytest.mark.parametrize("head", ["BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification"])
def test_the_names_of_the_first_files_open(head: str, tmp_path: Path) -> None:
    """As bert-base-uncased still has them: gamma and beta, a buffer of positions, the tied matrix as a copy."""
    reference = reference_model(head)
    reference.save_pretrained(tmp_path)

    def old(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for copy, original in TIED.items() if "cls.predictions.bias" in tensors else ():
            tensors[copy] = tensors[original].clone()
        tensors["bert.embeddings.position_ids"] = torch.arange(20)[None]
        return {n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): t for n, t in tensors.items()}

    rewrite(tmp_path, old)
    same_outputs(tmp_path, reference)


def test_a_masked_model_that_holds_both_heads_opens_with_both(tmp_path: Path) -> None:
    """The published files call themselves BertForMaskedLM and hold all of pre-training."""
    full = reference_model("BertForPreTraining")
    full.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(from_pretrained(tmp_path)) is PretrainingBERT
    same_outputs(tmp_path, full)


def test_an_encoder_without_its_pooler_opens(tmp_path: Path) -> None:
    reference = transformers.BertModel(reference_model("BertModel").config, add_pooling_layer=False).eval()
    reference.save_pretrained(tmp_path)
    assert type(from_pretrained(tmp_path)) is BERT
    rows = padded_rows(2)
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(tmp_path)(**rows)[0], theirs_given(reference, **rows)[0][0])


def test_a_copy_of_the_tied_matrix_that_differs_is_refused(tmp_path: Path) -> None:
    reference_model("BertForMaskedLM").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors | {"cls.predictions.decoder.weight": torch.zeros(101, 24)})
    with pytest.raises(UserError, match="cls.predictions.decoder.weight differs"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("position_embedding_type", "relative_key"), ("is_decoder", True), ("add_cross_attention", True),
        ("tie_word_embeddings", False), ("hidden_act", "swoosh"), ("num_experts", 4),
    ],
)  # fmt: skip
def test_switches_that_are_not_supported_are_named(key: str, value: object, tmp_path: Path) -> None:
    reference_model("BertForPreTraining").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {key: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=key):
        from_pretrained(tmp_path)
