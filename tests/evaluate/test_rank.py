"""Rank evaluation of models whose probabilities are known, and of real ones against a pass without shared state."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.generate.tiny import random_model, tokenizer
from torch import nn

from bedplate.cli import main
from bedplate.evaluate.rank import by_prompt, by_task, option_logprobs, rank, receipt
from bedplate.evaluate.templates import Template
from bedplate.models.bloom import BLOOM
from bedplate.models.bloom import Config as BLOOMConfig
from bedplate.models.t5 import T5
from bedplate.models.t5 import Config as T5Config

TASK = {"task": "color", "answer_choices": "red ||| blue"}
PLAIN = Template(name="plain", language="en", template="{{ text }} ||| {{ answer_choices[label] }}", **TASK)
WORDS = Template(name="question", language="de", template="Farbe: {{ text }}?\n|||{{answer_choices[label]}}", **TASK)
RECORDS = [
    {"task": "color", "language": lang, "text": "abc" * n, "label": n % 2} for n in (1, 2, 3) for lang in ("en", "de")
]


class State:
    """Counts tokens, as a cache does."""

    def __init__(self) -> None:
        self.lengths = [0]

    def view(self, rows: list[int]) -> "State":
        return self

    def truncate(self, lengths: list[int]) -> None:
        self.lengths = list(lengths)


class Bigrams(nn.Module):
    """p(next token | token) is a table."""

    def __init__(self, probabilities: torch.Tensor) -> None:
        super().__init__()
        self.config = SimpleNamespace(context_length=200, vocab_size=len(probabilities))
        self.table = nn.Parameter(probabilities.log())

    def new_state(self, batch: int, *, capacity: int) -> list[State]:
        return [State()]

    def features(self, ids: torch.Tensor, *, state: list[State]) -> torch.Tensor:
        state[0].lengths = [state[0].lengths[0] + ids.shape[1]]
        return nn.functional.one_hot(ids, len(self.table)).to(self.table.dtype)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.table


def bigrams() -> Bigrams:
    generator = torch.Generator().manual_seed(0)
    return Bigrams(torch.rand(300, 300, generator=generator, dtype=torch.float64).softmax(-1) + 1e-4)


def language_model(model: Any) -> Any:
    return SimpleNamespace(model=model, tokenizer=tokenizer())


def test_options_have_the_sum_of_their_log_probabilities() -> None:
    model = bigrams()
    known = model.table.log_softmax(-1)
    options = [[5], [7, 9, 11], [7, 2]]
    expected = [
        sum(known[before, after].item() for before, after in zip([4, *option], option, strict=False))
        for option in options
    ]
    assert option_logprobs(model, [3, 4], options) == pytest.approx(expected, abs=1e-12)


def test_the_likeliest_option_is_chosen_whatever_its_length() -> None:
    """`blue` is made certain token by token, then `red`: answers follow, and accuracy is the share of that label."""
    for favored, label in ((" blue", 1), (" red", 0)):
        model, ids = bigrams(), tokenizer().encode(favored)
        with torch.no_grad():
            model.table[:, ids[0]] = 30.0
            for before, after in zip(ids, ids[1:], strict=False):
                model.table[before] = -30.0
                model.table[before, after] = 30.0
        answers = rank(language_model(model), RECORDS, [PLAIN, WORDS])
        assert [answer.chosen for answer in answers] == [label] * 12
        rows = by_prompt(answers)
        assert {row["accuracy"] for row in rows} == {(1 + label) / 3}


def test_tables_have_the_median_the_spread_and_intervals() -> None:
    lm = language_model(bigrams())
    names = [Template(**vars(PLAIN) | {"name": f"p{n}", "template": f"{'so ' * n}{PLAIN.template}"}) for n in range(5)]
    answers = rank(lm, RECORDS, [*names, WORDS])
    shares = {(row["language"], row["prompt"]): row["accuracy"] for row in by_prompt(answers)}
    for row in by_task(answers):
        own = [shares[row["language"], name.name] for name in names]
        if row["template language"] == "en":
            assert row["prompts"] == 5 and row["median"] == sorted(own)[2]
            assert (row["lowest"], row["highest"]) == (min(own), max(own))
        else:
            assert row["prompts"] == 1
    assert all(0 <= row["low"] < row["accuracy"] + 1e-9 and row["high"] <= 1 for row in by_prompt(answers))


def test_a_shared_state_changes_nothing() -> None:
    """Against a pass of prompt and option together, without a cache."""
    torch.manual_seed(0)
    bloom = BLOOM(BLOOMConfig(vocab_size=300, context_length=48, dim=24, num_layers=2, num_heads=3)).double().eval()
    prompt, options = [5, 9, 200, 31], [[7], [8, 9, 10, 11], [7, 250]]
    for model in (random_model(), bloom):
        for option, found in zip(options, option_logprobs(model, prompt, options), strict=True):
            logits = model(torch.tensor([[*prompt, *option]]))[0, len(prompt) - 1 : -1].log_softmax(-1)
            assert found == pytest.approx(logits.gather(1, torch.tensor(option)[:, None]).sum().item(), abs=1e-10)


def test_an_encoder_decoder_reads_the_prompt_as_its_source() -> None:
    torch.manual_seed(0)
    sizes = {"dim": 16, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}
    model = T5(T5Config(vocab_size=300, context_length=48, **sizes)).double().eval()
    prompt, options = [5, 9, 200, 31], [[7], [8, 9, 10, 11], [7, 250]]
    for option, found in zip(options, option_logprobs(model, prompt, options), strict=True):
        ids = torch.tensor([[model.config.start_id, *option[:-1]]])
        logits = model(torch.tensor([prompt]), ids)[0].log_softmax(-1)
        assert found == pytest.approx(logits.gather(1, torch.tensor(option)[:, None]).sum().item(), abs=1e-10)
    (answer, *_) = rank(language_model(model), RECORDS, [PLAIN])
    assert receipt(language_model(model), [answer], [PLAIN], limit=None, seed=0)["options"] == "the end mark counts"


def test_receipts_tell_what_was_asked() -> None:
    lm = language_model(bigrams())
    first, again = ([a.record() for a in rank(lm, RECORDS, [PLAIN], limit=3, seed=seed)] for seed in (1, 1))
    assert first == again and len(first) == 3
    assert len({a["record"] for a in first}) == 3 and {"task", "language", "prompt_name", "template_language"} <= set(
        first[0]
    )
    ids = {
        receipt(lm, rank(lm, RECORDS, templates, limit=3, seed=seed), templates, limit=3, seed=seed)["ids_sha256"]
        for templates, seed in (([PLAIN], 1), ([PLAIN], 2), ([WORDS], 1))
    }
    assert len(ids) == 3


def test_the_command_writes_tables_and_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, templates, out = tmp_path / "data.jsonl", tmp_path / "templates.json", tmp_path / "out.json"
    data.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    templates.write_text(json.dumps([vars(PLAIN), vars(WORDS)]))
    words = [
        "evaluate",
        "rank",
        "gpt2-tiny",
        data,
        "--templates",
        templates,
        "--json",
        out,
        "--answers",
        tmp_path / "a",
    ]
    assert main([str(word) for word in words]) == 0
    result = json.loads(out.read_text())
    assert {(row["language"], row["template language"]) for row in result["rows"]} == {
        ("en", "en"), ("de", "en"), ("en", "de"), ("de", "de"),
    }  # fmt: skip
    answers = [json.loads(line) for line in (tmp_path / "a").read_text().splitlines()]
    assert len(answers) == 12 and all(len(answer["logprobs"]) == 2 for answer in answers)
    assert "12 questions" in capsys.readouterr().out
    data.write_text('{"task": "shape", "language": "en"}\n')
    assert main([str(word) for word in words]) == 2 and "shape" in capsys.readouterr().err
