"""Examples in the prompt: how prompts are made, what counts as likeliest, and a model that copies from its prompt."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.generate.tiny import random_model, reciting_model, tokenizer

from bedplate.cli import main
from bedplate.errors import UserError
from bedplate.evaluate import few_shot
from bedplate.evaluate.few_shot import NORMALIZATIONS, Example, ask, prompt_of, read_examples, table
from bedplate.evaluate.free_form import exact_match, line_ends, overlap
from bedplate.language_model import LanguageModel

COLORS = [Example(context=f"{n} is", answer="red", options=("red", "blue")) for n in range(6)]


def language_model() -> LanguageModel:
    return LanguageModel(random_model(context_length=64, dtype=torch.float32), tokenizer())


def test_prompts() -> None:
    """Without examples nothing stands before the question; a blank line stands between."""
    assert prompt_of(COLORS[0], []) == "0 is"
    assert prompt_of(COLORS[0], COLORS[1:3]) == "1 is red\n\n2 is red\n\n0 is"


def test_normalizations_by_hand() -> None:
    """log p = -6 of 3 tokens and 8 bytes; -2 where no question stands before."""
    values = {each.name: each.score(-6.0, 3, "größer", -2.0) for each in NORMALIZATIONS}
    assert values == {"sum": -6.0, "per token": -2.0, "per byte": -0.75, "unconditional": -4.0}


def test_options_count_as_the_joint_text_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probabilities that are known; the second option is longer, likelier by the token, and likely anyway."""
    known = {"0 is": [-3.0, -4.0], "Answer:": [-3.0, -1.0]}

    def scores(model: object, prompt: list[int], options: list[list[int]]) -> list[float]:
        assert [words.decode(option) for option in options] == [" red", " blue green"]
        return known[words.decode(prompt)]

    words = tokenizer()
    monkeypatch.setattr(few_shot, "option_logprobs", scores)
    question = Example(context="0 is", answer="red", options=("red", "blue green"))
    (found,) = ask(language_model(), [question], COLORS, shots=[0])
    per_token = [-3.0 / len(words.encode(" red")), -4.0 / len(words.encode(" blue green"))]
    expected = {
        "sum": 1.0, "per token": float(per_token[0] > per_token[1]), "per byte": 0.0, "unconditional": 1.0,
    }  # fmt: skip
    assert found.right == expected


def test_scores_are_those_of_the_whole_text() -> None:
    """log p(prompt and option) - log p(prompt) = the score of the option."""
    ours = language_model()
    prompt, option = "0 is", " red"
    ids, start = ours.tokenizer.encode(prompt + option), len(ours.tokenizer.encode(prompt))
    with torch.no_grad():
        scores = ours.model(torch.tensor([ids])).log_softmax(-1)[0]
    whole = sum(float(scores[place - 1, ids[place]]) for place in range(start, len(ids)))
    (found,) = few_shot.option_logprobs(ours.model, ids[:start], [ids[start:]])
    assert found == pytest.approx(whole, abs=1e-5)


def test_examples_are_drawn_by_seed_and_never_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[Example]] = []
    monkeypatch.setattr(
        few_shot, "_choose", lambda model, question, drawn: shown.append([question, *drawn]) or {"sum": 1.0}
    )
    first = ask(language_model(), COLORS, shots=[2], seeds=2)
    assert all(question not in drawn and len(drawn) == 2 for question, *drawn in shown)
    assert shown[:6] != shown[6:] and len(first) == 12
    again = list(shown)
    shown.clear()
    ask(language_model(), COLORS, shots=[2], seeds=2)
    assert shown == again


def test_whole_examples_are_dropped_from_the_front_where_room_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    long = [Example(context=f"{n} " + "x " * 10, answer="y", options=("y", "z")) for n in range(8)]
    kept: list[list[Example]] = []
    monkeypatch.setattr(few_shot, "_choose", lambda model, question, drawn: kept.append(list(drawn)) or {"sum": 1.0})
    (found,) = ask(language_model(), long[:1], long[1:], shots=[7])
    assert 0 < found.fitted < 7 == found.shots and len(kept[0]) == found.fitted
    with pytest.raises(UserError, match="do not fit into 64"):
        ask(language_model(), [Example(context="x " * 80, answer="y", options=("y", "z"))], long, shots=[0])


def test_more_examples_than_there_are() -> None:
    with pytest.raises(UserError, match="6 examples are asked for, there are 5"):
        ask(language_model(), COLORS, shots=[6])


def test_free_form_answers_are_compared_by_words() -> None:
    assert exact_match("The  Cat, a hat!", "cat hat") and overlap("the big cat", "a cat") == pytest.approx(2 / 3)
    assert overlap("", "") == 1.0 and overlap("dog", "cat") == 0.0


def test_a_model_that_recites_answers_freely() -> None:
    """It says "cd", then ends the line: what stands behind is not its answer. Its prompt holds the example."""
    words = tokenizer()
    prompt = "a b\n\nQ:"
    ids = words.encode(prompt)
    model = reciting_model([*ids, *words.encode(" cd\n"), *words.encode("xyz" * 40)][:48])
    ours = LanguageModel(model, words)
    (found,) = ask(ours, [Example(context="Q:", answer="CD.")], [Example(context="a", answer="b")], shots=[1])
    assert found.right == {"exact match": 1.0, "F1": 1.0} and found.fitted == 1
    assert all(b"\n" in words.token_bytes(end) for end in line_ends(words)) and line_ends(words)


def test_the_table_has_intervals_and_the_spread_of_seeds() -> None:
    answers = [
        few_shot.Answered(shots=1, fitted=1, seed=seed, right={"sum": float(number < 3 + seed), "F1": 0.5})
        for seed in (0, 1) for number in range(5)
    ]  # fmt: skip
    first, second = table(answers)
    assert (first["mean"], first["lowest"], first["highest"], first["questions"]) == (0.7, 0.6, 0.8, 10)
    assert 0.39 < first["low"] < 0.41 and "low" not in second


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"context": 3}, "no field 'context'"), ({"context": "a"}, "neither 'completion' nor 'options'"),
        ({"context": "a", "options": ["x"], "answer": 0}, "two or more"),
        ({"context": "a", "options": ["x", "y"], "answer": 2}, "answer is 2"),
        ({"context": "a", "options": ["x", "y"], "answer": True}, "answer is True"),
    ],
)  # fmt: skip
def test_broken_files(tmp_path: Path, line: dict[str, Any], words: str) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(line))
    with pytest.raises(UserError, match=words):
        read_examples(path)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "test.jsonl", tmp_path / "out.json"
    lines = [{"context": f"item {n} is", "options": ["red", "blue"], "answer": n % 2} for n in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [
        "evaluate",
        "few-shot",
        "gpt2-tiny",
        str(path),
        "--shots",
        "0,2",
        "--seeds",
        "2",
        "--limit",
        "3",
        "--json",
        str(out),
    ]
    assert main(words) == 0
    result = json.loads(out.read_text())
    assert {row["shots"] for row in result["rows"]} == {0, 2} and len(result["answers"]) == 3 + 6
    runs = tmp_path / "runs.csv"
    runs.write_text("parameters,loss\n" + "".join(f"{n},{3 * n**-0.1}\n" for n in (1e3, 1e4, 1e5, 1e6)))
    assert main(["evaluate", "scaling", str(runs), "--hold-out", "1", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["rows"][1]["value"] == pytest.approx(0.1)
    assert main(["evaluate", "few-shot", "gpt2-tiny", str(path), "--shots", "-1"]) == 2
    assert "below 0" in capsys.readouterr().err
