"""Multi-head attention (Vaswani et al. 2017, section 3.2)."""

from jaxtyping import Float
from torch import Tensor, nn

from bedplate.nn.attend import Bias, KeyHeads, attend
from bedplate.nn.cache import KVCache
from bedplate.nn.linear import Linear, together
from bedplate.nn.memory import Memory
from bedplate.nn.position import rotate


class Attention(nn.Module):
    """Queries from `x`, keys and values from `x` or from `memory`; multi-query and grouped heads by `num_kv_heads`."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        self.head_dim = head_dim or dim // num_heads
        self.scale = scale
        self.dropout = dropout
        self.query = Linear(dim, self.num_heads * self.head_dim, bias=bias)
        self.key = Linear(dim, self.num_kv_heads * self.head_dim, bias=bias)
        self.value = Linear(dim, self.num_kv_heads * self.head_dim, bias=bias)
        self.out = Linear(self.num_heads * self.head_dim, dim, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "batch query dim"],
        *,
        memory: Float[Tensor, "batch key dim"] | None = None,
        bias: Bias = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        state: KVCache | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        if memory is None:
            parts = together(x, self.query, self.key, self.value)
        else:
            parts = [self.query(x), *together(memory, self.key, self.value)]
        query, key, value = map(self._heads, parts)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        if state is not None:
            mixed = state.attend(query, key, value, bias=bias, scale=self.scale)
        else:
            dropout = self.dropout if self.training else 0.0
            mixed = attend(query, key, value, bias=bias, scale=self.scale, dropout=dropout)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def read(self, x: Float[Tensor, "1 key dim"]) -> tuple[KeyHeads, KeyHeads]:
        """Keys and values of what `recall` attends to."""
        key, value = map(self._heads, together(x, self.key, self.value))
        return key, value

    def recall(self, x: Float[Tensor, "batch query dim"], memory: Memory) -> Float[Tensor, "batch query dim"]:
        """The same as `forward` with a memory whose keys and values are held already."""
        return self.out(memory.attend(self._heads(self.query(x)), scale=self.scale).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
