"""The claim of GPT-2 at smoke scale, and a check that the check can fail."""

from dataclasses import replace
from pathlib import Path

import pytest

from bedplate.data.text import open_corpus
from bedplate.experiments import gpt2
from bedplate.experiments.experiment import find_experiment, list_experiments
from bedplate.papers import PAPERS


@pytest.mark.slow
def test_the_claim_holds_at_smoke_scale(tmp_path: Path) -> None:
    result = gpt2.run("smoke", watch=lambda line: None)
    verdict = gpt2.check(result)
    assert verdict.holds, verdict.sentence
    gpt2.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_check_is_red_for_chance_and_for_a_small_margin() -> None:
    good = gpt2.Result(scale="small", pairs=300, trained=(0.8, 0.82), plain_likelihood=(0.6, 0.6), untrained=(0.5, 0.5))
    assert gpt2.check(good).holds
    assert not gpt2.check(replace(good, trained=(0.74, 0.74))).holds
    assert not gpt2.check(replace(good, untrained=(0.79, 0.79))).holds


def test_questions_are_fair() -> None:
    documents = open_corpus("pydocs").held_out
    texts = ["\n".join(filter(str.strip, document.text.splitlines())) for document in documents]
    questions = gpt2.make_questions(documents, number=200)
    assert questions == gpt2.make_questions(documents, number=200)
    for question in questions:
        assert abs(len(question.true) - len(question.other)) <= 2
        assert any(question.context + question.true in text for text in texts)
        assert not any(question.context + question.other in text for text in texts)


def test_experiments_are_found_by_the_name_of_their_paper() -> None:
    working = {paper.experiment.removeprefix("experiments.") for paper in PAPERS if paper.experiment}
    assert set(list_experiments()) == working and find_experiment("gpt2") is gpt2
