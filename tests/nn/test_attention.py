"""Attention against its formula, and the cache against its absence."""

import pytest
import torch
from torch import Tensor

from bedplate.nn.attend import attend, attend_plain
from bedplate.nn.attention import Attention
from bedplate.nn.cache import KVCache
from bedplate.nn.position import CAUSAL


def heads(count: int, length: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, length, 8, dtype=torch.float64, generator=generator).requires_grad_()


BIASES = {
    "none": None,
    "causal": CAUSAL,
    "may look": torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.4,
    "added": torch.randn(1, 4, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
}
BIASES["may look"][..., 0] = True  # a query that sees nothing has no softmax


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("bias", BIASES.values(), ids=BIASES)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_fast_equals_plain(kv_heads: int, bias: object, scale: float | None) -> None:
    inputs = heads(4, 5, 1), heads(kv_heads, 7, 2), heads(kv_heads, 7, 3)
    fast, plain = (form(*inputs, bias=bias, scale=scale) for form in (attend, attend_plain))
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(result.square().sum(), inputs) for result in (fast, plain)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_plain_is_the_formula_written_out() -> None:
    query, key, value = (heads(1, n, seed).detach() for n, seed in ((3, 1), (3, 2), (3, 3)))
    expected = torch.zeros_like(query)
    for row in range(2):
        for i in range(3):
            scores = torch.stack([query[row, 0, i] @ key[row, 0, j] / 8**0.5 for j in range(i + 1)])
            weights = scores.exp() / scores.exp().sum()
            expected[row, 0, i] = sum(w * value[row, 0, j] for j, w in enumerate(weights))
    torch.testing.assert_close(attend_plain(query, key, value, bias=CAUSAL), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_gradients_are_right(kv_heads: int) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 4, num_kv_heads=kv_heads, head_dim=3).double()
    x = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: attention(x, bias=CAUSAL), (x,))
    assert torch.autograd.gradcheck(lambda x, memory: attention(x, memory=memory), (x, memory))


def test_grouped_heads_are_full_heads_with_repeated_weights() -> None:
    torch.manual_seed(0)
    grouped, full = Attention(12, 6, num_kv_heads=2).double(), Attention(12, 6).double()
    for name in ("query", "out"):
        getattr(full, name).load_state_dict(getattr(grouped, name).state_dict())
    for name in ("key", "value"):
        for part in ("weight", "bias"):
            source = getattr(getattr(grouped, name), part).detach().unflatten(0, (2, 2))
            getattr(getattr(full, name), part).data = source.repeat_interleave(3, dim=0).flatten(0, 1)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(grouped(x, bias=CAUSAL), full(x, bias=CAUSAL), rtol=0, atol=1e-12)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, 2, dropout=0.5), torch.randn(1, 6, 8)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


@pytest.mark.parametrize("chunks", [[1] * 9, [4, 5], [3, 1, 1, 4], [9]])
def test_a_cache_changes_nothing(chunks: list[int]) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 4, num_kv_heads=2).double().eval()
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    cache = KVCache(2, 2, 9, 2, dtype=torch.float64, device=torch.device("cpu"))
    parts = [attention(part, bias=CAUSAL, state=cache) for part in x.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), attention(x, bias=CAUSAL), rtol=0, atol=1e-12)
    assert cache.lengths == [9, 9] and cache.capacity == 9


def test_a_ragged_cache_holds_each_sequence_behind_its_own_last_token() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 4).double().eval()
    x, lengths = torch.randn(3, 6, 8, dtype=torch.float64), [2, 6, 4]
    cache = KVCache(3, 4, 9, 2, dtype=torch.float64, device=torch.device("cpu"))
    attention(x, bias=CAUSAL, state=cache)
    cache.truncate(lengths)
    cache.select([2, 0])
    new = torch.randn(2, 2, 8, dtype=torch.float64)
    together = attention(new, bias=CAUSAL, state=cache)
    for row, source in enumerate((2, 0)):
        whole = torch.cat([x[source : source + 1, : lengths[source]], new[row : row + 1]], dim=1)
        torch.testing.assert_close(together[row], attention(whole, bias=CAUSAL)[0, -2:], rtol=0, atol=1e-12)
    assert cache.lengths == [6, 4]


def test_a_full_cache_says_so() -> None:
    cache = KVCache(1, 1, 2, 4, dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="holds 2 tokens, 3 were given"):
        cache.append(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4))
