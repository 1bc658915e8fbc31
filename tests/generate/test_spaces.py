"""Pieces that carry the space before a word: kept behind a prompt, left out where a text begins."""

import pytest
import torch
from tests.data.hard_texts import TRAINING
from tests.generate.tiny import tokenizer

from bedplate.data.tokenize.unigram import Unigram
from bedplate.generate.text import added_bytes
from bedplate.language_model import LanguageModel
from bedplate.models import gpt2, t5


@pytest.fixture(scope="module")
def pieces() -> Unigram:
    return Unigram.train(TRAINING, vocab_size=85, num_sentinels=10)


def test_the_first_space_of_a_text(pieces):
    (word, *_) = pieces.encode("the")
    assert pieces.token_bytes(word).startswith(b" ")
    assert added_bytes(pieces, word, opens=False) == pieces.token_bytes(word)
    assert added_bytes(pieces, word, opens=True) == pieces.token_bytes(word)[1:]
    (space, *_) = tokenizer().encode(" the")  # of bytes, which are the text itself
    assert added_bytes(tokenizer(), space, opens=True).startswith(b" ")


def plain(language_model: LanguageModel, ids: list[int]) -> bytes:
    end = language_model.tokenizer.end_id
    return b"".join(language_model.tokenizer.token_bytes(id) for id in ids if id != end)


@pytest.mark.parametrize("seed", range(3))
def test_encoder_decoders_write_what_decoding_gives(pieces, seed):
    torch.manual_seed(seed)
    config = t5.Config(vocab_size=85, context_length=24, dim=16, num_layers=1, num_decoder_layers=1, num_heads=2,
                       head_dim=8, mlp_dim=32)  # fmt: skip
    language_model = LanguageModel(t5.T5(config).eval(), pieces)
    for found in (
        *language_model.generate(["The house", "wonderful"], max_new_tokens=8, seed=seed, temperature=2.0),
        *language_model.search(["The house", "wonderful"], max_new_tokens=8, width=2),
    ):
        assert found.text == pieces.decode([id for id in found.ids if id != pieces.end_id])


def test_continuations_keep_their_space(pieces):
    torch.manual_seed(0)
    config = gpt2.Config(vocab_size=85, context_length=24, dim=16, num_layers=1, num_heads=2)
    language_model = LanguageModel(gpt2.GPT2(config).eval(), pieces)
    for found in (
        *language_model.generate(["The house"] * 8, max_new_tokens=8, temperature=2.0),
        language_model.search("The house", max_new_tokens=8, width=2),
    ):
        assert found.text == plain(language_model, found.ids).decode()
