"""Laws that are known are recovered, and what does not follow them is found."""

import random
from pathlib import Path

import pytest

from bedplate.errors import UserError
from bedplate.evaluate.scaling import Law, fit, hold_out, interval, read_runs

GPT3 = Law(factor=2.57, exponent=0.048)  # of compute in PF-days (figure 3.1)
SIZES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]


def noisy(law: Law, spread: float, *, seeds: int = 3) -> list[tuple[float, float]]:
    chance = random.Random(0)
    return [(x, law.at(x) * (1 + chance.gauss(0, spread))) for x in SIZES for _ in range(seeds)]


def test_an_exact_law_is_recovered() -> None:
    found = fit([(x, GPT3.at(x)) for x in SIZES])
    assert (found.factor, found.exponent) == pytest.approx((2.57, 0.048), rel=1e-9)
    assert found.fit == pytest.approx(1) and str(found) == "2.57 * x^-0.048"


def test_a_floor_is_found_where_there_is_one() -> None:
    law = Law(factor=0.8, exponent=0.2, floor=1.69)
    runs = [(x, law.at(x)) for x in SIZES]
    found = fit(runs, with_floor=True)
    assert (found.factor, found.exponent, found.floor) == pytest.approx((0.8, 0.2, 1.69), rel=1e-2)
    assert fit(runs).fit < 0.99  # without one the points bend


def test_the_interval_holds_the_truth_and_narrows_with_the_noise() -> None:
    widths = []
    for spread in (0.001, 0.01):
        low, high = interval(noisy(GPT3, spread))["exponent"]
        assert low < 0.048 < high
        widths.append(high - low)
    assert widths[0] < widths[1] / 5


def test_intervals_are_as_often_right_as_they_say() -> None:
    hits = 0
    for seed in range(60):
        chance = random.Random(seed)
        runs = [(x, GPT3.at(x) * (1 + chance.gauss(0, 0.01))) for x in SIZES for _ in range(2)]
        low, high = interval(runs, seed=seed)["exponent"]
        hits += low < 0.048 < high
    assert hits >= 51  # of 60, of which 57 are expected


def test_larger_runs_are_predicted_from_smaller_ones() -> None:
    (one,) = hold_out(noisy(GPT3, 0.003), 1)
    assert one.x == 10.0 and one.low < GPT3.at(10) < one.high and one.low < one.loss < one.high
    bent = [(x, loss + (0.5 if x == 10.0 else 0)) for x, loss in noisy(GPT3, 0.003)]
    (other,) = hold_out(bent, 1)
    assert not other.low < other.loss < other.high


def test_too_few_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="2 different sizes"):
        fit([(1.0, 2.0), (1.0, 2.1)])
    with pytest.raises(UserError, match="3 different sizes"):
        fit([(1.0, 2.0), (2.0, 1.9)], with_floor=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no column 'n'"),
        ("n,other\n1,2\n", "no column 'loss'"),
        ("n,loss\n1,x\n", "line 2"),
        ("n,loss\n1,2\n0,2\n", "line 3"),
    ],
)
def test_broken_tables(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        read_runs(path, x="n", loss="loss")
