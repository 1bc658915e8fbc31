"""An encoder-decoder model as the contracts of language models see it."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bedplate.generate.prompt import reads_a_source
from bedplate.objectives.next_token import NextToken
from bedplate.objectives.sequence_to_sequence import SequenceToSequence

SOURCE = 7  # tokens


class Writing(nn.Module):
    """Writes from one fixed source: ids of the text so far in, next-token logits out."""

    def __init__(self, model: Any, source: Int[Tensor, "1 source"]) -> None:
        super().__init__()
        self.model, self.source, self.config = model, source, model.config
        with torch.no_grad():
            self.memory = model.encode(source)

    def forward(
        self, ids: Int[Tensor, "batch length"], *, state: list[Any] | None = None
    ) -> Float[Tensor, "batch length vocab"]:
        memory = None if state is not None else self.memory.expand(len(ids), -1, -1)
        return self.model.logits(self.model.features(ids, memory=memory, state=state))

    def new_state(self, batch: int, *, capacity: int | None = None) -> list[Any]:
        """The state after the source has been read."""
        state = self.model.new_state(batch, capacity=capacity)
        self.model.read_source(self.source, state=state)
        return state


def as_decoder(model: Any) -> Any:
    """The model itself, or what it is with a fixed source."""
    if not reads_a_source(model):
        return model
    generator = torch.Generator().manual_seed(1)
    return Writing(model, torch.randint(model.config.vocab_size, (1, SOURCE), generator=generator))


def objective_of(model: Any) -> Any:
    """What such a model learns."""
    return SequenceToSequence() if reads_a_source(model) else NextToken()


def with_source(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch with sources of different lengths, where the model reads some."""
    if not reads_a_source(model):
        return batch
    rows, width = len(batch["ids"]), SOURCE
    source = torch.randint(model.config.vocab_size, (rows, width), generator=torch.Generator().manual_seed(2))
    lengths = torch.arange(rows) % width + 1
    return batch | {"source": source, "mask": torch.arange(width) < lengths[:, None]}


@dataclass(frozen=True)
class FixedBatch:
    """A source of one batch."""

    fixed: dict[str, Tensor]
    dims: int

    def batch(self, step: int) -> dict[str, Tensor]:
        """The same rows in an order that depends on the step, so that the position in the data matters."""
        return {name: value.roll(step, dims=self.dims) for name, value in self.fixed.items()}
