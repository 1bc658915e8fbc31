"""The keyed permutation: a true permutation of every size, different for every key, without visible order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.data.order import Permutation


@given(size=st.integers(1, 3000), seed=st.integers(-(2**70), 2**70), epoch=st.integers(0, 10**9))
def test_visits_everything_once(size, seed, epoch):
    items = Permutation(size, seed=seed, epoch=epoch)[np.arange(size)]
    assert sorted(items.tolist()) == list(range(size))


def test_integers_and_arrays_agree():
    order = Permutation(1000, seed=3)
    assert [order[place] for place in range(1000)] == order[np.arange(1000)].tolist() == list(order)
    assert len(order) == 1000


def test_huge_sizes_need_no_memory():
    order = Permutation(10**15 + 7, seed=0)
    places = np.arange(10**15 - 1000, 10**15)
    items = order[places]
    assert len(set(items.tolist())) == 1000
    assert items.min() >= 0
    assert items.max() < 10**15 + 7


def test_keys_give_unrelated_orders():
    orders = [Permutation(1000, seed=seed, epoch=epoch)[np.arange(1000)] for seed in range(4) for epoch in range(4)]
    assert len({order.tobytes() for order in orders}) == 16
    for place, order in enumerate(orders):
        for other in orders[:place]:
            assert (order == other).sum() < 12  # two random orders agree in one place on average


def test_looks_random():
    size = 10_000
    items = Permutation(size, seed=1)[np.arange(size)]
    assert abs(np.corrcoef(np.arange(size), items)[0, 1]) < 0.04  # four standard deviations
    assert abs(np.corrcoef(items[:-1], items[1:])[0, 1]) < 0.04
    halves, _, _ = np.histogram2d(np.arange(size), items, bins=10)
    assert ((halves - size / 100) ** 2 / (size / 100)).sum() < 81 + 5 * (2 * 81) ** 0.5


def test_order_is_the_same_everywhere():
    assert Permutation(10, seed=0)[np.arange(10)].tolist() == GOLDEN


def test_places_outside():
    with pytest.raises(IndexError):
        Permutation(5, seed=0)[5]
    with pytest.raises(IndexError):
        Permutation(5, seed=0)[np.array([-1])]


GOLDEN = [9, 2, 4, 3, 5, 7, 0, 1, 8, 6]  # a change here changes the batches of every resumed run
