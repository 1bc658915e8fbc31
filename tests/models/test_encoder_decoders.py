"""Sizes of the published encoder-decoder models, and T5's buckets of distances."""

import math

import pytest
import torch

from bedplate.errors import UserError
from bedplate.models import build, published_sizes
from bedplate.models.t5 import Config, RelativeBias
from bedplate.models.transformer import Config as TransformerConfig

PARAMETERS = {
    "transformer-base": 63_082_496, "transformer-big": 214_245_376,
    "t5-small": 60_506_624, "t5-base": 222_903_552, "t5-large": 737_668_096, "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344, "flan-t5-small": 76_961_152, "flan-t5-base": 247_577_856, "flan-t5-large": 783_150_080,
    "flan-t5-xl": 2_849_757_184, "flan-t5-xxl": 11_135_332_352, "mt5-small": 300_176_768, "mt5-base": 582_401_280,
    "mt5-large": 1_229_581_312, "mt5-xl": 3_742_619_648, "mt5-xxl": 12_921_057_280,
}  # fmt: skip


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_published_sizes(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = build(published_sizes()[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_buckets_of_an_encoder_and_a_decoder() -> None:
    """Exact up to 8 (a decoder: 16), then logarithmic up to 128, with half of an encoder's for keys behind."""
    config = Config(num_heads=1)
    encoder, decoder = (RelativeBias(config, behind=behind) for behind in (16, 0))
    for distance in range(-400, 401):
        far = abs(distance)
        logarithmic = 8 + int(math.log(max(far, 1) / 8) / math.log(16) * 8)
        expected = (16 if distance > 0 else 0) + (far if far < 8 else min(15, logarithmic))
        assert int(encoder.bucket(torch.tensor(distance))) == expected
        past = max(-distance, 0)
        steps = 16 + int(math.log(max(past, 1) / 16) / math.log(8) * 16)
        assert int(decoder.bucket(torch.tensor(distance))) == (past if past < 16 else min(31, steps))


@pytest.mark.parametrize(
    "wrong", [{"num_buckets": 7}, {"max_distance": 4}, {"mlp": "gated"}, {"start_id": -1}, {"dropout": 1}]
)
def test_configurations_that_cannot_be(wrong: dict) -> None:
    with pytest.raises(UserError):
        Config(**wrong)


@pytest.mark.parametrize("wrong", [{"dim": 511}, {"dim": 510}, {"activation": "gelu2"}, {"start_id": 40000}])
def test_transformers_that_cannot_be(wrong: dict) -> None:
    with pytest.raises(UserError):
        TransformerConfig(**wrong)
