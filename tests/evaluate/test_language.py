"""Likelihoods against sums written out by hand."""

import math

import pytest
import torch

from bedplate.evaluate.language import Likelihood, continuation_logprobs, likelihood
from bedplate.models.gpt2 import GPT2, Config


@pytest.fixture(scope="module")
def model() -> GPT2:
    torch.manual_seed(0)
    model = GPT2(Config(vocab_size=20, context_length=16, dim=8, num_layers=1, num_heads=2)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def logprob(model: GPT2, ids: list[int], place: int) -> float:
    """log p(ids[place] | what stands before it)."""
    with torch.no_grad():
        return model(torch.tensor([ids[:place]]))[0, -1].log_softmax(-1)[ids[place]].item()


def test_bits_per_byte_by_hand(model: GPT2) -> None:
    rows = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]
    ids = torch.tensor(rows)
    targets = ids[:, 1:].clone()
    targets[1, 2:] = -100
    batches = [{"ids": ids[:1, :-1], "targets": targets[:1], "bytes": torch.tensor([11])},
               {"ids": ids[1:, :-1], "targets": targets[1:], "bytes": torch.tensor([5])}]  # fmt: skip
    measured = likelihood(model, batches)
    nats = -sum(logprob(model, rows[0], place) for place in (1, 2, 3, 4))
    nats -= sum(logprob(model, rows[1], place) for place in (1, 2))
    assert (measured.tokens, measured.bytes) == (6, 16)
    assert measured.nats == pytest.approx(nats, abs=1e-10)
    assert measured.bits_per_byte == pytest.approx(nats / math.log(2) / 16, abs=1e-12)
    assert measured.perplexity_per_token == pytest.approx(math.exp(nats / 6), rel=1e-12)


def test_a_uniform_guess_over_bytes_costs_eight_bits() -> None:
    model = GPT2(Config(vocab_size=256, context_length=8, dim=8, num_layers=1, num_heads=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    ids = torch.arange(14).reshape(2, 7)
    measured = likelihood(model, [{"ids": ids, "targets": ids, "bytes": torch.tensor([7, 7])}])
    assert measured.bits_per_byte == pytest.approx(8.0, abs=1e-5)
    assert measured.perplexity_per_token == pytest.approx(256, rel=1e-4)


def test_the_unit_does_not_depend_on_the_tokens() -> None:
    """The same text with the same probability, in many tokens or few."""
    many, few = (Likelihood(nats=30.0, tokens=tokens, bytes=40) for tokens in (40, 10))
    assert many.bits_per_byte == few.bits_per_byte == 30 / math.log(2) / 40
    assert many.perplexity_per_token < few.perplexity_per_token


def test_packed_documents_are_measured_apart(model: GPT2) -> None:
    first, second = [3, 1, 4, 1], [5, 9, 2]
    ids, targets = torch.tensor([first + second]), torch.tensor([[1, 4, 1, -100, 9, 2, -100]])
    documents = torch.tensor([[0] * 4 + [1] * 3])
    measured = likelihood(model, [{"ids": ids, "targets": targets, "documents": documents, "bytes": torch.tensor([5])}])
    nats = -sum(logprob(model, first, place) for place in (1, 2, 3))
    nats -= sum(logprob(model, second, place) for place in (1, 2))
    assert measured.nats == pytest.approx(nats, abs=1e-10)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_continuations_by_hand_in_any_batch(model: GPT2, batch_size: int) -> None:
    pairs = [([1, 2, 3], [4]), ([7], [8, 9, 10, 11]), ([5, 5, 5, 5, 5], [0, 19]), ([2], [2])]
    expected = []
    for context, continuation in pairs:
        ids = [*context, *continuation]
        expected.append(sum(logprob(model, ids, place) for place in range(len(context), len(ids))))
    # The scores are read in float32.
    assert continuation_logprobs(model, pairs, batch_size=batch_size) == pytest.approx(expected, abs=1e-5)


def test_nothing_asked_is_nothing_answered(model: GPT2) -> None:
    assert continuation_logprobs(model, []) == []


def test_measuring_leaves_no_gradient(model: GPT2) -> None:
    likelihood(model, [{"ids": torch.tensor([[1, 2]]), "targets": torch.tensor([[2, 3]]), "bytes": torch.tensor([2])}])
    assert all(parameter.grad is None for parameter in model.parameters())
