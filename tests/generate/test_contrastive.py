"""Contrastive decoding and contrastive search against the formulas of the papers, computed without a cache."""

import itertools
from typing import Any

import pytest
import torch
from tests.generate.tiny import random_model, reciting_model, tokenizer, varied_model
from torch import Tensor

from bedplate.errors import UserError
from bedplate.generate.beam import Beams, beam_search
from bedplate.generate.complete import generate
from bedplate.generate.contrastive import GREEDY, Contrast, contrast, search
from bedplate.language_model import LanguageModel, load
from bedplate.models.gpt2 import GPT2

PROMPTS = ["The quick", "a", "dog. The lazy dog jumps", "日本", ""]


@torch.no_grad()
def probabilities(model: GPT2, ids: list[int], temperature: float = 1.0) -> Tensor:
    return (model(torch.tensor([ids]))[0, -1] / temperature).softmax(-1)


def plain_scores(expert: GPT2, amateur: GPT2, ids: list[int], *, alpha: float, temperature: float) -> Tensor:
    """Li et al. 2022, section 3.3."""
    p, q = probabilities(expert, ids), probabilities(amateur, ids, temperature)
    return torch.where(p >= alpha * p.max(), (p / q).log(), -torch.inf)


def plain_contrast(expert: GPT2, amateur: GPT2, prompt: list[int], *, new: int, **options: float) -> list[int]:
    ids = list(prompt)
    while len(ids) < len(prompt) + new and tokenizer().end_id not in ids[len(prompt) :]:
        ids.append(int(plain_scores(expert, amateur, ids, **options).argmax()))
    return ids[len(prompt) :]


@torch.no_grad()
def plain_search(model: GPT2, prompt: list[int], *, new: int, alpha: float, top_k: int) -> list[int]:
    """Su et al. 2022, eq. 5, every candidate read anew with the whole text."""
    ids = list(prompt)
    while len(ids) < len(prompt) + new and tokenizer().end_id not in ids[len(prompt) :]:
        p = probabilities(model, ids)
        found = {}
        for token in p.topk(top_k).indices.tolist():
            features = model.features(torch.tensor([[*ids, token]]))[0]
            cosines = [torch.cosine_similarity(features[-1], earlier, dim=0) for earlier in features[:-1]]
            found[token] = (1 - alpha) * p[token] - alpha * max(cosines)
        ids.append(max(found, key=found.__getitem__))
    return ids[len(prompt) :]


def start(prompt: str) -> list[int]:
    return tokenizer().encode(prompt) or [tokenizer().end_id]


@pytest.mark.parametrize(("alpha", "temperature"), [(0.1, 1.0), (0.5, 0.5), (0.01, 2.0), (1.0, 1.0)])
def test_contrastive_decoding_is_the_formula(alpha: float, temperature: float) -> None:
    expert, amateur = varied_model(0), varied_model(1, dim=16, num_layers=1, context_length=40)
    found = contrast(
        expert, amateur, tokenizer(), PROMPTS, alpha=alpha, amateur_temperature=temperature, max_new_tokens=16
    )
    for prompt, ours in zip(PROMPTS, found, strict=True):
        ids = start(prompt)
        assert ours.ids == plain_contrast(expert, amateur, ids, new=16, alpha=alpha, temperature=temperature)
        own = [float(probabilities(expert, ids + ours.ids[:at])[token].log()) for at, token in enumerate(ours.ids)]
        assert ours.logprobs == pytest.approx(own)  # the expert's
    greedy = generate(expert, tokenizer(), PROMPTS, sampling=GREEDY, max_new_tokens=16)
    assert ([each.ids for each in found] == [each.ids for each in greedy]) == (alpha == 1)


def test_beams_find_the_largest_sum_of_all() -> None:
    """Every continuation of three tokens out of seven, by hand."""
    expert, amateur = random_model(3, vocab_size=7), random_model(4, vocab_size=7)
    for alpha in (0.3, 1e-6):
        model = Contrast(expert, amateur, vocab_size=7, alpha=alpha, temperature=1.0)
        (found,) = beam_search(
            model, [[1, 2]], max_new_tokens=3, beams=Beams(width=49, length_penalty=0.0), end_ids=[],
            scores=lambda logits: logits,
        )  # fmt: skip
        sums = {}
        for ids in itertools.product(range(7), repeat=3):
            steps = (
                plain_scores(expert, amateur, [1, 2, *ids[:at]], alpha=alpha, temperature=1.0)[token]
                for at, token in enumerate(ids)
            )
            sums[ids] = float(sum(steps))
        best = sorted((ids for ids in sums if sums[ids] > -torch.inf), key=lambda ids: -sums[ids])[:49]
        assert [tuple(each.ids) for each in found[: len(best)]] == best
        assert [each.score for each in found[: len(best)]] == pytest.approx([sums[ids] for ids in best])


def test_texts_from_beams() -> None:
    expert, amateur = varied_model(0), varied_model(1)
    totals = []
    for width in (1, 8):
        found = contrast(expert, amateur, tokenizer(), PROMPTS, width=width, max_new_tokens=6)
        for prompt, ours in zip(PROMPTS, found, strict=True):
            ids = start(prompt) + ours.ids
            assert ours.text == tokenizer().decode([id for id in ours.ids if id != tokenizer().end_id])
            scores = (
                plain_scores(expert, amateur, ids[: -len(ours.ids)] + ours.ids[:at], alpha=0.1, temperature=1.0)[id]
                for at, id in enumerate(ours.ids)
            )
            totals.append(float(sum(scores)))
    greedy, searched = totals[: len(PROMPTS)], totals[len(PROMPTS) :]
    assert sum(searched) > sum(greedy) and -torch.inf < min(searched)


@pytest.mark.parametrize(("alpha", "top_k"), [(0.6, 4), (0.3, 7), (1.0, 3), (0.0, 5), (0.6, 1)])
def test_contrastive_search_is_the_formula(alpha: float, top_k: int) -> None:
    model = varied_model(2)
    found = search(model, tokenizer(), PROMPTS, alpha=alpha, top_k=top_k, max_new_tokens=16)
    greedy = generate(model, tokenizer(), PROMPTS, sampling=GREEDY, max_new_tokens=16)
    for prompt, ours, likeliest in zip(PROMPTS, found, greedy, strict=True):
        assert ours.ids == plain_search(model, start(prompt), new=16, alpha=alpha, top_k=top_k)
        own = [float(probabilities(model, start(prompt) + ours.ids[:at])[id].log()) for at, id in enumerate(ours.ids)]
        assert ours.logprobs == pytest.approx(own)
        if alpha == 0 or top_k == 1:
            assert ours.ids == likeliest.ids
    if alpha and top_k > 1:
        assert [each.ids for each in found] != [each.ids for each in greedy]


def test_texts_end_where_they_should() -> None:
    text = "The quick brown fox jumps over the lazy dog. "
    ids = tokenizer().encode(text)
    model = reciting_model([*ids, tokenizer().end_id, *ids[:4]])
    ways: list[Any] = [
        lambda **options: search(model, tokenizer(), ["The"], top_k=2, alpha=0.0, **options)[0],
        lambda **options: contrast(model, random_model(5), tokenizer(), ["The"], alpha=1.0, **options)[0],
    ]
    for way in ways:
        ended, stopped, cut = way(), way(stop="fox"), way(max_new_tokens=4)
        assert (ended.text, ended.finish_reason) == (text[3:], "end")
        assert (stopped.text, stopped.finish_reason) == (" quick brown ", "stop")
        assert (len(cut.ids), cut.finish_reason) == (4, "length")
    other = random_model(0)
    long = "x" * 44
    room = 48 - len(tokenizer().encode(long))
    assert len(search(other, tokenizer(), [long])[0].ids) <= room
    (short,) = contrast(other, random_model(1, context_length=46), tokenizer(), [long])
    assert len(short.ids) <= room - 2 and short.finish_reason in ("context", "end")


def test_a_loaded_model_contrasts() -> None:
    language_model = load("gpt2-tiny")
    text, texts = "The open function", ["The open function", "import os\n"]
    alone = language_model.contrastive_search(text, max_new_tokens=12)
    both = language_model.contrastive_search(texts, max_new_tokens=12)
    assert alone == both[0] and len(both) == 2
    amateur = load("gpt2-tiny")  # the expert itself at a lower temperature
    one = language_model.contrast(text, amateur=amateur, amateur_temperature=0.5, max_new_tokens=12)
    wide = language_model.contrast(text, amateur=amateur, amateur_temperature=0.5, max_new_tokens=12, width=3)
    assert one.ids != language_model.generate(text, temperature=0, max_new_tokens=12).ids != wide.ids


def test_mistakes_are_named() -> None:
    model = random_model()
    for options, message in (
        ({"alpha": 0.0}, "alpha is 0"), ({"alpha": 1.5}, "alpha is 1.5"), ({"amateur_temperature": 0.0}, "temperature"),
        ({"width": 0}, "width is 0"), ({"width": 2, "stop": "x"}, "beams know no stop"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            contrast(model, model, tokenizer(), ["a"], **options)  # type: ignore[arg-type]
    for options in ({"alpha": -0.1}, {"alpha": 1.1}, {"top_k": 0}, {"max_new_tokens": 0}):
        with pytest.raises(UserError, match="give alpha from 0 to 1"):
            search(model, tokenizer(), ["a"], **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="stop string is empty"):
        search(model, tokenizer(), ["a"], stop=[""])
    broken = random_model()
    with torch.no_grad():
        broken.token_embedding.weight.fill_(torch.nan)
    for pair in ((model, broken), (broken, model)):
        with pytest.raises(UserError, match="not a number"):
            contrast(*pair, tokenizer(), ["a"])
    with pytest.raises(UserError, match="not a number"):
        search(broken, tokenizer(), ["a"])
    one = LanguageModel(model, tokenizer())
    with pytest.raises(UserError, match="different vocabularies"):
        one.contrast("a", amateur=load("gpt2-tiny"))
