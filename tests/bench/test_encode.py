"""The benchmark of encoders compares equal work: both sides have the same weights, so the same first loss."""

import pytest
import torch

from bedplate.bench import encode
from bedplate.bench.encode import Cell, bench
from bedplate.errors import UserError
from bedplate.models.bert import PooledConfig

TINY = PooledConfig(vocab_size=60, context_length=16, dim=16, num_layers=2, num_heads=2, mlp_dim=32)


def test_both_sides_do_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    def once(ours, peer, *, repeats):
        given.append((ours(), peer()))
        return 1.0, 2.0

    monkeypatch.setitem(encode.SIZES, "tiny", TINY)
    monkeypatch.setattr(encode, "take_turns", once)
    rows = bench(Cell(size="tiny", batch=4, length=16), repeats=1)
    assert [row.ratio for row in rows] == [2.0, 2.0, 2.0]
    full, padded, losses = given
    torch.testing.assert_close(full[0], full[1].last_hidden_state, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded[0][0, :4], padded[1].last_hidden_state[0, :4], rtol=1e-4, atol=1e-5)
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_an_unknown_size_is_a_user_error() -> None:
    with pytest.raises(UserError, match="there is no size"):
        bench(Cell(size="bert-huge"), repeats=1)
