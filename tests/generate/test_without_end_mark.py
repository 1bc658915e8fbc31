"""A vocabulary without a token that ends texts, as GPT-1's: texts end by length, and what needs a mark says so."""

import pytest
import torch

from bedplate.data.tokenize.word_bpe import WordBPE
from bedplate.errors import UserError
from bedplate.generate.constrain import Grammar
from bedplate.language_model import LanguageModel, load
from bedplate.models.gpt2 import GPT2, Config


@pytest.fixture(scope="module")
def language_model() -> LanguageModel:
    torch.manual_seed(0)
    tokenizer = WordBPE.train(["the cat sat on the mat, the bat sat on the hat"] * 9, vocab_size=25)
    config = Config(vocab_size=40, context_length=32, dim=16, num_layers=1, num_heads=2)
    return LanguageModel(GPT2(config).eval(), tokenizer)


def test_texts_end_by_length(language_model, tmp_path):
    (greedy,) = language_model.generate(["the cat"], max_new_tokens=6, temperature=0.0)
    assert (len(greedy.ids), greedy.finish_reason) == (6, "length")
    spelled = b"".join(map(language_model.tokenizer.token_bytes, greedy.ids)).decode()
    assert greedy.text == spelled
    found = language_model.search("the cat", width=2, max_new_tokens=6)
    assert (len(found.ids), found.finish_reason) == (6, "length")
    assert "".join(language_model.stream("the cat", max_new_tokens=6, temperature=0.0)) == greedy.text
    language_model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.tokenizer.end_id == -1
    assert again.generate("the cat", max_new_tokens=6, temperature=0.0).ids == greedy.ids


def test_what_needs_an_end_mark_says_so(language_model):
    for needs in (
        lambda: language_model.generate(""),
        lambda: Grammar.from_regex("a", language_model.tokenizer),
        lambda: language_model.quantize("bf16"),
    ):
        with pytest.raises(UserError, match="has no token that ends a text"):
            needs()
