"""Requests that join and leave: each gets what it gets alone, bit for bit, whatever shares its passes."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.generate.tiny import random_model, tokenizer
from torch import Tensor

from bedplate.errors import UserError
from bedplate.generate import Engine, Generation, Request, Sampling
from bedplate.generate import engine as engine_module
from bedplate.models.gpt2 import GPT2

GREEDY = Sampling(temperature=0)
SAMPLINGS = [
    GREEDY,
    Sampling(),
    Sampling(temperature=0.8, top_k=20, top_p=0.9),
    Sampling(presence_penalty=1.0, frequency_penalty=0.5, logit_bias={3: 2.0}),
]


def float32_model() -> GPT2:
    model = random_model(dtype=torch.float32, context_length=400, dim=64)
    return model


def run(engine: Engine, arrivals: Sequence[Sequence[Request]]) -> dict[int, Generation]:
    """Hand in the requests of arrivals[step] before each step; results by number."""
    results: dict[int, Generation] = {}
    for requests in arrivals:
        for request in requests:
            engine.submit(request)
        results |= {each.number: each.generation for each in engine.step() if each.generation}
    while engine.busy:
        results |= {each.number: each.generation for each in engine.step() if each.generation}
    return results


def alone(model: Any, request: Request) -> Generation:
    (result,) = run(Engine(model, tokenizer(), slots=1), [[request]]).values()
    return result


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_company_changes_no_bit(data: st.DataObject) -> None:
    model = float32_model()
    requests = [
        Request(
            prompt=data.draw(st.lists(st.integers(0, 299), min_size=1, max_size=8))
            * data.draw(st.sampled_from([1, 30])),
            max_new_tokens=data.draw(st.integers(1, 8)),
            sampling=data.draw(st.sampled_from(SAMPLINGS)),
            seed=data.draw(st.integers(0, 9)),
            stop=data.draw(st.sampled_from([(), ("e", "\n")])),
        )
        for _ in range(data.draw(st.integers(1, 7)))
    ]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(requests)), max_size=5)))
    borders = [0, *cuts, len(requests)]
    arrivals = [requests[start:end] for start, end in zip(borders, borders[1:], strict=False)]
    results = run(Engine(model, tokenizer(), slots=data.draw(st.integers(1, 4))), arrivals)
    for number, request in enumerate(requests, start=1):
        assert results[number] == alone(model, request)


def test_a_prompt_beginning_that_is_shared_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CHUNK", 4)
    model, read = float32_model(), []
    features = model.features
    monkeypatch.setattr(model, "features", lambda ids, **rest: (read.append(ids.shape), features(ids, **rest))[1])
    start = list(range(10, 21))  # two whole chunks and three tokens
    first, second = (Request(prompt=[*start, last], max_new_tokens=3, sampling=GREEDY) for last in (30, 40))
    expected = [alone(model, each) for each in (first, second)]
    for slots, arrivals in ((2, [[first], [second]]), (1, [[first, second]]), (3, [[first, second]])):
        read.clear()
        results = run(Engine(model, tokenizer(), slots=slots), arrivals)
        assert [results[1], results[2]] == expected
        assert sum(length for _, length in read if length > 1) == 12 + 4  # of 12 + 12
    same = run(Engine(model, tokenizer(), slots=2), [[first], [first]])
    assert same[1] == same[2] == expected[0]  # a whole prompt that is known still reads its last chunk


def test_what_was_written_is_not_taken_for_a_prompt_that_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CHUNK", 4)
    model = float32_model()
    first = Request(prompt=[5, 6, 7, 8], max_new_tokens=9, sampling=GREEDY)
    written = alone(model, first)
    longer = Request(prompt=[5, 6, 7, 8, *written.ids, 9], max_new_tokens=3, sampling=GREEDY)
    results = run(Engine(model, tokenizer(), slots=1), [[first], [longer]])
    assert results[2] == alone(model, longer)


def test_a_cancelled_request_frees_its_slot_at_once() -> None:
    model = float32_model()
    engine = Engine(model, tokenizer(), slots=1)
    requests = [Request(prompt=[1, 2, seed], max_new_tokens=30, seed=seed) for seed in range(3)]
    numbers = [engine.submit(request) for request in requests]
    engine.step()
    assert (engine.running, engine.waiting) == (1, 2)
    engine.cancel(numbers[0])
    engine.cancel(numbers[1])
    engine.cancel(99)
    assert (engine.running, engine.waiting) == (0, 1)
    (update,) = engine.step()
    assert update.number == numbers[2] and engine.running == 1
    assert run(engine, [])[numbers[2]] == alone(model, requests[2])


def test_a_long_prompt_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CHUNK", 4)
    engine = Engine(float32_model(), tokenizer(), slots=2)
    short = engine.submit(Request(prompt=[1], max_new_tokens=40, sampling=GREEDY))
    engine.step()
    long = engine.submit(Request(prompt=list(range(64)), max_new_tokens=1))
    steps = []
    while engine.running and not any(update.number == long for update in (steps[-1] if steps else [])):
        steps.append(engine.step())
    assert len(steps) == 64 // (4 * engine_module.CHUNKS_PER_STEP)
    assert all(any(update.number == short for update in updates) for updates in steps)


def test_a_broken_request_leaves_its_neighbors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = float32_model()
    engine = Engine(model, tokenizer(), slots=2)
    good = Request(prompt=[1, 2, 3], max_new_tokens=5, seed=1)
    expected = alone(model, good)
    bad, fine = engine.submit(Request(prompt=[7], max_new_tokens=5)), engine.submit(good)
    logits = model.logits

    def poisoned(features: Tensor) -> Tensor:
        result = logits(features)
        result[0] = math.nan
        return result

    with monkeypatch.context() as patch:
        patch.setattr(model, "logits", poisoned)
        updates = engine.step()
    assert [(each.number, each.error) for each in updates if each.error] == [
        (bad, "the model's output is not a number")
    ]
    assert engine.running == 1 and run(engine, [])[fine] == expected


def test_alternatives_and_biases() -> None:
    model = float32_model()
    engine = Engine(model, tokenizer(), slots=1)
    engine.submit(Request(prompt=[1, 2], max_new_tokens=1, sampling=GREEDY, top_logprobs=4))
    (update,) = engine.step()
    logprobs = model(torch.tensor([[1, 2]])).log_softmax(-1)[0, -1, :300]
    assert update.token is not None and [id for id, _ in update.token.top] == logprobs.topk(4).indices.tolist()
    assert [value for _, value in update.token.top] == pytest.approx(logprobs.topk(4).values.tolist(), abs=1e-5)
    assert update.token[:2] == update.token.top[0]
    forced = alone(model, Request(prompt=[1, 2], max_new_tokens=4, sampling=Sampling(logit_bias={65: 1e4, 10**6: 5.0})))
    assert forced.ids == [65] * 4
    forbidden = Sampling(temperature=0, logit_bias={update.token.id: -math.inf})
    assert alone(model, Request(prompt=[1, 2], max_new_tokens=1, sampling=forbidden)).ids == [update.token.top[1][0]]


def test_penalties_count_what_was_written_and_not_the_prompt() -> None:
    model = random_model()
    for sampling, drop in ((Sampling(temperature=0, presence_penalty=1e6), 1e6), (Sampling(temperature=0), 0.0)):
        ids = alone(model, Request(prompt=[4, 4, 9], max_new_tokens=12, sampling=sampling)).ids
        written: list[int] = []
        for token in ids:
            logits = model(torch.tensor([[4, 4, 9, *written]]))[0, -1, : tokenizer().vocab_size]
            for seen in set(written):
                logits[seen] -= drop
            assert token == logits.argmax()
            written.append(token)
        assert drop == 0 or len(set(ids)) == 12
    often = Sampling(temperature=0, logit_bias={7: 50.0}, frequency_penalty=20.0)
    counts = alone(model, Request(prompt=[1], max_new_tokens=12, sampling=often)).ids
    assert 1 < counts.count(7) < 12


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": []}, "no tokens"),
        ({"prompt": [300]}, "id 300"),
        ({"prompt": [-1]}, "id -1"),
        ({"prompt": [1] * 400}, "context"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": [""]}, "stop string"),
        ({"seed": 2**64}, "64 bits"),
        ({"top_logprobs": -1}, "top_logprobs"),
    ],
)
def test_bad_requests_are_refused_at_the_door(changes: dict[str, Any], words: str) -> None:
    engine = Engine(float32_model(), tokenizer(), slots=1)
    with pytest.raises(UserError, match=words):
        engine.submit(Request(**{"prompt": [1]} | changes))
    assert not engine.busy


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "changes",
    [
        {"logit_bias": dict.fromkeys(range(300), -math.inf)},
        {"repetition_penalty": 1e-320},
        {"presence_penalty": -1e308},
    ],
)
def test_a_request_that_forbids_everything_ends_alone(changes: dict[str, Any], temperature: float) -> None:
    model = float32_model()
    engine = Engine(model, tokenizer(), slots=2)
    good = Request(prompt=[1, 2, 3], max_new_tokens=5, seed=1)
    sampling = Sampling(temperature=temperature, **changes)
    bad, fine = engine.submit(Request(prompt=[7, 8], sampling=sampling)), engine.submit(good)
    ends: dict[int, Any] = {}
    while engine.busy:
        ends |= {each.number: each.error or each.generation for each in engine.step() if each.error or each.generation}
    assert ends == {bad: "penalties, biases and constraints leave no token to choose", fine: alone(model, good)}


@pytest.mark.parametrize("broken", [True, False])
def test_a_constraint_that_fails_or_allows_nothing_ends_alone(broken: bool) -> None:
    class Stuck:
        ended = False

        def allowed(self) -> Tensor:
            if broken:
                raise UserError("the automaton is too large", fix="make it smaller")
            return torch.zeros(300, dtype=torch.bool)

    model = float32_model()
    engine = Engine(model, tokenizer(), slots=2)
    good = Request(prompt=[1, 2, 3], max_new_tokens=5, seed=1)
    bad, fine = engine.submit(Request(prompt=[7, 8], constraint=Stuck())), engine.submit(good)
    (failed,) = [update for update in engine.step() if update.error]
    assert failed.number == bad and failed.error == engine_module.NOTHING_ALLOWED
    assert run(engine, [])[fine] == alone(model, good)


@pytest.mark.parametrize("bias", [math.nan, math.inf])
def test_senseless_biases_are_refused(bias: float) -> None:
    with pytest.raises(UserError, match="logit bias of token 5"):
        Sampling(logit_bias={5: bias})


def test_a_prompt_longer_than_the_engine_holds_is_refused() -> None:
    engine = Engine(float32_model(), tokenizer(), slots=1, capacity=20)
    with pytest.raises(UserError, match="the engine holds 20"):
        engine.submit(Request(prompt=[1] * 20))
    engine.submit(Request(prompt=[1] * 15, max_new_tokens=50))
    (result,) = run(engine, []).values()
    assert len(result.ids) <= 5
