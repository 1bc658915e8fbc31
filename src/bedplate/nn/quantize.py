"""Weights in fewer bits for inference: what is stored and read shrinks, what is computed with stays float32.

`bf16` keeps 8 significant bits of each weight; `int8` is a whole number from -127 to 127 times a float32 per output;
`int4` one from -8 to 7 times a bfloat16 per 32 inputs, 4.5 bits a weight. Only matrices are quantized.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bedplate.errors import UserError, nearest

KINDS = ("bf16", "int8", "int4")
GROUP = 32  # int4 weights that share a scale
ROWS = 2048  # of a matrix that are quantized at a time, which bounds the memory that it takes
SHRINKS = torch.linspace(
    1.05, 0.7, 8
)  # scales that are tried for a group of int4, relative to the one that cuts nothing


class Quantized(nn.Module):
    """A matrix of linear layers and embeddings, in fewer bits than it had."""

    codes: Tensor  # bfloat16 numbers; int8; or uint8, which are pairs of int4
    scales: Tensor | None

    def __init__(self, codes: Tensor, scales: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    @classmethod
    @torch.no_grad()
    def of(cls, weight: Float[Tensor, "out dim"], kind: str) -> "Quantized":
        """The nearest that `kind` has. Raises UserError for an unknown kind or a shape that it cannot hold."""
        cls.check(weight, kind)
        make = {"bf16": _bf16, "int8": _int8, "int4": _int4}[kind]
        pieces = [make(piece.float()) for piece in weight.detach().split(ROWS)]
        codes, scales = (list(each) for each in zip(*pieces, strict=True))
        return cls(torch.cat(codes), None if scales[0] is None else torch.cat(scales))

    @staticmethod
    def check(weight: Float[Tensor, "out dim"], kind: str) -> None:
        """Raises UserError for an unknown kind, and for what it cannot hold."""
        if kind not in KINDS:
            raise UserError(f"there is no {kind!r} form of weights", fix=nearest(kind, KINDS))
        if kind == "int4" and weight.shape[1] % GROUP:
            cause = f"int4 weights come in groups of {GROUP}, a matrix has {weight.shape[1]} inputs"
            raise UserError(cause, fix="choose int8")
        if not torch.isfinite(weight).all():
            raise UserError("a matrix holds numbers that are not finite", fix="check the weights of the model")

    @property
    def shape(self) -> torch.Size:
        """Of the matrix."""
        return torch.Size((self.codes.shape[0], self.codes.shape[1] * (2 if self.codes.dtype == torch.uint8 else 1)))

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers that `dense` gives, with which is computed."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.codes.device

    def dense(self, rows: Int[Tensor, " row"] | None = None) -> Float[Tensor, "_ dim"]:
        """The matrix, or some of its rows, in float32."""
        codes = self.codes if rows is None else self.codes[rows]
        if self.scales is None:
            return codes.float()
        scales = (self.scales if rows is None else self.scales[rows]).float()
        if codes.dtype == torch.int8:
            return codes * scales[:, None]
        pairs = codes.view(len(codes), -1, GROUP // 2)
        groups = torch.cat([pairs & 15, pairs >> 4], dim=-1).float() - 8
        return (groups * scales[..., None]).flatten(1)


class QuantizedEmbedding(nn.Module):
    """Rows of a quantized matrix by their number."""

    def __init__(self, weight: Quantized) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        return self.weight.dense(ids.flatten()).unflatten(0, ids.shape)


def dense(weight: Tensor | Quantized) -> Tensor:
    """The matrix as a tensor."""
    return weight.dense() if isinstance(weight, Quantized) else weight


def _bf16(weight: Float[Tensor, "out dim"]) -> tuple[Tensor, None]:
    return weight.bfloat16(), None


def _int8(weight: Float[Tensor, "out dim"]) -> tuple[Tensor, Tensor]:
    """Codes [out dim] and scales [out]."""
    scales = weight.abs().amax(dim=1).clamp(min=1e-30) / 127
    return (weight / scales[:, None]).round().to(torch.int8), scales


def _int4(weight: Float[Tensor, "out dim"]) -> tuple[Tensor, Tensor]:
    """Codes [out dim/2] in pairs, and scales [out dim/32]: of each group those with the least squared error."""
    groups = weight.unflatten(1, (-1, GROUP))
    extreme = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True))  # becomes -8, which has the most room
    best = torch.full_like(extreme, torch.inf)
    scales, codes = torch.zeros_like(extreme), torch.zeros_like(groups)
    for shrink in SHRINKS.tolist():
        tried = (extreme / -8 * shrink).bfloat16().float()
        tried = tried.where(tried != 0, 1.0)
        rounded = (groups / tried).round().clamp(-8, 7)
        error = (rounded * tried - groups).square().sum(dim=2, keepdim=True)
        better = error < best
        best, scales, codes = error.where(better, best), tried.where(better, scales), rounded.where(better, codes)
    low, high = (codes + 8).to(torch.uint8).split(GROUP // 2, dim=2)
    return (low | high << 4).flatten(1), scales.squeeze(2).bfloat16()
