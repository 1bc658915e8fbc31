"""Perplexity in windows that slide, against a model that reads everything, and its units."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bedplate
from bedplate.errors import UserError
from bedplate.evaluate.perplexity import Perplexity, perplexity, windows


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 20))
def test_every_token_is_predicted_once_with_the_context_promised(length: int, context: int, stride: int) -> None:
    stride = min(stride, context)
    predicted = []
    for begin, end, first in windows(length, context=context, stride=stride):
        assert 0 <= begin <= first < end <= length and end - begin <= context
        for token in range(first, end):
            assert token - begin + 1 >= min(token + 1, context - stride + 1)
            predicted.append(token)
    assert predicted == list(range(length))


@pytest.fixture(scope="module")
def tiny() -> Any:
    return bedplate.load("gpt2-tiny")


TEXT = "The open function returns a file object.\n\nIt takes a path, a mode and an encoding.\n" * 3


def test_a_window_over_everything_is_one_forward_pass(tiny: Any) -> None:
    ids = [tiny.tokenizer.end_id, *tiny.tokenizer.encode(TEXT)]
    with torch.no_grad():
        logprobs = tiny.model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    expected = -logprobs.gather(1, torch.tensor(ids[1:])[:, None]).double().sum().item()
    whole = perplexity(tiny.model, tiny.tokenizer, [TEXT])
    assert whole.nats == pytest.approx(expected, rel=1e-5)
    assert (whole.tokens, whole.words, whole.bytes) == (len(ids) - 1, len(TEXT.split()), len(TEXT.encode()))


def test_each_window_is_a_forward_pass_of_its_own(tiny: Any) -> None:
    ids = [tiny.tokenizer.end_id, *tiny.tokenizer.encode(TEXT)]
    total = 0.0
    for begin, end, first in windows(len(ids) - 1, context=9, stride=4):
        with torch.no_grad():
            logprobs = tiny.model(torch.tensor([ids[begin:end]]))[0].log_softmax(-1)
        total -= sum(float(logprobs[token - begin, ids[token + 1]]) for token in range(first, end))
    measured = perplexity(tiny.model, tiny.tokenizer, [TEXT], context=9, stride=4)
    assert measured.nats == pytest.approx(total, rel=1e-5)
    assert measured.nats < perplexity(tiny.model, tiny.tokenizer, [TEXT], context=9, stride=9).nats


def test_units() -> None:
    result = Perplexity(nats=60.0, tokens=30, words=20, bytes=100, context=8, stride=4, sha256="")
    assert result.per_token == pytest.approx(math.exp(2)) and result.per_word == pytest.approx(math.exp(3))
    assert result.bits_per_byte == pytest.approx(60 / math.log(2) / 100)


@pytest.mark.parametrize("wrong", [{"context": 0}, {"context": 10**6}, {"stride": 0}, {"context": 8, "stride": 9}])
def test_windows_that_cannot_be(tiny: Any, wrong: dict[str, int]) -> None:
    with pytest.raises(UserError):
        perplexity(tiny.model, tiny.tokenizer, [TEXT], **wrong)
    with pytest.raises(UserError, match="no tokens"):
        perplexity(tiny.model, tiny.tokenizer, [])
