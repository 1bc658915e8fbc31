"""BERT's files against transformers, in both directions and in shards."""

from pathlib import Path

import pytest
import torch
import transformers
from tests.parity.bert_reference import HEADS, reference_model, same_outputs

from bedplate.models import from_pretrained, save_pretrained

WEIGHTS = "model.safetensors"


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("changes", [{}, {"num_labels": 5, "hidden_act": "gelu_new", "type_vocab_size": 1}])
def test_files_keep_every_bit_both_ways(head: str, changes: dict[str, object], tmp_path: Path) -> None:
    reference = reference_model(head, **changes)
    reference.save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    save_pretrained(from_pretrained(tmp_path / "theirs"), tmp_path / "ours")
    again, report = getattr(transformers, head).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    for name, value in reference.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    before, after = reference.config.to_dict(), again.config.to_dict()
    differing = {key for key in before if after.get(key) != before[key]}
    assert differing <= {"transformers_version", "architectures", "dtype", "_name_or_path", "id2label", "label2id"}
    assert (
        again.config.num_labels == reference.config.num_labels or "Classification" not in head
    )  # their names are not kept


def test_shards_open(tmp_path: Path) -> None:
    reference = reference_model("BertForPreTraining")
    reference.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    same_outputs(tmp_path, reference)
