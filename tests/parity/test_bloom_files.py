"""BLOOM's files against transformers: both directions, shards, the layouts of the hub, one tensor at a time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.test_bloom import HUB
from tests.parity.test_bloom import CONFIGURATIONS, reference_model
from transformers import BloomForCausalLM

from bedplate.models import from_pretrained, save_pretrained


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@pytest.mark.parametrize("shard", ["5GB", "5KB"])
def test_files_keep_every_bit_both_ways(changes: dict[str, Any], shard: str, tmp_path: Path) -> None:
    reference = reference_model(**changes)
    reference.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
    assert (len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1) == (shard == "5KB")
    (tmp_path / "ours").mkdir()
    save_pretrained(from_pretrained(tmp_path / "theirs"), tmp_path / "ours", end_id=2)
    again, report = BloomForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    for name, value in reference.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    changed = {key for key, value in reference.config.to_dict().items() if again.config.to_dict().get(key) != value}
    described = {"transformers_version", "architectures", "dtype", "_name_or_path", "bos_token_id"}
    assert changed <= described | {"pretraining_tp"}  # which changes nothing


def test_rows_take_turns_by_head(tmp_path: Path) -> None:
    """Row r of the fused matrix holds r: with 2 heads of 4, queries of head 0 are rows 0-3, keys 4-7, values 8-11."""
    reference = reference_model(hidden_size=8, n_head=2)
    with torch.no_grad():
        reference.transformer.h[0].self_attention.query_key_value.weight.copy_(
            torch.arange(24.0)[:, None].expand(-1, 8)
        )
    reference.save_pretrained(tmp_path)
    attention: Any = from_pretrained(tmp_path).get_submodule("blocks.0.attention")
    for part, first in ((attention.query, 0), (attention.key, 4), (attention.value, 8)):
        assert part.weight[:, 0].tolist() == [first + row for row in (0, 1, 2, 3, 12, 13, 14, 15)]


@pytest.mark.parametrize("copied", [False, True])
def test_the_layout_of_the_hub_opens(tmp_path: Path, copied: bool) -> None:
    """No prefix, old names in config.json, the tied head left out or there as a copy."""
    reference = reference_model()
    reference.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    if copied:
        old["lm_head.weight"] = old["word_embeddings.weight"].clone()
    save_file(old, tmp_path / "model.safetensors")
    small = {"n_embed": 24, "n_layer": 3, "num_attention_heads": 4, "vocab_size": 101}
    (tmp_path / "config.json").write_text(json.dumps(HUB | small))
    ids = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(from_pretrained(tmp_path)(ids), reference(ids).logits, rtol=1e-5, atol=1e-5)
