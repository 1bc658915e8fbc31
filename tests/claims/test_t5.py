"""T5's claim at smoke scale, and a check that the check can fail."""

from pathlib import Path

import pytest

from bedplate.experiments import t5
from bedplate.experiments.t5 import SCRATCH, SPANS, TOKENS, Result


@pytest.mark.slow
def test_the_claim_holds_at_smoke_scale(tmp_path: Path) -> None:
    result = t5.run("smoke", watch=lambda line: None)
    verdict = t5.check(result)
    assert verdict.holds, verdict.sentence
    t5.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_check_is_red_where_pre_training_does_not_help() -> None:
    def holds(*spans: float, lengths: tuple[int, int] = (30, 40)) -> bool:
        bits = {SPANS: spans, TOKENS: (1.0, 1.0), SCRATCH: (2.0, 2.0)}
        tokens = {SPANS: lengths[0], TOKENS: lengths[1]}
        return t5.check(Result(scale="small", bits=bits, target_tokens=tokens)).holds

    assert holds(1.0, 1.1)
    assert not holds(1.95, 1.97)  # too little
    assert not holds(0.5, 2.1)  # not for every seed
    assert not holds(1.0, 1.1, lengths=(40, 30))  # spans are there to make targets shorter
