"""Models that read a source and write from it: the engine, search, and what is told when a source does not fit."""

import pytest
import torch

from bedplate.errors import UserError
from bedplate.generate.beam import Beams, beam_search, gnmt, power
from bedplate.generate.engine import Engine, Request
from bedplate.generate.sample import Sampling
from bedplate.generate.text import Generation, IdsOnly
from bedplate.models.transformer import Config, Transformer

CONFIG = Config(
    vocab_size=40, context_length=24, dim=32, num_layers=2, num_decoder_layers=2, num_heads=2, mlp_dim=48, start_id=39
)


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


SOURCES = [[1, 2, 3, 0], [5, 0], [9, 8, 7, 6, 5, 4, 3, 0], [1, 2, 3, 0], [30, 31, 32, 0]]


def served(model: Transformer, requests: list[Request], slots: int) -> list[Generation]:
    engine = Engine(model, IdsOnly(39, 0), slots=slots)
    numbers = [engine.submit(request) for request in requests]
    found = {}
    while engine.busy:
        found |= {update.number: update.generation for update in engine.step() if update.generation}
    return [found[number] for number in numbers]


def test_requests_together_are_each_alone_bit_for_bit(model: Transformer) -> None:
    requests = [
        Request(prompt=ids, max_new_tokens=9, sampling=Sampling(temperature=place % 2), seed=place)
        for place, ids in enumerate(SOURCES)
    ]
    together = served(model, requests, slots=3)
    for request, mine in zip(requests, together, strict=True):
        (alone,) = served(model, [request], slots=1)
        assert mine.ids == alone.ids and mine.logprobs == alone.logprobs


def test_log_probabilities_are_those_of_a_forward_pass(model: Transformer) -> None:
    (found,) = served(model, [Request(prompt=SOURCES[2], max_new_tokens=8, sampling=Sampling(temperature=0))], slots=1)
    ids = torch.tensor([[CONFIG.start_id, *found.ids[:-1]]])
    with torch.no_grad():
        logprobs = model(torch.tensor([SOURCES[2]]), ids)[0].log_softmax(-1)
    expected = logprobs.gather(1, torch.tensor(found.ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(found.logprobs), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("penalty", [power, gnmt])
def test_a_search_scores_what_it_says(model: Transformer, penalty: object) -> None:
    beams = Beams(width=3, length_penalty=0.6, penalty=penalty)  # type: ignore[arg-type]
    for source, found in zip(
        SOURCES, beam_search(model, SOURCES, max_new_tokens=8, beams=beams, end_ids=[0]), strict=True
    ):
        for each in found:
            ids = torch.tensor([[CONFIG.start_id, *each.ids[:-1]]])
            with torch.no_grad():
                logprobs = model(torch.tensor([source]), ids)[0].log_softmax(-1)
            total = logprobs.gather(1, torch.tensor(each.ids)[:, None]).sum().item()
            assert each.score == pytest.approx(total / beams.penalty(len(each.ids), 0.6), abs=1e-4)
        scores = [each.score for each in found]
        assert scores == sorted(scores, reverse=True)


def test_the_penalty_of_gnmt_has_its_published_values() -> None:
    assert [gnmt(length, 0.6) for length in (1, 10, 20, 50)] == pytest.approx(
        [1, 1.732862, 2.354362, 3.778565], abs=1e-6
    )


def test_a_source_that_is_too_long_is_told(model: Transformer) -> None:
    with pytest.raises(UserError, match="30 tokens"):
        served(model, [Request(prompt=[1] * 30)], slots=1)
    with pytest.raises(ValueError, match="read_source"):
        model.features(torch.tensor([[39]]), state=model.new_state(1))
