"""What one layer of retention holds of the sequences that it reads: as much after a million tokens as after one."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bedplate.nn.retention import Decay, Keys, Values, retain_chunkwise, retain_recurrent
from bedplate.nn.sequences import Sequences


class RetentionState(Sequences):
    """The decayed sum of all tokens of each sequence. A token cannot be taken out of a sum again: such a state is kept,
    begun anew, or copied as it is.
    """

    goes_back = False

    def __init__(
        self, batch: int, num_heads: int, key_dim: int, value_dim: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(batch, device=device)
        exact = torch.promote_types(dtype, torch.float32)  # half precision would lose what decays slowly
        self.sums: Float[Tensor, "batch heads value_dim key_dim"] = torch.zeros(
            batch, num_heads, value_dim, key_dim, dtype=exact, device=device
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""
        return self.sums.nbytes

    def retain(self, query: Keys, key: Keys, value: Values, *, decay: Decay) -> Values:
        """Take in new tokens, each of which reads from all so far."""
        rows = self._side_by_side() or torch.tensor(self.rows, device=self._device)
        form = retain_recurrent if query.shape[2] == 1 else retain_chunkwise
        mixed, self.sums[rows] = form(query, key, value, decay=decay, sums=self.sums[rows])
        self.count(query.shape[2])
        return mixed

    def truncate(self, lengths: Sequence[int]) -> None:
        """Begin sequences anew (0), or leave them as long as they are; a ValueError for any other length."""
        if any(length not in (0, held) for length, held in zip(lengths, self.lengths, strict=True)):
            raise ValueError(f"sums over {self.lengths} tokens cannot go back to {list(lengths)}")
        for row, length in zip(self.rows, lengths, strict=True):
            if length == 0:
                self.sums[row] = 0
                self._held[row] = 0

    def select(self, indices: Sequence[int]) -> None:
        """Keep only these sequences, in this order, each as often as it is named."""
        lengths = self.lengths
        self.sums = self.sums[torch.tensor([self.rows[index] for index in indices], device=self._device)]
        self._held = [lengths[index] for index in indices]
        self.rows = list(range(len(indices)))

    def fork(self, source: int, target: int, length: int) -> bool:
        """Let sequence `target` begin as `source` stands; False when that holds not just `length` tokens."""
        read, write = self.rows[source], self.rows[target]
        if self._held[read] != length:
            return False
        self.sums[write] = self.sums[read]
        self._held[write] = length
        return True
