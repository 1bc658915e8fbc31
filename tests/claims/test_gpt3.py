"""GPT-3's claim at smoke scale, and a check that the check can fail."""

from dataclasses import replace
from pathlib import Path

import pytest

from bedplate.experiments import gpt3
from bedplate.experiments.gpt3 import Result


@pytest.mark.slow
def test_the_claim_holds_at_smoke_scale(tmp_path: Path) -> None:
    result = gpt3.run("smoke", watch=lambda line: None)
    verdict = gpt3.check(result)
    assert verdict.holds, verdict.sentence
    gpt3.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_check_is_red_where_a_part_fails() -> None:
    sizes = (10_000, 30_000, 100_000, 1_000_000)
    good = Result(
        scale="small",
        nats={size: (4 * size**-0.05, 4.001 * size**-0.05) for size in sizes},
        gains=dict(zip(sizes, ((0.05, 0.06), (0.1, 0.1), (0.14, 0.15), (0.2, 0.21)), strict=True)),
    )
    assert gpt3.check(good).holds
    assert not gpt3.check(replace(good, nats={**good.nats, sizes[-1]: (2.5, 2.5)})).holds  # not larger, not better
    assert not gpt3.check(replace(good, nats={**good.nats, sizes[-1]: (1.5, 1.5)})).holds  # not foreseen
    assert not gpt3.check(replace(good, gains={**good.gains, sizes[1]: (0.2, 0.2)})).holds  # does not grow
    assert not gpt3.check(replace(good, gains={size: (n / 100,) for n, size in enumerate(sizes)})).holds  # too little
