"""The claim of BERT at smoke scale, a check that can fail, and functions that do not tell their label."""

from dataclasses import replace
from pathlib import Path

import pytest

from bedplate.data.python_functions import LOOPS, read_functions
from bedplate.experiments import bert


@pytest.mark.slow
def test_the_claim_holds_at_smoke_scale(tmp_path: Path) -> None:
    result = bert.run("smoke", watch=lambda line: None)
    verdict = bert.check(result)
    assert verdict.holds, verdict.sentence
    bert.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_check_is_red_for_chance_and_for_a_small_margin() -> None:
    words = bert.Result(scale="small", both_sides=(0.40, 0.41), left_side=(0.23, 0.23))
    assert bert.check(words).holds
    assert not bert.check(replace(words, both_sides=(0.25, 0.26))).holds
    labels = bert.Result(scale="labels", both_sides=(), left_side=(), pretrained=(0.75, 0.7), from_nothing=(0.65, 0.6))
    assert bert.check(labels).holds
    assert not bert.check(replace(labels, pretrained=(0.68, 0.66))).holds


def test_functions_do_not_tell_their_label() -> None:
    functions = list(read_functions())
    assert len(functions) > 5000 and {each.loops for each in functions} == {each.held_out for each in functions}
    assert not any(LOOPS & set(each.text.split()) for each in functions)
