"""Mixtures: weights met in every prefix, caps kept, any step at once, and mistakes told in one line."""

import time
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.data.mixture import LONGEST_CYCLE, Mixture, Share, lay_out_cycle, read_shares
from bedplate.errors import UserError


class Counted:
    """A source of `num_items` items whose item n is the number n, with the name of the source."""

    def __init__(self, name, num_items):
        self.name, self.num_items = name, num_items

    def items(self, numbers):
        return {"source": torch.full((len(numbers),), self.name), "number": torch.from_numpy(numbers)}


def mixture(*parts, batch_size=7):
    """From (weight, epochs, items) of each part."""
    shares = tuple(
        Share(f"part{name}", Decimal(weight), None if epochs is None else Decimal(epochs))
        for name, (weight, epochs, _) in enumerate(parts)
    )
    sources = tuple(Counted(name, items) for name, (_, _, items) in enumerate(parts))
    return Mixture(shares, sources, batch_size=batch_size)


def errors(parts, weights):
    """How far the number of items of each part is from its share, after each place: exact, as [places, parts]."""
    counts = (parts[:, None] == np.arange(len(weights))).cumsum(0)
    places = np.arange(1, len(parts) + 1)
    return np.array(
        [
            [Fraction(int(c)) - n * w for c, w in zip(row, weights, strict=True)]
            for n, row in zip(places.tolist(), counts, strict=True)
        ]
    )


WEIGHTS = st.lists(st.integers(1, 40), min_size=1, max_size=7)


@settings(deadline=None)
@given(WEIGHTS)
def test_every_prefix_of_a_cycle_has_the_weights_to_within_one_item(weights):
    parts, ranks = lay_out_cycle(weights)
    total = sum(weights)
    assert abs(errors(parts, [Fraction(weight, total) for weight in weights])).max() < 1
    for part, weight in enumerate(weights):
        assert ranks[parts == part].tolist() == list(range(weight))


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_items_come_in_order_and_as_often_as_allowed(data):
    weights = data.draw(WEIGHTS)
    sizes = data.draw(st.lists(st.integers(1, 30), min_size=len(weights), max_size=len(weights)))
    caps = data.draw(st.lists(st.integers(1, 3), min_size=len(weights), max_size=len(weights)))
    mixed = mixture(*zip(weights, caps, sizes, strict=True), batch_size=1)
    limits = [cap * size for cap, size in zip(caps, sizes, strict=True)]
    assert mixed.num_items == sum(limits)
    parts, numbers = mixed.places(np.arange(mixed.num_items))
    for part, limit in enumerate(limits):
        assert numbers[parts == part].tolist() == list(range(limit))
    # Between two ends of parts the others share by their weights, to within one item.
    start, active = 0, set(range(len(weights)))
    while active:
        last = {part: int(np.flatnonzero(parts == part)[-1]) for part in active}
        ended = min(last, key=last.__getitem__)
        total = sum(weights[part] for part in active)
        shares = [Fraction(weights[part] * (part in active), total) for part in range(len(weights))]
        assert abs(errors(parts[start : last[ended] + 1], shares)).max() < 1
        start, active = last[ended] + 1, active - {ended}


def test_a_part_that_is_used_up_leaves_its_share_to_the_others():
    mixed = mixture(("0.5", "2", 10), ("0.3", None, 1000), ("0.2", None, 1000), batch_size=1)
    parts, numbers = mixed.places(np.arange(1040))
    assert (parts[:40] == 0).sum() == 20 and (parts[40:] == 0).sum() == 0
    assert (parts[40:] == 1).sum() == 600 and (parts[40:] == 2).sum() == 400
    assert mixed.num_items is None


@pytest.mark.parametrize("batch_size", [1, 6, 64])
def test_batches_are_slices_of_one_order_from_any_step(batch_size):
    parts = (("0.55", "3", 9), ("0.3", "1.5", 31), ("0.15", None, 11))
    mixed = mixture(*parts, batch_size=batch_size)
    whole = mixture(*parts, batch_size=64 * 6).batch(0)
    steps = 64 * 6 // batch_size
    for step in (steps - 1, 0, steps // 2, *range(steps)):
        batch = mixture(*parts, batch_size=batch_size).batch(step)
        for name, values in batch.items():
            assert torch.equal(values, whole[name][step * batch_size : (step + 1) * batch_size])
            assert torch.equal(values, mixed.batch(step)[name])


def test_a_far_step_costs_no_more_than_a_near_one():
    mixed = mixture(("0.7", "1000", 10**9), ("0.2", None, 10**8), ("0.1", "0.5", 10**7), batch_size=480)
    step = 10**9
    began = time.perf_counter()
    batch = mixed.batch(step)
    assert time.perf_counter() - began < 0.05
    places = np.arange(step * 480, (step + 1) * 480)
    sevenths = (batch["source"] == 0).sum().item()
    assert abs(sevenths - 480 * 7 / 9) < 1 and (batch["source"] == 2).sum() == 0
    # The third part ended at some place with 5 000 000 items; the others have shared the rest as 7 to 2.
    end = 5 * 10**6 * 10
    expected = 35 * 10**6 + Fraction(7, 9) * (int(places[0]) - end)
    assert abs(batch["number"][batch["source"] == 0][0].item() - expected) < 2


def test_weights_are_exact_over_any_length():
    mixed = mixture(("0.333", None, 5), ("0.667", None, 5))
    _, numbers = mixed.places(np.array([10**15, 10**15 + 1, 10**15 + 2]))
    parts, _ = mixed.places(np.arange(10**15, 10**15 + 3))
    first = numbers[parts == 0][0]
    assert first == 333 * 10**12  # 10**15 is a whole number of cycles


def test_the_end_of_all_epochs():
    mixed = mixture(("0.7", "1", 10), ("0.3", "2", 10), batch_size=4)
    mixed.check_steps(7)
    assert len(mixed.batch(6)["number"]) == 4
    words = r"part0:0\.7x1,part1:0\.3x2 are used up after 30 items, before the end of step 8; .* at most 7 steps"
    with pytest.raises(UserError, match=words):
        mixed.check_steps(8)
    with pytest.raises(UserError, match=words):
        mixed.batch(7)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([("1", "0.01", 10)], "part0:1x0.01 allows not one of the 10 windows"),
        ([("0.33333", None, 10), ("0.66666", None, 10), ("0.00001", None, 10)], "too fine .* round them"),
        ([("1", "1", 3), ("1", "1", 3)], "used up after 6 items, before the end of step 1;"),
    ],
)
def test_mixtures_that_make_no_sense(parts, words):
    with pytest.raises(UserError, match=words):
        mixture(*parts)


def test_the_finest_weights_are_laid_out_quickly():
    began = time.perf_counter()
    mixed = mixture((LONGEST_CYCLE // 2 - 1, None, 10), (LONGEST_CYCLE // 2, None, 10), (1, "3", 10))
    assert time.perf_counter() - began < 2
    assert mixed.num_items is None


def test_shares_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    half = Decimal("0.5")
    assert read_shares("pydocs") == (Share("pydocs"),)
    assert read_shares("no/such/file,here.txt") == (Share("no/such/file,here.txt"),)
    assert read_shares("pydocs:0.7,stdlib:0.3x2") == (
        Share("pydocs", Decimal("0.7")),
        Share("stdlib", Decimal("0.3"), Decimal(2)),
    )
    assert read_shares("a,b.txt:0.5,c:d/e.txt:5e-1x1.5") == (
        Share("a,b.txt", half),
        Share("c:d/e.txt", half, Decimal("1.5")),
    )
    for path in ("a:0.5,b:0.5", "notes:2", "x:y"):
        (tmp_path / path).write_text("text")
        assert read_shares(path) == (Share(path),)


@pytest.mark.parametrize("corpus", ["pydocs:0.7,stdlib:0.3x2", "a,b.txt:1e-3,c:d:12.50x0.5", "pydocs:1x2"])
def test_shares_are_written_as_they_were_read(corpus):
    shares = read_shares(corpus)
    assert read_shares(",".join(map(str, shares))) == shares


@pytest.mark.parametrize(
    ("corpus", "words"),
    [
        ("pydocs:0.7,stdlib", "'stdlib' has no weight"),
        ("pydocs:zero,stdlib:1", "the weight of 'pydocs' is 'zero', no number above 0"),
        ("pydocs:0,stdlib:1", "the weight of 'pydocs' is '0', no"),
        ("pydocs:-1,stdlib:1", "the weight of 'pydocs' is '-1', no"),
        ("pydocs:nan", "the weight of 'pydocs' is 'nan', no"),
        ("pydocs:1e999999999", "the weight of 'pydocs' is '1e999999999', no"),
        ("pydocs:", "the weight of 'pydocs' is '', no"),
        ("pydocs:1x", "the cap of 'pydocs' is '', no"),
        ("pydocs:1x0", "the cap of 'pydocs' is '0', no"),
        ("pydocs:1xtwo", "the cap of 'pydocs' is 'two', no"),
        (":1", "':1' has no weight"),
        ("there/is/no:file.txt", "'there/is/no:file.txt' is no path, and no mixture"),
        ("pydocs:1,stdlib:1,pydocs:1", "names 'pydocs' twice"),
    ],
)
def test_mistakes_in_shares(corpus, words):
    with pytest.raises(UserError) as caught:
        read_shares(corpus)
    assert words in str(caught.value) and "\n" not in str(caught.value)
