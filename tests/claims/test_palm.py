"""The claim of PaLM at smoke scale, and checks that the check can fail."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bedplate.experiments import palm
from bedplate.models.palm import Config

GOOD = palm.Result(
    scale="small", num_heads=4, parameters={}, seconds={palm.OURS: 1.0, palm.SERIAL: 1.1},
    bits_per_byte={palm.OURS: (2.0, 2.1), palm.SERIAL: (2.01, 2.08), palm.HEADS: (2.0, 2.11)},
    cache={palm.OURS: 128, palm.SERIAL: 128, palm.HEADS: 512},
)  # fmt: skip


@pytest.mark.slow
def test_the_claim_holds_at_smoke_scale(tmp_path: Path) -> None:
    result = palm.run("smoke", watch=lambda line: None)
    verdict = palm.check(result)
    assert verdict.holds, verdict.sentence
    palm.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_check_is_red_for_worse_blocks_and_for_a_larger_cache() -> None:
    assert palm.check(GOOD).holds
    for name in (palm.SERIAL, palm.HEADS):
        worse = GOOD.bits_per_byte | {name: (1.97, 2.07)}
        assert not palm.check(replace(GOOD, bits_per_byte=worse)).holds
    assert not palm.check(replace(GOOD, cache=GOOD.cache | {palm.OURS: 256})).holds


def test_the_models_are_equally_large_and_differ_as_they_say() -> None:
    config = Config(vocab_size=50, context_length=16, dim=24, num_layers=2, num_heads=4, head_dim=6, mlp_dim=96)
    models = palm.models(config)
    counts = {name: sum(each.numel() for each in model.parameters()) for name, model in models.items()}
    assert counts[palm.HEADS] == counts[palm.OURS] == counts[palm.SERIAL] - 2 * 24
    ids = torch.arange(9)[None]
    for model in models.values():
        for name, parameter in model.named_parameters():  # as if attention gave nothing
            parameter.data.mul_(0.0 if name.endswith("attention.out.weight") else 1.0)
    models[palm.SERIAL].load_state_dict(models[palm.OURS].state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(models[palm.SERIAL](ids), models[palm.OURS](ids))
        for name in (palm.OURS, palm.SERIAL):
            torch.manual_seed(0)
            models[name].blocks[0].attention.out.weight.normal_()
        assert (models[palm.SERIAL](ids) - models[palm.OURS](ids)).abs().max() > 0.01
