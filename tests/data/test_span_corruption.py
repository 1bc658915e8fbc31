"""Hidden spans: the published lengths, the published example, and nothing lost."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bedplate.data.shards import TokenShards, cached
from bedplate.data.span_corruption import CorruptedWindows, Spans, corrupt
from bedplate.data.text import open_corpus
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError


@pytest.mark.parametrize(
    ("inputs", "raw", "hidden", "spans", "target"), [(512, 568, 85, 28, 114), (1024, 1137, 171, 57, 229)]
)
def test_lengths_are_those_of_the_released_code(inputs: int, raw: int, hidden: int, spans: int, target: int) -> None:
    assert Spans().raw_length(inputs) == (raw, target)
    assert Spans().counts(raw) == (hidden, spans)
    mask = Spans().mask(raw, np.random.default_rng(0))
    source, written = corrupt([5] * raw, mask, first_sentinel=1000, end_id=0)
    assert (len(source), len(written)) == (inputs, target)


def test_the_example_of_the_paper() -> None:
    hidden = np.array([False, False, True, True, False, False, True, False])
    source, target = corrupt(list(range(1, 9)), hidden, first_sentinel=99, end_id=0)
    assert source == [1, 2, 99, 5, 6, 98, 8, 0]
    assert target == [99, 3, 4, 98, 7, 97, 0]


@given(st.integers(3, 300), st.floats(0.05, 0.9), st.floats(1, 9), st.integers(0, 10**6))
def test_nothing_is_lost_and_as_much_is_hidden_as_counted(length: int, density: float, mean: float, seed: int) -> None:
    spans = Spans(density=density, mean=mean)
    hidden = spans.mask(length, np.random.default_rng(seed))
    count, number = spans.counts(length)
    assert len(hidden) == length and hidden.sum() == count and not hidden[0]
    assert int((np.diff(hidden.astype(int)) == 1).sum()) == number
    tokens = list(range(length))
    source, target = corrupt(tokens, hidden, first_sentinel=-1, end_id=10**9)
    inside: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token < 0:
            inside[token] = []
        else:
            inside[next(reversed(inside))].append(token)
    whole = [each for token in source[:-1] for each in (inside[token] if token < 0 else [token])]
    assert whole == tokens


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    path = tmp_path_factory.mktemp("text") / "days.txt"
    path.write_text("".join(f"The {n}th day was like the {n + 1}th day, and it rained again.\n" for n in range(300)))
    corpus = open_corpus(path)
    return cached(corpus, ByteBPE.train((document.text for document in corpus.train), vocab_size=300))[0]


def test_batches_depend_on_their_step_alone_and_epochs_hide_other_spans(shards: TokenShards, tmp_path: Path) -> None:
    made = [
        CorruptedWindows(shards, spans=Spans(), length=64, batch_size=4, seed=1, start_id=300, first_sentinel=399)
        for _ in range(2)
    ]
    made[0].batch(7)
    for name, value in made[0].batch(3).items():
        assert torch.equal(value, made[1].batch(3)[name])
    batch = made[0].batch(0)
    assert batch["source"].shape == (4, 64) and bool((batch["ids"][:, 0] == 300).all())
    assert torch.equal(batch["ids"][:, 1:], batch["targets"][:, :-1])
    one, again = (made[0].items(np.array([number]))["source"] for number in (0, made[0].num_items))
    assert not torch.equal(one, again)
    text = sum(int(batch["bytes"].sum()) for batch in made[0].sequential())
    assert 0.1 < text / shards.manifest["num_bytes"] < 0.2  # 15 % of the text is hidden


def test_what_cannot_be_is_told(shards: TokenShards) -> None:
    with pytest.raises(UserError, match="density"):
        Spans(density=1.0)
    with pytest.raises(UserError, match="too few"):
        CorruptedWindows(shards, spans=Spans(), length=10**6, batch_size=4, seed=1, start_id=300, first_sentinel=399)
