"""A state that is no cache and cannot go back is served by the same engine."""

import copy
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from tests.generate.test_continuous import run
from torch import Tensor, nn

from bedplate.generate import Engine, Request
from bedplate.generate.text import IdsOnly


class Carried:
    """The state of one recurrent layer, by the contract that the engine asks of every state."""

    def __init__(self, batch: int, dim: int) -> None:
        self.hidden, self.held, self.rows = torch.zeros(batch, dim), [0] * batch, list(range(batch))

    @property
    def lengths(self) -> list[int]:
        return [self.held[row] for row in self.rows]

    def view(self, rows: Sequence[int]) -> "Carried":
        part = copy.copy(self)
        part.rows = [self.rows[row] for row in rows]
        return part

    def truncate(self, lengths: Sequence[int]) -> None:
        for row, length in zip(self.rows, lengths, strict=True):
            assert length in (0, self.held[row])
            if length == 0:
                self.hidden[row], self.held[row] = 0, 0

    def fork(self, source: int, target: int, length: int) -> bool:
        return False


class Recurrent(nn.Module):
    """A recurrent language model: its state is no cache and cannot go back."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(context_length=400, vocab_size=300)
        self.embedding, self.cell, self.out = nn.Embedding(300, 16), nn.GRUCell(16, 16), nn.Linear(16, 300)

    def new_state(self, batch: int, *, capacity: int | None = None) -> list[Carried]:
        return [Carried(batch, 16)]

    def features(self, ids: Tensor, *, state: list[Carried]) -> Tensor:
        (layer,) = state
        outputs = []
        for token in ids.T:
            layer.hidden[layer.rows] = self.cell(self.embedding(token), layer.hidden[layer.rows])
            outputs.append(layer.hidden[layer.rows])
        for row in layer.rows:
            layer.held[row] += ids.shape[1]
        return torch.stack(outputs, dim=1)

    def logits(self, features: Tensor) -> Tensor:
        return self.out(features)


def test_a_recurrent_state_is_served_too() -> None:
    torch.manual_seed(0)
    model = Recurrent().double()
    requests = [Request(prompt=[seed + 1] * (1 + 3 * seed), max_new_tokens=3 + seed, seed=seed) for seed in range(5)]

    class Double(Carried):
        def __init__(self, batch: int, dim: int) -> None:
            super().__init__(batch, dim)
            self.hidden = self.hidden.double()

    model.new_state = lambda batch, capacity=None: [Double(batch, 16)]  # type: ignore[method-assign]
    results = run(Engine(model, IdsOnly(300), slots=2), [requests[:1], requests[1:4], requests[4:]])
    for number, request in enumerate(requests, start=1):
        expected = run(Engine(model, IdsOnly(300), slots=1), [[request]])[1]
        assert results[number].ids == expected.ids and len(expected.ids) == request.max_new_tokens
        assert results[number].logprobs == pytest.approx(expected.logprobs, abs=1e-12)
