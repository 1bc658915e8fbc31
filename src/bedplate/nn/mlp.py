"""Position-wise feed-forward networks (Vaswani et al. 2017, section 3.3; gated: Shazeer 2020) and their activations."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bedplate.nn.linear import Linear, few_rows, inferring, together

Activation = Callable[[Tensor], Tensor]

# Hendrycks and Gimpel 2016 (arXiv 1606.08415): the tanh form and the exact one differ by up to 5e-4.
gelu_tanh: Activation = partial(F.gelu, approximate="tanh")

ACTIVATIONS: dict[str, Activation] = {
    "gelu_tanh": gelu_tanh,
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class MLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(
        self, dim: int, mlp_dim: int, *, activation: Activation, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = Linear(dim, mlp_dim, bias=bias)
        self.down = Linear(mlp_dim, dim, bias=bias)
        self.dropout = nn.Dropout(dropout)  # of the inner activations

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return self.down(self.dropout(_each_alone(self.activation, self.up(x))))


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)): SwiGLU with silu, GEGLU with gelu (Shazeer 2020, arXiv 2002.05202, eq. 6)."""

    def __init__(
        self, dim: int, mlp_dim: int, *, activation: Activation, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.activation = activation
        self.gate = Linear(dim, mlp_dim, bias=bias)
        self.up = Linear(dim, mlp_dim, bias=bias)
        self.down = Linear(mlp_dim, dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        gate, up = together(x, self.gate, self.up)
        return self.down(self.dropout(_each_alone(self.activation, gate) * up))


def _each_alone(activation: Activation, x: Float[Tensor, "*batch mlp_dim"]) -> Float[Tensor, "*batch mlp_dim"]:
    """Vector instructions round otherwise than those for the numbers that are left over at the end of a tensor, so that
    sequences that decode together are computed one by one: what each gives must not depend on the others.
    """
    if x.ndim > 2 and len(x) > 1 and inferring(x) and few_rows(x):
        return torch.cat([activation(row) for row in x.split(1)])
    return activation(x)
