"""Sequences side by side in one memory, each with its own number of tokens: what the states of all layers share."""

import copy
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

Kind = TypeVar("Kind", bound="Sequences")


class Sequences:
    """The rows of a memory that this object looks at; all views of the memory share the count of tokens."""

    goes_back: ClassVar[bool]  # whether `truncate` can keep any number of tokens, not just all or none

    def __init__(self, batch: int, *, device: torch.device) -> None:
        self._held = [0] * batch  # tokens in each row of the memory, shared by all views of it
        self._device = device
        self.rows = list(range(batch))  # the rows that this view looks at

    @property
    def lengths(self) -> list[int]:
        """Tokens held of each sequence."""
        return [self._held[row] for row in self.rows]

    def next_positions(self, new: int) -> Int[Tensor, "#batch new"]:
        """Where the next `new` tokens of each sequence stand; one row when all sequences are equally long."""
        lengths = self.lengths
        starts = torch.tensor(lengths[:1] if len(set(lengths)) == 1 else lengths, device=self._device)
        return starts[:, None] + torch.arange(new, device=self._device)

    def view(self: Kind, rows: Sequence[int]) -> Kind:
        """These sequences alone, in the same memory: what is done to the view is done to them."""
        part = copy.copy(self)
        part.rows = [self.rows[row] for row in rows]
        return part

    def count(self, new: int) -> None:
        """Note that `new` tokens more of each sequence are held."""
        for row in self.rows:
            self._held[row] += new

    def _side_by_side(self) -> slice | None:
        """The rows as one piece of the memory, where they are one."""
        first, count = self.rows[0], len(self.rows)
        return slice(first, first + count) if self.rows == list(range(first, first + count)) else None
