"""BERT's rows: what stands where, which documents it is from, and that it depends on seed and step alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.encoder_text import LENGTHS, PAD, START, make_shards

from bedplate.data.sentence_pairs import SentencePairs
from bedplate.errors import UserError
from bedplate.nn.fast.linear_cross_entropy import IGNORE


def pairs(folder: Path, **changes: Any) -> SentencePairs:
    shards, marks = make_shards(folder / "shards")
    return SentencePairs(shards, marks, **{"length": 20, "batch_size": 6, "seed": 3} | changes)


def unmasked(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    """The true ids of each row, without what fills it up."""
    whole = torch.where(batch["targets"] == IGNORE, batch["ids"], batch["targets"])
    return [row[mask].tolist() for row, mask in zip(whole, batch["mask"], strict=True)]


def test_rows_are_marks_spans_and_segments(tmp_path: Path) -> None:
    source = pairs(tmp_path)
    end = source.shards.end_id
    for step in range(30):
        batch = source.batch(step)
        for row, segments, mask in zip(unmasked(batch), batch["segments"], batch["mask"], strict=True):
            first, second = row.index(end), len(row) - 1
            assert row[0] == START and row.count(end) == 2 and row[-1] == end and 2 <= first < second - 1
            assert segments.tolist() == [0] * (first + 1) + [1] * (second - first) + [0] * int((~mask).sum())
        assert batch["ids"][~batch["mask"]].eq(PAD).all() and batch["targets"][~batch["mask"]].eq(IGNORE).all()
        assert batch["hidden_per_row"].eq((batch["targets"] != IGNORE).sum().double() / 6).all()


def test_every_other_second_span_goes_on_and_the_rest_is_from_elsewhere(tmp_path: Path) -> None:
    """Tokens of a document count upwards, so that it shows where one goes on; two may meet so by chance."""
    source = pairs(tmp_path, length=30)
    end, follows = source.shards.end_id, Counter()
    for step in range(200):
        batch = source.batch(step)
        for row, answer in zip(unmasked(batch), batch["next_sentence"].tolist(), strict=True):
            border = row.index(end)
            for span in (row[1:border], row[border + 1 : -1]):
                assert {(after - before) % 50 for before, after in zip(span, span[1:], strict=False)} <= {1}
            goes_on = (row[border + 1] - row[border - 1]) % 50 == 1
            assert goes_on or answer == 1
            follows[answer] += 1
    assert follows[1] / follows.total() == pytest.approx(0.5, abs=0.05)


def test_all_stretches_come_once_in_an_epoch(tmp_path: Path) -> None:
    source = pairs(tmp_path, length=20, short=0.0, elsewhere=0.0, batch_size=1)
    assert source.num_items == sum(size // 17 + (size % 17 >= 2) for size in LENGTHS if size >= 2)
    rows = [unmasked(source.batch(step))[0] for step in range(source.num_items)]
    read = Counter(token for row in rows for token in row if token not in (START, source.shards.end_id))
    tokens = Counter(source.shards.read(0, source.shards.num_tokens).tolist())
    del tokens[source.shards.end_id]
    lost = tokens - read  # a document of one token, and one that is left over at the end of a document
    assert not read - tokens and lost.total() == sum(size % 17 == 1 for size in LENGTHS)


def test_a_batch_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    source, again = pairs(tmp_path), pairs(tmp_path)
    backwards = {step: again.batch(step) for step in reversed(range(5))}
    for step in range(5):
        assert all(torch.equal(value, backwards[step][name]) for name, value in source.batch(step).items())
    assert not torch.equal(source.batch(0)["ids"], pairs(tmp_path, seed=4).batch(0)["ids"])


def test_static_masks_take_turns_and_new_ones_never_end(tmp_path: Path) -> None:
    def rows_of_epoch(source: SentencePairs, epoch: int) -> Counter[tuple[tuple[int, ...], ...]]:
        first = epoch * source.num_items
        items = source.items(np.arange(first, first + source.num_items))
        pairs = zip(items["ids"].tolist(), items["targets"].tolist(), strict=True)
        return Counter(tuple(map(tuple, pair)) for pair in pairs)

    static, dynamic = pairs(tmp_path, maskings=2), pairs(tmp_path)
    assert rows_of_epoch(static, 0) == rows_of_epoch(static, 2) != rows_of_epoch(static, 1) == rows_of_epoch(static, 3)
    assert len({str(rows_of_epoch(dynamic, epoch)) for epoch in range(4)}) == 4


def test_rows_are_read_across_shards(tmp_path: Path) -> None:
    one, many = (make_shards(tmp_path / str(size), shard_tokens=size)[0] for size in (10_000, 7))
    marks = make_shards(tmp_path / "marks")[1]
    batches = [SentencePairs(each, marks, length=20, batch_size=8, seed=0).batch(5) for each in (one, many)]
    assert all(torch.equal(value, batches[1][name]) for name, value in batches[0].items())


def test_too_short_a_row_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no two spans"):
        pairs(tmp_path, length=4)
