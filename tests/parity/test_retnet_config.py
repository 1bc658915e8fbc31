"""RetNet's config.json: torchscale's defaults, and switches that are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.parity.test_retnet import CONFIGURATIONS, SMALL

from bedplate.errors import UserError
from bedplate.models import save_pretrained
from bedplate.models.retnet import HF, Config, RetNet

GATED = Config(**SMALL | CONFIGURATIONS["untied"])


def test_missing_keys_mean_torchscales_defaults(tmp_path: Path) -> None:
    config = HF.config_from({"model_type": "retnet", "vocab_size": 64000, "decoder_retention_heads": 4})
    assert (config.dim, config.num_layers, config.value_dim) == (768, 12, 1280)  # which its 3 heads do not divide
    assert (config.mlp, config.tied, config.decay) == ("gated gelu", False, "powers")
    save_pretrained(RetNet(GATED), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["activation_fn"] == "gelu"


@pytest.mark.parametrize("changes", [
    {"deepnorm": True}, {"decoder_normalize_before": False}, {"moe_freq": 2}, {"xpos_rel_pos": True},
    {"activation_fn": "tanh"}, {"no_scale_embedding": 1}, {"layernorm_embedding": True}, {"retention_decay": "fast"},
])  # fmt: skip
def test_switches_that_are_not_supported_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes)).removeprefix("retention_")):
        HF.config_from(HF.config_to(GATED) | changes)
