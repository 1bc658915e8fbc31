"""The cache against lists of tokens, whatever is appended, cut and selected."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bedplate.nn.attention import Attention
from bedplate.nn.cache import KVCache
from bedplate.nn.position import CAUSAL, rotary

CAPACITY = 12


def new_cache(batch: int, *, kv_heads: int = 2, head_dim: int = 3) -> KVCache:
    return KVCache(batch, kv_heads, CAPACITY, head_dim, dtype=torch.float64, device=torch.device("cpu"))


def numbered(batch: int, length: int, first: int) -> torch.Tensor:
    """[batch 2 length 3], each token with a number of its own."""
    numbers = first + torch.arange(batch * length, dtype=torch.float64).reshape(batch, 1, length, 1)
    return numbers.expand(batch, 2, length, 3)


@given(st.data())
def test_whatever_happens_a_cache_is_a_list_of_tokens(data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, 4))
    cache, lists, first = new_cache(batch), [[] for _ in range(batch)], 1
    for _ in range(data.draw(st.integers(1, 8))):
        what = data.draw(st.sampled_from(["append", "truncate", "select", "fork", "view"]))
        longest = max(cache.lengths)
        if what == "append" and longest < CAPACITY:
            length = data.draw(st.integers(1, CAPACITY - longest))
            new = numbered(len(lists), length, first)
            cache.append(new, -new)
            for row, tokens in enumerate(lists):
                tokens += new[row, 0, :, 0].tolist()
            first += new.shape[0] * length
        elif what == "truncate":
            lengths = [data.draw(st.integers(0, len(tokens))) for tokens in lists]
            cache.truncate(lengths)
            lists = [tokens[:length] for tokens, length in zip(lists, lengths, strict=True)]
        elif what == "select":
            chosen = data.draw(st.lists(st.integers(0, len(lists) - 1), min_size=1, max_size=4))
            cache.select(chosen)
            lists = [list(lists[index]) for index in chosen]
        elif what == "fork":
            source, target = (data.draw(st.integers(0, len(lists) - 1)) for _ in range(2))
            length = data.draw(st.integers(0, len(lists[source])))
            assert cache.fork(source, target, length)
            lists[target] = lists[source][:length]
        elif what == "view":
            rows = data.draw(st.lists(st.integers(0, len(lists) - 1), min_size=1, unique=True))
            view, room = cache.view(rows), CAPACITY - max(len(lists[row]) for row in rows)
            assert view.lengths == [len(lists[row]) for row in rows]
            if room:
                new = numbered(len(rows), 1, first)
                view.append(new, -new)
                for place, row in enumerate(rows):
                    lists[row] = [*lists[row], new[place, 0, 0, 0].item()]
                first += len(rows)
        assert cache.lengths == [len(tokens) for tokens in lists]
        for row, tokens in enumerate(lists):
            for stored, sign in ((cache.keys, 1), (cache.values, -1)):
                held = stored[row, :, : len(tokens)]
                assert torch.equal(held, sign * torch.tensor(tokens).double()[None, :, None].expand_as(held))


@pytest.mark.parametrize("lengths", [[3, 9], [-1, 2], [8, 6]])
def test_what_is_not_held_cannot_be_kept(lengths: list[int]) -> None:
    cache = new_cache(2)
    cache.append(numbered(2, 8, 1), numbered(2, 8, 1))
    cache.truncate([8, 5])
    with pytest.raises(ValueError, match=r"holds \[8, 5\] tokens"):
        cache.truncate(lengths)
    cache.select([])
    assert cache.lengths == []


def test_a_refused_append_changes_nothing() -> None:
    cache = new_cache(2)
    cache.append(numbered(2, 8, 1), numbered(2, 8, 1))
    before = cache.keys.clone()
    with pytest.raises(ValueError, match="holds 12 tokens, 13 were given"):
        cache.append(numbered(2, 5, 90), numbered(2, 5, 90))
    assert torch.equal(cache.keys, before) and cache.lengths == [8, 8]


def test_a_ragged_cache_is_full_when_its_longest_sequence_is() -> None:
    cache = new_cache(2)
    cache.append(numbered(2, 12, 1), numbered(2, 12, 1))
    cache.truncate([3, 12])
    with pytest.raises(ValueError, match="13 were given"):
        cache.append(numbered(2, 1, 1), numbered(2, 1, 1))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_rotary_positions_go_on_behind_the_cache(kv_heads: int) -> None:
    torch.manual_seed(0)
    attention = Attention(16, 4, num_kv_heads=kv_heads).double().eval()
    x, positions = torch.randn(2, 9, 16, dtype=torch.float64), torch.arange(9)[None]
    expected = attention(x, bias=CAUSAL, rotary=rotary(positions, 4))
    cache = new_cache(2, kv_heads=kv_heads, head_dim=4)
    parts = zip(x.split([4, 1, 3, 1], dim=1), positions.split([4, 1, 3, 1], dim=1), strict=True)
    pieces = [attention(part, bias=CAUSAL, rotary=rotary(at, 4), state=cache) for part, at in parts]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=0, atol=1e-12)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(1, 4), st.sampled_from([4, 2, 1]), st.booleans()
)
def test_a_ragged_batch_is_each_sequence_alone(lengths: list[int], new: int, kv_heads: int, symbolic: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 4, num_kv_heads=kv_heads).double().eval()
    x = torch.randn(len(lengths), max(lengths) + new, 8, dtype=torch.float64)
    cache = new_cache(len(lengths), kv_heads=kv_heads, head_dim=2)
    attention(x[:, : max(lengths)], bias=CAUSAL, state=cache)
    cache.truncate(lengths)
    positions = cache.next_positions(new).expand(len(lengths), -1)
    following = torch.stack([x[row, at] for row, at in enumerate(positions)])
    bias = CAUSAL if symbolic else torch.arange(max(lengths) + new) <= positions[:, None, :, None]
    together = attention(following, bias=bias, state=cache)
    for row, length in enumerate(lengths):
        alone = attention(x[row : row + 1, : length + new], bias=CAUSAL)[0, length:]
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-12)
