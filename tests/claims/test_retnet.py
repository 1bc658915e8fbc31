"""RetNet's claim at smoke scale, and a check that the check can fail."""

from dataclasses import replace
from pathlib import Path

import pytest

from bedplate.experiments import retnet
from bedplate.experiments.retnet import RETNET, TRANSFORMER, Result


@pytest.mark.slow
def test_the_claim_holds_at_smoke_scale(tmp_path: Path) -> None:
    result = retnet.run("smoke", watch=lambda line: None)
    verdict = retnet.check(result)
    assert verdict.holds, verdict.sentence
    ratio = result.parameters[RETNET] / result.parameters[TRANSFORMER]
    assert 0.97 < ratio <= 1  # equal but for biases
    retnet.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_check_is_red_where_a_part_fails() -> None:
    good = Result(
        scale="small",
        parameters={RETNET: 1, TRANSFORMER: 1},
        nats={RETNET: (1.0, 1.1), TRANSFORMER: (1.2, 1.2)},
        longer=(1.0, 1.1),
        milliseconds={RETNET: (1.0, 1.1), TRANSFORMER: (1.0, 3.0)},
        state={RETNET: (5, 5), TRANSFORMER: (5, 50)},
    )
    assert retnet.check(good).holds
    assert not retnet.check(replace(good, nats={RETNET: (1.0, 1.1), TRANSFORMER: (1.05, 1.06)})).holds
    assert not retnet.check(replace(good, longer=(1.3, 1.2))).holds
    assert not retnet.check(replace(good, milliseconds=good.milliseconds | {RETNET: (1.0, 1.2)})).holds
    assert not retnet.check(replace(good, milliseconds=good.milliseconds | {TRANSFORMER: (1.0, 1.0)})).holds
    assert not retnet.check(replace(good, state=good.state | {RETNET: (5, 6)})).holds
