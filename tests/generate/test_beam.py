"""Beam search against transformers' on the same weights, against all continuations, and alone against in company."""

import itertools
from pathlib import Path

import pytest
import torch
from tests.generate.tiny import random_model, tokenizer
from transformers import GPT2LMHeadModel

from bedplate.cli import main
from bedplate.errors import UserError
from bedplate.generate.beam import Beams, beam_search, search_text
from bedplate.language_model import load
from bedplate.models import save_pretrained

PROMPTS = [[5, 9, 200], [7], [1, 2, 3, 4, 5, 6, 7, 8]]
SETTINGS = [
    Beams(width=1),
    Beams(width=3),
    Beams(width=4, length_penalty=0.0),
    Beams(width=4, length_penalty=2.0),
    Beams(width=4, length_penalty=-1.0),
    Beams(width=5, early_stopping=True),
    Beams(width=2, length_penalty=0.6),
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beams", SETTINGS, ids=lambda beams: f"{beams.width}, {beams.length_penalty}")
def test_tokens_and_scores_are_those_of_transformers(beams: Beams, seed: int, tmp_path: Path) -> None:
    """With several end marks that are likely, so that texts end early, late and not at all."""
    model = random_model(seed, dtype=torch.float32)
    end_ids = [int(id) for id in model(torch.tensor([PROMPTS[0]]))[0, -1].topk(9).indices[::4]][: 1 + seed % 2]
    save_pretrained(model, tmp_path)
    reference = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    for prompt in PROMPTS:
        theirs = reference.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
            max_new_tokens=14, num_beams=beams.width, num_return_sequences=beams.width, eos_token_id=end_ids,
            pad_token_id=end_ids[0], length_penalty=beams.length_penalty, early_stopping=beams.early_stopping,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        (ours,) = beam_search(model, [prompt], max_new_tokens=14, beams=beams, end_ids=end_ids)
        expected = [_until_end(row.tolist()[len(prompt) :], end_ids) for row in theirs.sequences]
        if beams.width == 1:  # a greedy search there, which knows no scores
            assert [each.ids for each in ours] == expected
            continue
        assert [each.ids for each in ours] == expected[: len(ours)]
        assert [each.score for each in ours] == pytest.approx(theirs.sequences_scores.tolist()[: len(ours)], rel=1e-4)


def _until_end(ids: list[int], end_ids: list[int]) -> list[int]:
    ends = [place for place, id in enumerate(ids) if id in end_ids]
    return ids[: ends[0] + 1] if ends else ids


def test_a_wide_search_finds_the_likeliest_of_all() -> None:
    """Every continuation of three tokens out of seven, by hand."""
    model = random_model(3, vocab_size=7)
    prompt = [1, 2]
    scores = {}
    for ids in itertools.product(range(7), repeat=3):
        logprobs = model(torch.tensor([[*prompt, *ids]])).detach().log_softmax(-1)[0]
        scores[ids] = sum(float(logprobs[1 + place, id]) for place, id in enumerate(ids))
    (found,) = beam_search(model, [prompt], max_new_tokens=3, beams=Beams(width=49, length_penalty=0.0), end_ids=[])
    best = sorted(scores, key=lambda ids: -scores[ids])[:49]
    assert [tuple(each.ids) for each in found] == best
    assert [each.score for each in found] == pytest.approx([scores[ids] for ids in best])
    assert [sum(each.logprobs) for each in found] == pytest.approx([each.score for each in found])


@pytest.mark.parametrize("beams", SETTINGS, ids=lambda beams: f"{beams.width}, {beams.length_penalty}")
def test_what_is_found_does_not_depend_on_company(beams: Beams) -> None:
    model = random_model(1)
    together = beam_search(model, PROMPTS, max_new_tokens=10, beams=beams, end_ids=[11, 40])
    for prompt, found in zip(PROMPTS, together, strict=True):
        (alone,) = beam_search(model, [prompt], max_new_tokens=10, beams=beams, end_ids=[11, 40])
        assert [each.ids for each in alone] == [each.ids for each in found]
        assert [each.score for each in alone] == pytest.approx([each.score for each in found])


def test_texts_in_texts_out() -> None:
    model = random_model(2)
    results = search_text(model, tokenizer(), ["The quick", ""], max_new_tokens=8, beams=Beams(width=3))
    for result in results:
        assert len(result.ids) == len(result.logprobs) <= 8
        assert result.finish_reason in ("length", "end")
    near_the_end = "x" * 44
    room = 48 - len(tokenizer().encode(near_the_end))
    (result,) = search_text(model, tokenizer(), [near_the_end], max_new_tokens=40, beams=Beams(width=2))
    assert len(result.ids) <= room and result.finish_reason in ("context", "end")
    assert beam_search(model, [], max_new_tokens=3, beams=Beams(), end_ids=[]) == []


def test_a_loaded_model_searches(capsys: pytest.CaptureFixture[str]) -> None:
    language_model = load("gpt2-tiny")
    result = language_model.search("The open function", max_new_tokens=12, width=3)
    greedy = language_model.generate("The open function", max_new_tokens=12, temperature=0)
    assert sum(result.logprobs) >= sum(greedy.logprobs)
    assert [each.text for each in language_model.search(["The open function"], max_new_tokens=12, width=3)] == [
        result.text
    ]
    assert main(["generate", "The open function", "--beams", "3", "--max-new-tokens", "12"]) == 0
    assert capsys.readouterr().out == f"The open function{result.text}\n"


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="width is 0"):
        Beams(width=0)
    with pytest.raises(UserError, match="max_new_tokens is 0"):
        beam_search(random_model(), [[1]], max_new_tokens=0, beams=Beams(), end_ids=[])
