"""Pairs of texts: the generated task, files, and batches that are a pure function of the step."""

import gzip
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bedplate.data.generated_translation import generated_pair
from bedplate.data.pairs import POOL, PairBatches, open_pairs
from bedplate.errors import UserError
from bedplate.nn.fast.linear_cross_entropy import IGNORE


def test_generated_pairs_are_right_where_a_reader_can_tell() -> None:
    pairs = [generated_pair(number) for number in range(3000)]
    assert pairs == [generated_pair(number) for number in range(3000)]
    assert len({pair.source for pair in pairs}) > 2900
    meanings: dict[str, set[str]] = {}
    for pair in pairs:
        meanings.setdefault(pair.source, set()).add(pair.target)
        assert pair.source[0].isupper() and pair.source.endswith(".") and pair.target.endswith(".")
        if ", dass " in pair.source:  # the verb stands last in German, and " that " in English
            assert " that " in pair.target
    assert all(len(each) == 1 for each in meanings.values())
    by_source = {pair.source: pair.target for pair in pairs}
    example = next(source for source in by_source if source.endswith(" hat.") and "dass" in source)
    assert " has " in by_source[example]


def test_no_held_out_sentence_is_trained_on() -> None:
    text = open_pairs("generated")
    assert len(text.train) == 20_000 and len(text.held_out) > 450
    assert not {pair.source for pair in text.train} & {pair.source for pair in text.held_out}


@pytest.fixture
def batches() -> PairBatches:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 9, (2, 53), generator=generator).tolist()
    sources, targets = ([[number + 10] * length for number, length in enumerate(side)] for side in lengths)
    sources[7] = [17] * 12  # too long
    return PairBatches(sources, targets, length=10, batch_size=4, seed=3, start_id=1, end_id=2)


def test_every_pair_that_fits_comes_once_an_epoch(batches: PairBatches) -> None:
    assert 7 not in batches.kept and len(batches.kept) == 52
    steps = 52 * POOL // 4  # a whole number of epochs and of pools
    seen = [int(row[0]) - 10 for step in range(steps) for row in batches.batch(step)["source"]]
    assert sorted(seen) == sorted([*range(7), *range(8, 53)] * POOL)


@given(st.integers(0, 10**9))
def test_a_batch_depends_on_its_step_alone(step: int) -> None:
    sources = [[number % 50 + 3] * (number % 7 + 1) for number in range(200)]
    made = [PairBatches(sources, sources, length=9, batch_size=4, seed=0, start_id=1, end_id=2) for _ in range(2)]
    made[0].batch(5)
    for name, value in made[0].batch(step).items():
        assert torch.equal(value, made[1].batch(step)[name])


def test_rows_are_shifted_padded_and_masked(batches: PairBatches) -> None:
    batch = batches.batch(0)
    for row in range(4):
        length = int((batch["targets"][row] != IGNORE).sum())
        targets = batch["targets"][row, :length]
        assert targets[-1] == 2 and batch["ids"][row, 0] == 1
        assert torch.equal(batch["ids"][row, 1:length], targets[:-1])
        assert int(batch["mask"][row].sum()) == len(batches.sources[int(targets[0]) - 10]) + 1
    lengths = [int((batches.batch(step)["targets"] == IGNORE).sum()) for step in range(13)]
    assert sum(lengths) < 0.2 * sum(batches.batch(step)["targets"].numel() for step in range(13))  # little padding


def test_files_are_read_and_mistakes_named(tmp_path: Path) -> None:
    (tmp_path / "a.de").write_text("".join(f"Satz {number}\n" for number in range(300)))
    (tmp_path / "b.en.gz").write_bytes(gzip.compress("".join(f"sentence {n}\n" for n in range(300)).encode()))
    names = f"{tmp_path}/a.de,{tmp_path}/b.en.gz"
    text = open_pairs(names)
    assert len(text.train) + len(text.held_out) == 300 and 3 < len(text.held_out) < 40
    assert text.digest == open_pairs(names).digest
    assert len(open_pairs(names, names).held_out) == 300
    (tmp_path / "short.en").write_text("one\n")
    (tmp_path / "bad.en").write_bytes(b"\xff\xfe")
    for target, words in (("short.en", "300 lines"), ("bad.en", "cannot be read"), ("none.en", "cannot be read")):
        with pytest.raises(UserError, match=words):
            open_pairs(f"{tmp_path}/a.de,{tmp_path}/{target}")
    with pytest.raises(UserError, match="not two files"):
        open_pairs(f"{tmp_path}/a.de")
