"""How much BERT hides, and what stands in its place."""

from pathlib import Path

import numpy as np
import pytest
from tests.data.encoder_text import START, make_shards

from bedplate.data.masking import Marks, Masking
from bedplate.errors import UserError
from bedplate.nn.fast.linear_cross_entropy import IGNORE

PLAIN = Marks(start=0, separator=1, mask=2, pad=3, vocab_size=50)


def row(length: int) -> np.ndarray:
    return np.concatenate([[0], 10 + np.arange(length - 2) % 30, [1]])


@pytest.mark.parametrize(
    ("length", "most", "hidden"), [(128, 20, 19), (512, 77, 77), (512, 20, 20), (8, 20, 1), (3, 20, 1)]
)
def test_the_budget(length: int, most: int, hidden: int) -> None:
    _, targets = Masking(most=most).hide(row(length), PLAIN, np.random.default_rng(0))
    assert (targets != IGNORE).sum() == hidden


def test_what_is_hidden_and_what_stands_there() -> None:
    """80 % [MASK], 10 % the token, 10 % any of 50, of which one in 50 is the token by chance."""
    chance, ids = np.random.default_rng(0), row(130)
    kinds = np.zeros(4)
    for _ in range(3000):
        seen, targets = Masking().hide(ids, PLAIN, chance)
        hidden = targets != IGNORE
        assert (
            not hidden[[0, -1]].any()
            and (targets[hidden] == ids[hidden]).all()
            and (seen[~hidden] == ids[~hidden]).all()
        )
        masked, same = seen[hidden] == PLAIN.mask, seen[hidden] == ids[hidden]
        kinds += [masked.sum(), same.sum(), (~masked & ~same).sum(), np.isin(seen[hidden], [0, 1, 3]).sum()]
    shares = kinds / kinds[:3].sum()
    assert shares == pytest.approx([0.802, 0.102, 0.096, 0.006], abs=0.004)  # special tokens come, too


def test_every_place_is_as_likely() -> None:
    chance, ids, counts = np.random.default_rng(0), row(42), np.zeros(42)
    for _ in range(4000):
        counts += Masking().hide(ids, PLAIN, chance)[1] != IGNORE
    assert counts[1:-1] / 4000 == pytest.approx(np.full(40, 6 / 40), abs=0.03)


def test_whole_words_are_hidden_or_not(tmp_path: Path) -> None:
    """Ids that go on with a word belong to what is before them, but for a mark in between."""
    shards, marks = make_shards(tmp_path / "shards")
    assert marks.continues is not None
    chance = np.random.default_rng(0)
    ids = np.array([START, *range(200, 220), shards.end_id, *range(202, 222), shards.end_id])
    for _ in range(300):
        _, targets = Masking(share=0.3, whole_words=True).hide(ids, marks, chance)
        hidden = targets != IGNORE
        assert 1 <= hidden.sum() <= round(0.3 * len(ids))
        for place in np.flatnonzero(marks.continues[ids]):
            if ids[place - 1] not in (START, shards.end_id):
                assert hidden[place] == hidden[place - 1]


@pytest.mark.parametrize("changes", [{"share": 1.5}, {"masked": 0.9, "kept": 0.2}, {"most": 0}])
def test_senseless_settings_are_user_errors(changes: dict[str, float]) -> None:
    with pytest.raises(UserError):
        Masking(**changes)
