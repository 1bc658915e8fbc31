"""ALiBi's claim at smoke scale, and a check that the check can fail."""

from dataclasses import replace
from pathlib import Path

import pytest

from bedplate.experiments import bloom
from bedplate.experiments.bloom import ALIBI, LEARNED, SINUSOIDS, Result


@pytest.mark.slow
def test_the_claim_holds_at_smoke_scale(tmp_path: Path) -> None:
    result = bloom.run("smoke", watch=lambda line: None)
    verdict = bloom.check(result)
    assert verdict.holds, verdict.sentence
    bloom.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_check_is_red_for_each_part_of_the_claim() -> None:
    good = {ALIBI: {64: (3.0,), 512: (2.9,)}, SINUSOIDS: {64: (3.1,), 512: (4.0,)}, LEARNED: {64: (3.02,)}}
    result = Result(scale="small", trained_length=64, nats=good)
    assert bloom.check(result).holds
    for worse in (
        {ALIBI: {64: (3.0,), 512: (3.1,)}},  # ALiBi does not extrapolate
        {SINUSOIDS: {64: (3.1,), 512: (3.2,)}},  # sinusoids do
        {LEARNED: {64: (2.9,)}},  # ALiBi pays within the length of training
    ):
        assert not bloom.check(replace(result, nats=good | worse)).holds
