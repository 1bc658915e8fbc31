"""Writing with a state that cannot go back: every way to generate that needs no going back, and what is refused."""

import pytest
import torch
from tests.generate.tiny import tokenizer

from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.evaluate.rank import option_logprobs
from bedplate.language_model import LanguageModel
from bedplate.models.retnet import Config, RetNet


@pytest.fixture
def language_model() -> LanguageModel:
    torch.manual_seed(0)
    words: ByteBPE = tokenizer()
    config = Config(
        vocab_size=words.vocab_size, context_length=64, dim=24, num_layers=2, num_heads=3, value_dim=36, mlp_dim=24
    )
    model = RetNet(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return LanguageModel(model, words)


def likeliest(model: RetNet, ids: list[int], count: int) -> list[int]:
    """Written without any state."""
    for _ in range(count):
        ids = [*ids, int(model(torch.tensor([ids]))[0, -1].argmax())]
    return ids[-count:]


def test_greedy_beam_and_contrastive_search_agree_where_they_must(language_model: LanguageModel) -> None:
    prompts = ["abc", "a longer prompt than the other one"]
    settings = {"max_new_tokens": 9}
    written = language_model.generate(prompts, temperature=0, **settings)
    for prompt, found in zip(prompts, written, strict=True):
        ids = language_model.tokenizer.encode(prompt)
        assert list(found.ids) == likeliest(language_model.model, ids, 9)[: len(found.ids)]
    for other in (
        language_model.search(prompts, width=1, **settings),
        language_model.contrastive_search(prompts, alpha=0.0, top_k=3, **settings),
    ):
        assert [list(found.ids) for found in other] == [list(found.ids) for found in written]


def test_beams_keep_the_state_of_the_text_that_they_continue(language_model: LanguageModel) -> None:
    best = language_model.search("abc", width=4, max_new_tokens=6, length_penalty=0.0)
    ids = [*language_model.tokenizer.encode("abc"), *best.ids]
    with torch.no_grad():
        scores = language_model.model(torch.tensor([ids])).log_softmax(-1)[0]
    start = len(ids) - len(best.ids)
    expected = [float(scores[place - 1, ids[place]]) for place in range(start, len(ids))]
    assert list(best.logprobs) == pytest.approx(expected, abs=1e-4)


def test_options_of_a_prompt_are_scored_as_each_alone(language_model: LanguageModel) -> None:
    model, prompt, options = language_model.model, [5, 9, 20, 7], [[3], [4, 8, 15], [16, 23]]
    found = option_logprobs(model, prompt, options)
    for option, actual in zip(options, found, strict=True):
        with torch.no_grad():
            scores = model(torch.tensor([[*prompt, *option]])).log_softmax(-1)[0]
        expected = sum(float(scores[len(prompt) + place - 1, token]) for place, token in enumerate(option))
        assert actual == pytest.approx(expected, abs=1e-4)


def test_speculation_is_refused(language_model: LanguageModel) -> None:
    with pytest.raises(UserError, match="cannot give up tokens"):
        language_model.speculate("abc", max_new_tokens=4)
