"""Windows: pure in (seed, step), each once per epoch, and right at the borders of documents."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.data.order import Permutation
from bedplate.data.shards import TokenShards, write_shards
from bedplate.data.source import IGNORE, TokenWindows, sequential_windows
from bedplate.data.text import Document
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError

TEXTS = ["naïve document one", "b", "a longer third document\n" * 9, "東京", "the end " * 5]
END = 256  # the tokenizer is plain bytes


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> TokenShards:
    documents = [Document(str(number), text) for number, text in enumerate(TEXTS)]
    folder = tmp_path_factory.mktemp("data") / "shards"
    return write_shards(documents, ByteBPE.train([], vocab_size=257), folder, shard_tokens=100)


@pytest.fixture(scope="module")
def stream(shards) -> np.ndarray:
    return shards.read(0, shards.num_tokens)


def equal(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_batches_do_not_depend_on_what_came_before(shards):
    def source() -> TokenWindows:
        return TokenWindows(shards, length=8, batch_size=5, seed=3, isolate=True)

    straight, used = [source().batch(step) for step in range(40)], source()
    for step in (39, 0, 17, 17, 5, 38):
        assert equal(used.batch(step), straight[step])
    other = TokenWindows(shards, length=8, batch_size=5, seed=4, isolate=True)
    assert not equal(other.batch(0), straight[0])


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_each_epoch_visits_each_window_once(shards, stream, batch_size):
    source = TokenWindows(shards, length=16, batch_size=batch_size, seed=0)
    count = source.num_items
    assert count == (len(stream) - 1) // 16
    steps = math.ceil(3 * count / batch_size)
    rows = torch.cat([source.batch(step)["ids"] for step in range(steps)])[: 3 * count].view(3, count, 16)
    expected = sorted(stream[: count * 16].reshape(count, 16).tolist())
    for epoch in rows:
        assert sorted(epoch.tolist()) == expected
    assert not torch.equal(rows[0], rows[1])


def test_ranks_see_slices_of_one_order(shards):
    whole = TokenWindows(shards, length=8, batch_size=8, seed=1, isolate=True)
    half = TokenWindows(shards, length=8, batch_size=4, seed=1, isolate=True)
    for step in range(12):
        batch = whole.batch(step)
        for rank in range(2):
            part = {key: value[rank * 4 : rank * 4 + 4] for key, value in batch.items()}
            assert equal(part, half.batch(2 * step + rank))


def test_types_and_targets(shards):
    batch = TokenWindows(shards, length=10, batch_size=3, seed=0).batch(0)
    assert batch.keys() == {"ids", "targets"}
    assert all(value.shape == (3, 10) and value.dtype == torch.int64 for value in batch.values())
    assert torch.equal(batch["ids"][:, 1:], batch["targets"][:, :-1])


@pytest.mark.parametrize("length", [1, 5, 16, 64])
def test_isolated_documents(shards, stream, length):
    count = (len(stream) - 1) // length
    source = TokenWindows(shards, length=length, batch_size=count, seed=0, isolate=True)
    starts = Permutation(count, seed=0)[np.arange(count)] * length
    assert any(start > 0 and stream[start - 1] != END for start in starts)  # windows that begin inside a document
    number = np.cumsum(stream == END)  # the document of each position, counted another way: an end mark opens the next
    batch = source.batch(0)
    for row, start in enumerate(starts):
        ids, following = stream[start : start + length], stream[start + 1 : start + length + 1]
        assert batch["ids"][row].tolist() == ids.tolist()
        assert batch["documents"][row].tolist() == (number[start : start + length] - number[start]).tolist()
        assert batch["targets"][row].tolist() == following.tolist()
    assert (batch["targets"] == END).any()  # ends of documents are learned
    assert (batch["ids"] == END).any()  # and their beginnings, from the end mark before


def test_too_short(shards):
    tokens = shards.num_tokens
    assert TokenWindows(shards, length=tokens - 1, batch_size=1, seed=0).num_items == 1
    with pytest.raises(UserError, match=f"holds {tokens} tokens, too few .* windows of at most {tokens - 1} tokens"):
        TokenWindows(shards, length=tokens, batch_size=1, seed=0)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 400), batch_size=st.integers(1, 9), isolate=st.booleans())
def test_held_out_windows_predict_each_token_once(shards, stream, length, batch_size, isolate):
    batches = list(sequential_windows(shards, length=length, batch_size=batch_size, isolate=isolate))
    assert all(batch["ids"].shape[1] == length and len(batch["ids"]) <= batch_size for batch in batches)
    ids, targets = (torch.cat([batch[key].flatten() for batch in batches]).numpy() for key in ("ids", "targets"))
    assert ids[: len(stream)].tolist() == [END, *stream[:-1].tolist()]
    assert targets[: len(stream)].tolist() == np.where(stream == END, IGNORE, stream).tolist()
    assert (targets[len(stream) :] == IGNORE).all()
    # Each token is one byte here, so a window spells as many bytes as it predicts tokens.
    for batch in batches:
        assert torch.equal(batch["bytes"], (batch["targets"] != IGNORE).sum(1))
    assert sum(int(batch["bytes"].sum()) for batch in batches) == sum(len(text.encode()) for text in TEXTS)
    if isolate:
        documents = torch.cat([batch["documents"] for batch in batches])
        rows = torch.cat([batch["ids"] for batch in batches])
        opened = (rows == END).cumsum(1)
        real = (torch.arange(len(ids)) < len(stream)).view(rows.shape)
        assert torch.equal(documents[real], (opened - opened[:, :1])[real])


def test_held_out_bytes_with_learned_tokens(tmp_path):
    tokenizer = ByteBPE.train(TEXTS * 3, vocab_size=270)
    documents = [Document(str(number), text) for number, text in enumerate(TEXTS)]
    shards = write_shards(documents, tokenizer, tmp_path / "shards")
    spelled = sum(int(batch["bytes"].sum()) for batch in sequential_windows(shards, length=7))
    assert spelled == sum(len(text.encode()) for text in TEXTS)
