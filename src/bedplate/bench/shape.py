"""What a decoder costs, from its sizes alone: parameters, operations, activations."""

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from bedplate.errors import UserError, nearest
from bedplate.models import palm, published_sizes


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder-only Transformer that cost anything. Every count is of the whole model."""

    dim: int
    num_layers: int
    _: KW_ONLY
    num_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    num_kv_heads: int = 0  # 0: as many as heads
    mlp_dim: int = 0  # 0: four times `dim`
    gated: bool = False  # a third matrix in each MLP (SwiGLU)
    biases: bool = True  # of linear layers and norms
    norms: int = 2  # of each block
    positions: bool = True  # a learned vector for every position
    tied: bool = True  # one matrix embeds tokens and scores them

    @property
    def query_dim(self) -> int:
        """Width of all queries together."""
        return self.num_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all keys, and of all values."""
        return (self.num_kv_heads or self.num_heads) * self.head_dim

    @property
    def inner_dim(self) -> int:
        """Width inside an MLP."""
        return self.mlp_dim or 4 * self.dim

    @property
    def block_matrix(self) -> int:
        """Numbers in the matrices of one block."""
        return 2 * self.dim * (self.query_dim + self.kv_dim) + (3 if self.gated else 2) * self.dim * self.inner_dim

    @property
    def embedding(self) -> int:
        """Numbers in the token embedding."""
        return self.vocab_size * self.dim

    @property
    def block(self) -> int:
        """Parameters of one block: matrices, biases and norms."""
        widths = self.query_dim + 2 * self.kv_dim + self.inner_dim * (2 if self.gated else 1) + 2 * self.dim
        return self.block_matrix + (widths if self.biases else 0) + self.norms * self._norm

    @property
    def parameters(self) -> int:
        """All of them."""
        positions = self.context_length * self.dim if self.positions else 0
        heads = self.embedding * (1 if self.tied else 2)
        return self.num_layers * self.block + heads + positions + self._norm

    @property
    def _norm(self) -> int:
        return self.dim * (2 if self.biases else 1)

    def dense_operations(self) -> int:
        """Operations a token, forward and backward, of multiplying with weights: 6 for each (Kaplan et al. 2020).

        The matrix that scores tokens counts; looking up an embedding costs nothing.
        """
        return 6 * (self.num_layers * self.block_matrix + self.embedding)

    def attention_operations(self, length: int) -> int:
        """Operations a token, forward and backward, of scores and mixing over `length` tokens (PaLM, appendix B).

        Counted for all pairs, as the field does; kernels that know the causal mask make half of them.
        """
        return 12 * self.num_layers * self.query_dim * length

    def operations(self, length: int) -> int:
        """Operations a token, forward and backward."""
        return self.dense_operations() + self.attention_operations(length)

    def recomputed_operations(self, length: int) -> int:
        """Further operations a token when blocks make their activations again: their forward pass once more."""
        return 2 * self.num_layers * self.block_matrix + self.attention_operations(length) // 3

    def block_activations(self, size: int, *, stream: int, split: int = 1) -> float:
        """Bytes a token that one block keeps for its backward pass, without dropout and with a fused attention.

        `size`: bytes of a number inside; `stream`: on the residual path. Where they differ (autocast), every linear
        layer keeps its own copy of its input. `split`: over how many ranks tensor parallelism divides heads and inner
        width (Korthikanti et al. 2022, section 4).
        """
        inputs = 2 if stream == size else 4  # of query, key and value, often one tensor, and of the MLP
        inside = 2 * self.query_dim + 2 * self.kv_dim + (4 if self.gated else 2) * self.inner_dim
        return stream * 2 * self.dim + size * (inputs * self.dim + inside / split)

    def block_gradients(self, size: int, *, stream: int, split: int = 1) -> float:
        """Bytes a token that the backward pass of one block holds beside what was kept: gradients around its MLP."""
        return stream * 2 * self.dim + size * 2 * self.inner_dim / split

    def cache(self, size: int) -> int:
        """Bytes a token of the keys and values kept while generating, in numbers of `size` bytes."""
        return 2 * self.num_layers * self.kv_dim * size


def plannable(config: Any) -> bool:
    """Whether a model of ours is a Transformer's decoder alone, which is what plans know."""
    needed = ("dim", "num_layers", "num_heads", "context_length", "tied")
    other = ("num_decoder_layers", "value_dim")  # of an encoder beside it, of retention
    return all(hasattr(config, name) for name in needed) and not any(hasattr(config, name) for name in other)


def shape_of(config: Any) -> Shape:
    """The shape of a model of ours, from its Config. Raises UserError for what is no decoder alone."""
    if not plannable(config):
        raise UserError("plans know Transformers that are a decoder alone", fix="name one, such as gpt2")
    rotary = hasattr(config, "rotary_base")  # such models of ours have gated MLPs, and no biases worth counting
    return Shape(
        config.dim,
        config.num_layers,
        num_heads=config.num_heads,
        head_dim=getattr(config, "head_dim", None) or config.dim // config.num_heads,
        num_kv_heads=getattr(config, "num_kv_heads", None) or 0,
        vocab_size=config.vocab_size,
        context_length=config.context_length,
        mlp_dim=getattr(config, "mlp_dim", None) or 0,
        gated=rotary,
        biases=not rotary,
        norms=1 if isinstance(config, palm.Config) else 2,
        positions=not rotary and getattr(config, "learned_positions", True),
        tied=config.tied,
    )


def _gpt3(dim: int, num_layers: int, num_heads: int, head_dim: int) -> Shape:
    return Shape(
        dim, num_layers, num_heads=num_heads, head_dim=head_dim, mlp_dim=4 * dim, vocab_size=50257, context_length=2048
    )


# Published models that have no file of their own yet (GPT-3, table 2.1).
PUBLISHED = {
    "gpt3-small": _gpt3(768, 12, 12, 64),
    "gpt3-medium": _gpt3(1024, 24, 16, 64),
    "gpt3-large": _gpt3(1536, 24, 16, 96),
    "gpt3-xl": _gpt3(2048, 24, 16, 128),  # the table says 24 heads, which 2,048 / 128 does not give
    "gpt3-2.7b": _gpt3(2560, 32, 32, 80),
    "gpt3-6.7b": _gpt3(4096, 32, 32, 128),
    "gpt3-13b": _gpt3(5120, 40, 40, 128),  # the table says 5,140, which 40 heads of 128 do not give
    "gpt3": _gpt3(12288, 96, 96, 128),
}  # fmt: skip


def find_shape(name: str, *, others: Iterable[str] = ()) -> Shape:
    """The shape of a published size; `others` are names that the caller knows, for the error that suggests one."""
    sizes = published_sizes()
    if name in sizes:
        return shape_of(sizes[name])
    if name not in PUBLISHED:
        raise UserError(f"there is no size {name!r}", fix=nearest(name, [*sizes, *PUBLISHED, *others]))
    return PUBLISHED[name]
