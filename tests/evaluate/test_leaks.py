"""Planted leaks are found, changed as they may be, and clean training text holds none of them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.evaluate.contamination import Item, Runs, audit, words_of
from bedplate.evaluate.leaks import MARGIN, PIECES, SMALLEST, cut, plant

POOL = [f"w{number}" for number in range(5000)]


def texts(count: int, length: int, *, seed: int = 0) -> list[Item]:
    chosen = random.Random(seed)
    return [Item(name=str(n), text=" ".join(chosen.choices(POOL, k=length))) for n in range(count)]


def test_every_planted_leak_is_found_and_nothing_else() -> None:
    rows = plant(texts(300, 40), " ".join(POOL), length=13, count=30)
    found = {row["leak"]: (row["planted"], row["found"], row["falsely found"]) for row in rows}
    assert found["as it is"] == found["other case, punctuation, lines"] == found["its first half"] == (30, 30, 0)
    assert found["every 10th word replaced"] == (30, 0, 0)  # no thirteen words in a row are left


def test_what_the_host_holds_is_not_planted() -> None:
    items = texts(20, 20)
    rows = plant(items, " ".join(item.text for item in items[:15]), length=13, count=20)
    assert [row["planted"] for row in rows] == [5] * 4 and rows[0]["found"] == 5


def test_leaks_in_a_corpus_are_recalled() -> None:
    """GPT-3's question at small scale: of 400 evaluation texts a tenth stands somewhere in 200 training documents."""
    items, training = texts(400, 60), [item.text for item in texts(200, 400, seed=1)]
    leaked = set(random.Random(2).sample(range(400), 40))
    for n, place in enumerate(sorted(leaked)):
        training[n] = f"{training[n][:500]}\n\n{items[place].text.title()}.\n{training[n][500:]}"
    found = audit({"set": items}, ((str(n), text) for n, text in enumerate(training)))
    assert {n for n, each in enumerate(found.checked["set"]) if each.dirty} == leaked
    assert found.lengths == {"set": 13}


def runs_in(documents: list[str], items: list[Item]) -> Runs:
    return audit({"set": items}, [(str(n), text) for n, text in enumerate(documents)], length=13).runs[0]


def test_a_hole_has_margins_and_small_pieces_go() -> None:
    (leak,) = texts(1, 20)
    left, right = "x" * 1000 + " ", " " + "y" * (MARGIN + SMALLEST - 2)
    runs = runs_in([left + leak.text + right], [leak])
    assert cut(left + leak.text + right, [runs]) == [(left + leak.text)[: len(left) - MARGIN]]
    assert cut(left + leak.text + right + "y", [runs])[1:] == ["y" * SMALLEST]
    assert cut(left + right, [runs]) == [left + right]


def test_a_document_of_many_holes_is_left_out_and_boilerplate_stays() -> None:
    (leak,) = texts(1, 20)
    part = f"{'x' * 3 * MARGIN} {leak.text} "
    for holes, kept in ((PIECES - 1, PIECES - 1), (PIECES, 0)):
        text = part * holes + "z" * (MARGIN + 2)
        assert len(cut(text, [runs_in([text], [leak])])) == kept
    runs = runs_in([part] * 11, [leak])
    assert cut(part, [runs], common=10) == [part] and cut(part, [runs], common=11) != [part]


@given(
    st.lists(
        st.sampled_from(
            ["Ab,", "c", "\u00e9", "d\u2019e", "--", "\n", "\u00a0", "\u3000", "\ufb01", "\u00a8", "\u0301"]
        )
    )
)
def test_words_have_places(parts: list[str]) -> None:
    """Cutting finds words one by one, with their places: they must be those of the whole text."""
    text = " ".join(parts)
    assert [word for part in text.split() for word in words_of(part)] == words_of(text)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_left_of_a_leak(seed: int) -> None:
    items, (host,) = texts(30, 50, seed=seed), texts(1, 3000, seed=seed + 100)
    words = host.text.split()
    for n, leak in enumerate(items[:5]):
        words.insert(500 * (n + 1), leak.text.upper())
    text = " ".join(words)
    pieces = cut(text, [runs_in([text], items)])
    assert len(pieces) == 6
    again = audit({"set": items}, [("cut", piece) for piece in pieces], length=13)
    assert not any(each.dirty for each in again.checked["set"])
