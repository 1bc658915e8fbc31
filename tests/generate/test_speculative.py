"""Speculative decoding: greedy tokens are those of plain decoding, and draws have the model's own distribution."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from tests.generate.tiny import random_model, reciting_model, tokenizer, varied_model
from torch import Tensor, nn

from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.generate import speculative
from bedplate.generate.complete import generate
from bedplate.generate.sample import Sampling, keep_top_k, keep_top_p
from bedplate.generate.speculative import Speculation, speculate, speculate_text
from bedplate.generate.text import IdsOnly
from bedplate.language_model import LanguageModel, load
from bedplate.models.gpt2 import GPT2

GREEDY = Sampling(temperature=0)
PROMPTS = ["The quick", "a", "dog. The lazy dog jumps over the lazy dog.", "日本", "", "the rest of the text, the rest"]
VOCAB, NEW = 5, 3
PROMPT = [1, 3, 1, 3]  # a look-up finds something


def nearby(model: GPT2, *, context_length: int = 48) -> GPT2:
    """A draft that often agrees: the same weights and some noise, and perhaps a shorter context."""
    found = GPT2(replace(model.config, context_length=context_length)).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for ours, theirs in zip(found.parameters(), model.parameters(), strict=True):
            noise = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
            ours.copy_(theirs[: len(ours)] + 0.05 * noise)
    return found


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("draft", ["itself", "near", "stranger", "short", "lookup"])
def test_greedy_tokens_are_those_of_plain_decoding(draft: str, count: int) -> None:
    """In float64; `short` is a draft whose context ends before the text does."""
    model = varied_model(0)
    drafts = {"itself": model, "near": nearby(model), "stranger": varied_model(1)}
    drafts |= {"short": nearby(model, context_length=20)}
    plain = generate(model, tokenizer(), PROMPTS, max_new_tokens=30, sampling=GREEDY)
    found = speculate_text(
        model, tokenizer(), PROMPTS, draft=drafts.get(draft), count=count, max_new_tokens=30, sampling=GREEDY
    )
    for ours, theirs in zip(found, plain, strict=True):
        assert (ours.ids, ours.text, ours.finish_reason) == (theirs.ids, theirs.text, theirs.finish_reason)
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)  # reported in float32 there
        assert 0 <= ours.accepted <= ours.judged and ours.passes <= len(ours.ids) <= ours.passes + ours.accepted
        if draft == "itself":
            assert ours.acceptance_rate == 1 and ours.passes == -(-len(ours.ids) // (count + 1))
    rate = sum(each.accepted for each in found) / max(1, sum(each.judged for each in found))
    assert draft in ("itself", "stranger") or 0.1 < rate < 0.9  # both branches were taken


@pytest.mark.parametrize("draft", ["near", "lookup"])
def test_penalties_and_bias_hold_for_proposals_too(draft: str) -> None:
    sampling = Sampling(
        temperature=0, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.4, logit_bias={7: 2.0}
    )
    model = varied_model(2)
    other = nearby(model) if draft == "near" else None
    plain = generate(model, tokenizer(), PROMPTS, max_new_tokens=30, sampling=sampling)
    found = speculate_text(model, tokenizer(), PROMPTS, draft=other, max_new_tokens=30, sampling=sampling)
    assert [each.ids for each in found] == [each.ids for each in plain]
    assert draft == "lookup" or sum(each.accepted for each in found) > 0  # penalties leave little to look up


class Bigrams(nn.Module):
    """The simplest language model: a table. Thousands of texts take seconds."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)
        self.config = SimpleNamespace(context_length=16)

    def new_state(self, batch: int, *, capacity: int | None = None) -> list[Any]:
        return []

    def features(self, ids: Tensor, *, state: list[Any]) -> Tensor:
        return ids

    def logits(self, features: Tensor) -> Tensor:
        return self.table[features]


TABLE = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MODEL, OPPOSITE = Bigrams(TABLE), Bigrams(-TABLE)  # a draft that likes best what the model likes least


def exact(sampling: Sampling) -> dict[tuple[int, ...], float]:
    """The probability of every continuation of three tokens."""
    filtered = keep_top_p(keep_top_k(TABLE / sampling.temperature, sampling.top_k), sampling.top_p).softmax(-1)
    found = {}
    for ids in itertools.product(range(VOCAB), repeat=NEW):
        found[ids] = math.prod(float(filtered[pair]) for pair in itertools.pairwise((PROMPT[-1], *ids)))
    return found


def p_value(sampling: Sampling, draft: Bigrams | None, *, draws: int) -> float:
    """Of the hypothesis that speculation draws from the exact distribution: chi-squared, rare outcomes together."""
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(draws):
        drawn = speculate(
            MODEL, IdsOnly(VOCAB), PROMPT, draft=draft, count=2, max_new_tokens=NEW, sampling=sampling, seed=seed
        )
        counts[tuple(drawn.ids)] += 1
    expected = {ids: probability * draws for ids, probability in exact(sampling).items()}
    common = [ids for ids, number in expected.items() if number >= 8]
    observed = [counts[ids] for ids in common]
    wanted = [expected[ids] for ids in common]
    if draws - sum(wanted) > 1e-6:
        observed.append(draws - sum(observed))
        wanted.append(draws - sum(wanted))
    assert len(wanted) > 8
    return float(chisquare(observed, wanted).pvalue) if sum(observed) == draws else 0.0


SAMPLINGS = [Sampling(), Sampling(temperature=0.7, top_k=3), Sampling(temperature=1.4, top_p=0.8)]


@pytest.mark.parametrize("draft", ["opposite", "lookup"])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["plain", "top-k", "top-p"])
def test_draws_have_the_distribution_of_the_model(sampling: Sampling, draft: str) -> None:
    assert p_value(sampling, OPPOSITE if draft == "opposite" else None, draws=2000) > 1e-3


def takes_all(target: Tensor, proposed: Sequence[int], drawn_from: Tensor, generator: torch.Generator) -> list[int]:
    return [*proposed, speculative._draw(target[-1], generator)]


def draws_from_all_after_a_rejection(
    target: Tensor, proposed: Sequence[int], drawn_from: Tensor, generator: torch.Generator
) -> list[int]:
    kept = RULE(target, proposed, drawn_from, generator)
    return kept if len(kept) > len(proposed) else [*kept[:-1], speculative._draw(target[len(kept) - 1], generator)]


def accepts_without_regard_to_the_draft(
    target: Tensor, proposed: Sequence[int], drawn_from: Tensor, generator: torch.Generator
) -> list[int]:
    """With probability p instead of p / q."""
    for place, token in enumerate(proposed):
        if torch.rand(1, generator=generator) >= target[place, token]:
            left = (target[place] - drawn_from[place]).clamp(min=0)
            return [*proposed[:place], speculative._draw(left, generator)]
    return takes_all(target, proposed, drawn_from, generator)


RULE = speculative.judge


@pytest.mark.parametrize("rule", [takes_all, draws_from_all_after_a_rejection, accepts_without_regard_to_the_draft])
def test_the_same_test_finds_broken_rules(rule: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculative, "judge", rule)
    assert p_value(Sampling(), OPPOSITE, draws=600) < 1e-6


def test_a_worse_draft_is_accepted_less_and_figures_are_true() -> None:
    """The share is the sum of min(p, q) (Leviathan et al., section 3.2), averaged over the tokens before."""
    near = Bigrams(0.5 * TABLE)
    rates = []
    for draft in (MODEL, near, OPPOSITE):
        found = [
            speculate(MODEL, IdsOnly(VOCAB), PROMPT, draft=draft, max_new_tokens=12, seed=seed) for seed in range(99)
        ]
        rates.append(sum(each.accepted for each in found) / sum(each.judged for each in found))
        assert all(len(each.ids) == 12 <= each.passes + each.accepted for each in found)
        overlaps = torch.minimum(TABLE.softmax(-1), draft.table.detach().softmax(-1)).sum(-1)
        assert overlaps.min() - 0.05 <= rates[-1] <= overlaps.max() + 1e-9
    assert rates[0] == 1 > rates[1] > rates[2]


def test_texts_end_where_they_should() -> None:
    text = "The quick brown fox jumps over the lazy dog. "
    ids = tokenizer().encode(text)
    model = reciting_model([*ids, tokenizer().end_id, *ids[:4]])
    options = {"draft": model, "count": 5, "sampling": GREEDY}
    (ended,) = speculate_text(model, tokenizer(), ["The"], **options)
    assert (ended.text, ended.finish_reason, ended.ids[-1]) == (text[3:], "end", tokenizer().end_id)
    (stopped,) = speculate_text(model, tokenizer(), ["The"], stop="fox", **options)
    assert (stopped.text, stopped.finish_reason) == (" quick brown ", "stop")
    (cut,) = speculate_text(model, tokenizer(), ["The"], max_new_tokens=4, **options)
    assert (len(cut.ids), cut.finish_reason) == (4, "length")
    random = random_model(0)
    (full,) = speculate_text(random, tokenizer(), ["x" * 44], draft=random, sampling=GREEDY)
    assert full.finish_reason in ("context", "end") and len(full.ids) <= 48 - len(tokenizer().encode("x" * 44))


def test_a_loaded_model_speculates() -> None:
    """In float32, with weights packed for decoding, with itself and with a look-up."""
    language_model = load("gpt2-tiny")
    prompts = ["def read_text(self, encoding=None)\n", "The open function", "import os\nimport sys\n", "class Path:"]
    plain = language_model.generate(prompts, max_new_tokens=60, temperature=0)
    looked_up = language_model.speculate(prompts, max_new_tokens=60, temperature=0)
    drafted = language_model.speculate(prompts, draft=language_model, max_new_tokens=60, temperature=0)
    assert [each.ids for each in plain] == [each.ids for each in looked_up] == [each.ids for each in drafted]
    assert all(each.tokens_per_pass > 4 for each in drafted)
    one = language_model.speculate("1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7 8 9 1 2 3", temperature=0, stop="zzz")
    assert isinstance(one, Speculation) and one.passes <= len(one.ids)


def test_training_mode_is_restored() -> None:
    model, draft = random_model(0).train(), random_model(1).train()
    speculate_text(model, tokenizer(), ["a"], draft=draft, max_new_tokens=3)
    assert model.training and draft.training


def test_mistakes_are_named() -> None:
    model = random_model()
    with pytest.raises(UserError, match="below 1"):
        speculate_text(model, tokenizer(), ["a"], count=0)
    with pytest.raises(UserError, match="stop string is empty"):
        speculate_text(model, tokenizer(), ["a"], stop=[""])
    with pytest.raises(UserError, match="48"):
        speculate_text(model, tokenizer(), ["quick brown fox " * 40])
    one, other = LanguageModel(model, tokenizer()), LanguageModel(model, ByteBPE.train(["abab" * 9], vocab_size=258))
    with pytest.raises(UserError, match="different vocabularies"):
        one.speculate("a", draft=other)
    broken = random_model()
    with torch.no_grad():
        broken.token_embedding.weight.fill_(torch.nan)
    for pair in ((model, broken), (broken, model)):
        with pytest.raises(UserError, match="not a number"):
            speculate(pair[0], tokenizer(), [1, 2], draft=pair[1])
