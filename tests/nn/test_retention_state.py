"""The state of retention: its size does not grow; sequences can be begun anew, copied and chosen."""

import pytest
import torch

from bedplate.nn.retention import Decay, retain_plain, spread_decays
from bedplate.nn.retention_state import RetentionState

HEADS = 2
DECAY = Decay.of(spread_decays(HEADS), device=torch.device("cpu"))


def state(batch: int = 3) -> RetentionState:
    return RetentionState(batch, HEADS, 4, 6, dtype=torch.float64, device=torch.device("cpu"))


def tokens(length: int, *, seed: int, batch: int = 1) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, HEADS, length, size, generator=chance, dtype=torch.float64) for size in (4, 4, 6)]


def test_its_size_does_not_grow() -> None:
    one = state()
    before = one.nbytes
    one.retain(*tokens(500, seed=0, batch=3), decay=DECAY)
    for place in range(3):
        one.retain(*tokens(1, seed=place, batch=3), decay=DECAY)
    assert one.nbytes == before == 3 * HEADS * 4 * 6 * 8 and one.lengths == [503] * 3


def test_sequences_of_different_lengths_go_on_as_if_alone() -> None:
    ours, texts = state(), [tokens(length, seed=length) for length in (1, 9, 70)]
    for row, text in enumerate(texts):
        ours.view([row]).retain(*text, decay=DECAY)
    assert ours.lengths == [1, 9, 70] and ours.next_positions(2).tolist() == [[1, 2], [9, 10], [70, 71]]
    new = tokens(1, seed=5, batch=3)
    mixed = ours.retain(*new, decay=DECAY)
    for row, text in enumerate(texts):
        whole = [torch.cat((old, part[row : row + 1]), dim=2) for old, part in zip(text, new, strict=True)]
        torch.testing.assert_close(mixed[row, :, 0], retain_plain(*whole, decay=DECAY)[0, :, -1], rtol=1e-12, atol=0)


def test_a_sum_cannot_go_back() -> None:
    ours = state()
    ours.retain(*tokens(4, seed=0, batch=3), decay=DECAY)
    with pytest.raises(ValueError, match="cannot go back"):
        ours.truncate([4, 3, 4])
    ours.truncate([4, 0, 4])
    assert ours.lengths == [4, 0, 4] and not ours.sums[1].any() and ours.sums[0].any()


def test_copies_and_choices() -> None:
    ours = state()
    ours.view([0]).retain(*tokens(4, seed=0), decay=DECAY)
    assert not ours.fork(0, 1, 3)  # sums over four tokens are not those over three
    assert ours.fork(0, 1, 4) and ours.lengths == [4, 4, 0]
    assert torch.equal(ours.sums[0], ours.sums[1])
    before = ours.sums.clone()
    ours.select([2, 0, 0])
    assert ours.lengths == [0, 4, 4] and torch.equal(ours.sums, before[[2, 0, 0]])
