"""Retention in four forms, which are one function: for any chunk, for packed documents, and going on from a state."""

from typing import Any

import pytest
import torch
from tests.support import assert_close

from bedplate.nn.position import restarting_positions
from bedplate.nn.retention import (
    Decay,
    no_sums,
    power_decays,
    retain,
    retain_chunkwise,
    retain_parallel,
    retain_plain,
    retain_recurrent,
    spread_decays,
)

EXACT, SINGLE = (torch.float64, 1e-10), (torch.float32, 1e-4)


def heads(length: int, dtype: torch.dtype = torch.float64, batch: int = 2, num_heads: int = 3) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    sizes = (8, 8, 10)
    shapes = [(batch, num_heads, length, size) for size in sizes]
    return [torch.randn(shape, generator=chance, dtype=dtype).requires_grad_(True) for shape in shapes]


def decay(documents: torch.Tensor | None = None, num_heads: int = 3) -> Decay:
    ages = None if documents is None else restarting_positions(documents)
    return Decay.of(spread_decays(num_heads), ages=ages, device=torch.device("cpu"))


def test_decays_are_the_published_ones() -> None:
    assert power_decays(4) == (0.96875, 0.984375, 0.9921875, 0.99609375)
    assert spread_decays(4) == pytest.approx((0.96875, 0.987598, 0.995078, 0.998047), abs=1e-6)
    assert spread_decays(1) == (0.96875,)


def test_the_matrix_of_decays_is_the_papers() -> None:
    first = Decay.of((0.96875,), device=torch.device("cpu")).factors(0, 3, 3, torch.float64).within[0, 0]
    expected = [[1, 0, 0], [0.96875, 1, 0], [0.9384765625, 0.96875, 1]]
    torch.testing.assert_close(first, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("dtype", "bound"), [EXACT, SINGLE])
@pytest.mark.parametrize("length", [1, 5, 64, 65, 200])
def test_the_parallel_form_is_the_formula(length: int, dtype: torch.dtype, bound: float) -> None:
    parts = heads(length, dtype, batch=1)
    expected = retain_plain(*(part.detach() for part in parts), decay=decay())
    assert_close(retain_parallel(*parts, decay=decay()), expected, bound=bound, name="parallel")
    assert_close(retain(*parts, decay=decay()), expected, bound=bound, name="the faster of the two")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [EXACT, SINGLE])
@pytest.mark.parametrize("chunk", [1, 7, 50, 64, 200, 300])
def test_chunks_of_any_size(chunk: int, dtype: torch.dtype, bound: float, packed: bool) -> None:
    """Values and gradients of the chunkwise and the recurrent form are those of the parallel one."""
    documents = torch.tensor([[0] * 63 + [1] * 2 + [2] * 135, [0] * 200])
    fade = decay(documents if packed else None)
    found: list[list[torch.Tensor]] = []
    for form in ("parallel", "chunkwise", "recurrent"):
        query, key, value = heads(200, dtype)
        if form == "parallel":
            out = retain_parallel(query, key, value, decay=fade)
        elif form == "chunkwise":
            out, _ = retain_chunkwise(query, key, value, decay=fade, sums=no_sums(key, value), chunk=chunk)
        else:
            out, _ = retain_recurrent(query, key, value, decay=fade, sums=no_sums(key, value))
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        (out * weights).sum().backward()
        found.append([out, *(part.grad for part in (query, key, value) if part.grad is not None)])
    for name, others in zip(("chunkwise", "recurrent"), found[1:], strict=True):
        assert len(others) == 4
        for what, actual, expected in zip(("values", "query", "key", "value"), others, found[0], strict=True):
            assert_close(actual, expected, bound=bound, name=f"{name}: {what}")


def test_documents_do_not_see_each_other() -> None:
    parts = [part.detach() for part in heads(30, batch=1)]
    documents = torch.tensor([[0] * 11 + [1] * 1 + [2] * 18])
    packed = retain_plain(*parts, decay=decay(documents))
    start = 0
    for length in (11, 1, 18):
        alone = retain_plain(*(part[:, :, start : start + length] for part in parts), decay=decay())
        assert_close(packed[:, :, start : start + length], alone, bound=1e-12, name=f"document of {length}")
        start += length


@pytest.mark.parametrize("pieces", [(1,) * 20, (7, 1, 12), (3, 17), (20,)])
def test_the_sums_go_on(pieces: tuple[int, ...]) -> None:
    """In pieces, by either form that carries sums = at once, and the same sums at the end."""
    parts = [part.detach() for part in heads(20)]
    whole, end = retain_chunkwise(*parts, decay=decay(), sums=no_sums(parts[1], parts[2]), chunk=6)
    sums, found = no_sums(parts[1], parts[2]), []
    for number, split in enumerate(zip(*(part.split(pieces, dim=2) for part in parts), strict=True)):
        form: Any = (retain_chunkwise, retain_recurrent)[number % 2]
        mixed, sums = form(*split, decay=decay(), sums=sums)
        found.append(mixed)
    assert_close(torch.cat(found, dim=2), whole, bound=1e-12, name="values")
    assert_close(sums, end, bound=1e-12, name="sums")


def test_nothing_overflows_far_out() -> None:
    """Powers of gamma vanish: 1e-138 after 10,000 tokens of the fastest head, and no negative power is ever made."""
    parts = [part.detach() for part in heads(10_000, torch.float32, batch=1, num_heads=2)]
    out = retain(*parts, decay=decay(num_heads=2))
    assert out.isfinite().all()
    late = retain(*(part[:, :, -3000:] for part in parts), decay=decay(num_heads=2))
    assert_close(out[:, 0, -1], late[:, 0, -1], bound=1e-5, name="the fastest head forgets")
