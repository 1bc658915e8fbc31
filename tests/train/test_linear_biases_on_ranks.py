"""With layers split over ranks, each head keeps its own slope."""

import pytest
from tests.train.test_every_kind_of_learning import launch


@pytest.mark.slow
@pytest.mark.xdist_group("ranks")
def test_two_ranks_compute_what_one_computes() -> None:
    launch("tests.train.linear_biases")
