"""The audit of contamination against texts of which it is known what they share, and against a slow search."""

import json
from pathlib import Path
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.cli import main
from bedplate.evaluate.contamination import (
    Item,
    Runs,
    audit,
    check,
    run_length,
    runs_of,
    score_rows,
    search,
    table_row,
    words_of,
)
from bedplate.evaluate.interval import difference, mean_interval

WORDS = [f"w{number}" for number in range(400)]


def item(words: list[str], name: str = "", score: float | None = None) -> Item:
    return Item(name=name, text=" ".join(words), score=score)


def test_words_are_those_of_the_paper() -> None:
    assert words_of("Don't  PANIC:\n(it's\tonly_3.14!)") == ["dont", "panic", "its", "only314"]
    assert words_of("Stra\u00dfe, na\u00efve \u201cquotes\u201d") == ["stra\u00dfe", "na\u00efve", "quotes"]
    assert words_of("re\u0301sume\u0301 \ufb01ne\u00a0day") == ["r\u00e9sum\u00e9", "fine", "day"]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([30] * 40, 13), ([5] * 40, 8), ([10] * 40, 10), ([11, *[50] * 10], 11), ([9, 11, *[50] * 19], 11), ([], 8)],
)
def test_runs_are_as_long_as_the_fifth_percentile(lengths: list[int], expected: int) -> None:
    assert run_length(item(WORDS[:length]) for length in lengths) == expected


def test_one_word_decides() -> None:
    """Twelve words in a row are clean, thirteen are dirty, wherever they stand, and the span is all of them."""
    text = item(WORDS[:60], "text")
    for start in (0, 20, 47):
        for held, dirty in ((12, False), (13, True)):
            training = ("page", " ".join(["a", *WORDS[start : start + held], "b"]))
            (found,) = audit({"set": [text]}, [training], length=13).checked["set"]
            assert found.dirty == dirty
            assert [(span.start, span.words, span.documents, span.first) for span in found.spans] == (
                [(start, " ".join(WORDS[start : start + 13]), 1, "page")] if dirty else []
            )


def test_spans_go_on_as_long_as_words_do() -> None:
    training = [("a", " ".join(WORDS[3:20])), ("b", " ".join(WORDS[30:45])), ("c", " ".join(WORDS[30:45]))]
    (found,) = audit({"set": [item(WORDS[:60])]}, training, length=8).checked["set"]
    assert [(span.start, span.words.count(" ") + 1, span.documents) for span in found.spans] == [
        (3, 17, 1),
        (30, 15, 2),
    ]


def test_what_many_documents_hold_is_boilerplate_where_asked() -> None:
    training = [(str(number), " ".join(WORDS[:9])) for number in range(5)]
    for common, dirty in ((None, True), (5, True), (4, False)):
        (found,) = audit({"set": [item(WORDS[:20])]}, training, length=8, common=common).checked["set"]
        assert found.dirty == dirty


@given(st.data())
def test_nothing_is_missed_and_nothing_made_up(data: st.DataObject) -> None:
    """Against a search of every run in every document; few words, so that much repeats."""
    some = st.lists(st.sampled_from("abc"), max_size=30)
    texts, documents = data.draw(st.lists(some, max_size=4)), data.draw(st.lists(some, max_size=4))
    every = [Runs.of(map(item, texts), length) for length in (2, 5)]
    words = search(((str(place), " ".join(document)) for place, document in enumerate(documents)), every)
    assert words == sum(map(len, documents))
    for runs in every:
        for text, found in zip(texts, check(map(item, texts), runs), strict=True):
            held = {run: [run in set(runs_of(document, runs.length)) for document in documents] for run in runs.found}
            assert found.dirty == any(any(held[run]) for run in runs_of(text, runs.length))
            assert all(runs.found[run].documents == sum(each) for run, each in held.items())
            assert all(
                entry.first == str(held[run].index(True)) for run, entry in runs.found.items() if entry.documents
            )


def test_the_table_has_shares_and_the_scores_of_both_parts() -> None:
    texts = [item(WORDS[9 * n : 9 * n + 9], str(n), score=float(n < 6)) for n in range(20)] + [item(["short"])]
    training = [("leak", texts[n].text) for n in range(4)]
    found = audit({"set": texts}, training, length=8)
    row = table_row("set", found.checked["set"], 8)
    assert (row["texts"], row["too short"], row["dirty"], row["share"]) == (21, 1, 4, 4 / 21)
    whole, clean, dirty, apart = score_rows("set", found.checked["set"])
    assert (whole["score"], clean["score"], dirty["score"]) == (6 / 20, 2 / 16, 1.0)
    assert (clean["texts"], dirty["texts"]) == (16, 4)
    assert apart["score"] == 1 - 2 / 16 and apart["low"] > 0


def test_differences_have_published_intervals() -> None:
    """Newcombe 1998, table II, 56 of 70 against 48 of 80; and Welch's formula."""
    first, second = [1.0] * 56 + [0.0] * 14, [1.0] * 48 + [0.0] * 32
    assert difference(first, second) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    deviations = NormalDist().inv_cdf(0.975)
    assert difference([1.0, 2.0, 6.0], [2.0, 4.0])[0] == 0.0
    assert difference([1.0, 2.0, 6.0], [2.0, 4.0])[2] == pytest.approx(deviations * (7 / 3 + 2 / 2) ** 0.5)
    assert mean_interval([2.0, 4.0]) == pytest.approx((3 - deviations, 3 + deviations))


def test_the_command_reads_sets_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "page.txt").write_text("before " + " ".join(WORDS[20:40]) + " after")
    rows = [
        {"question": " ".join(WORDS[20 * n : 20 * n + 20]), "choices": ["yes", "no"], "ok": n == 1} for n in range(9)
    ]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = f"contamination --train {tmp_path}/train --eval {tmp_path}/eval.jsonl --fields question,choices --score ok"
    words += f" --plant 5 --json {tmp_path}/out --texts {tmp_path}/texts --clean {tmp_path}/clean"
    assert main(words.split()) == 0
    out, texts = json.loads((tmp_path / "out").read_text()), (tmp_path / "texts").read_text().splitlines()
    assert (out["rows"][0]["N"], out["rows"][0]["dirty"], out["training words"]) == (13, 1, 22)
    assert [json.loads(line)["dirty"] for line in texts] == [n == 1 for n in range(9)]
    assert json.loads(texts[1])["spans"][0]["first"] == "page.txt"
    assert (tmp_path / "clean").read_text() == ""
    assert "w20 w21" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "more", "named"),
    [
        ('{"question": "a"}', "", "no field 'text'"),
        ('{"text": 3}', "", "text is no text"),
        ('{"text": "a"}', "--score ok", "no field 'ok'"),
        ('{"text": "a", "ok": "yes"}', "--score ok", "ok is 'yes'"),
        ("[1]", "", "line 1 is no JSON object"),
        ("", "", "is empty"),
    ],
)
def test_mistakes_are_named(
    line: str, more: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.txt").write_text("some words")
    (tmp_path / "eval.jsonl").write_text(line)
    words = f"contamination --train {tmp_path}/train.txt --eval {tmp_path}/eval.jsonl {more}"
    assert main(words.split()) == 2
    assert named in capsys.readouterr().err
