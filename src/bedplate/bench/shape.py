"""What a Transformer's decoder or a RetNet costs, from its sizes alone: parameters, operations, activations."""

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from bedplate.errors import UserError, nearest
from bedplate.models import palm, published_sizes, retnet
from bedplate.nn.retention import CHUNK, break_even


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

    def block_activations(self, size: int, *, stream: int, length: int, split: int = 1) -> float:
        """Bytes a token that one block keeps for its backward pass, without dropout and with a fused attention, which
        keeps as much for any `length`.

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

    def held(self, size: int, length: int) -> int:
        """Bytes that are held of a sequence while generating: keys and values of all tokens, of `size` bytes each."""
        return 2 * self.num_layers * self.kv_dim * size * length


@dataclass(frozen=True, kw_only=True)
class RetentionShape(Shape):
    """The same of a RetNet, which runs whichever form multiplies less often."""

    value_dim: int  # of all heads together

    @property
    def value_head(self) -> int:
        """Values of one head."""
        return self.value_dim // self.num_heads

    @property
    def block_matrix(self) -> int:
        """Numbers in the matrices of one block: queries and keys, then values, gate and output, then the MLP."""
        retention = 2 * self.dim * self.query_dim + 3 * self.dim * self.value_dim
        return retention + (3 if self.gated else 2) * self.dim * self.inner_dim

    def attention_operations(self, length: int) -> int:
        """Operations a token, forward and backward, of retention over `length` tokens."""
        pairs = min(length, break_even(self.head_dim, self.value_head))
        return round(6 * self.num_layers * (self.query_dim + self.value_dim) * pairs)

    def block_activations(self, size: int, *, stream: int, length: int, split: int = 1) -> float:
        """Bytes a token that one block keeps for its backward pass, without dropout. No kernel is fused: scores are
        kept, and by the chunkwise form also queries, keys and values a second time and the sum before each chunk.
        """
        inputs = 2 if stream == size else 5 + self.gated  # of every linear layer but two, as above
        inside = 2 * self.query_dim + 5 * self.value_dim + (4 if self.gated else 2) * self.inner_dim
        if length <= break_even(self.head_dim, self.value_head):
            inside += self.num_heads * length
        else:
            sums = self.query_dim * self.value_head / CHUNK
            inside += self.num_heads * CHUNK + 2 * self.query_dim + self.value_dim + sums
        mixed = stream * self.value_dim  # before the norm of each head
        return stream * 4 * self.dim + (size * (inputs * self.dim + inside) + mixed) / split

    def held(self, size: int, length: int) -> int:
        """Bytes that are held of a sequence while generating: a sum of 4-byte numbers at least, for any `length`."""
        return self.num_layers * self.query_dim * self.value_head * max(size, 4)


def plannable(config: Any) -> bool:
    """Whether a model of ours is a decoder alone, which is what plans know."""
    needed = ("dim", "num_layers", "num_heads", "context_length", "tied")
    return all(hasattr(config, name) for name in needed) and not hasattr(config, "num_decoder_layers")


def shape_of(config: Any) -> Shape:
    """The shape of a model of ours, from its Config. Raises UserError for what is no decoder alone."""
    if not plannable(config):
        raise UserError("plans know language models that are a decoder alone", fix="name one, such as gpt2")
    if isinstance(config, retnet.Config):
        return _retention_shape(config)
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


def _retention_shape(config: retnet.Config) -> RetentionShape:
    return RetentionShape(
        config.dim,
        config.num_layers,
        num_heads=config.num_heads,
        head_dim=config.dim // config.num_heads,
        value_dim=config.value_dim,
        vocab_size=config.vocab_size,
        context_length=config.context_length,
        mlp_dim=config.mlp_dim,
        gated=config.mlp.startswith("gated"),
        biases=False,
        positions=False,
        tied=config.tied,
    )


def find_shape(name: str, *, others: Iterable[str] = ()) -> Shape:
    """The shape of a published size; `others` are names that the caller knows, for the error that suggests one."""
    sizes = published_sizes()
    if name not in sizes:
        raise UserError(f"there is no size {name!r}", fix=nearest(name, [*sizes, *others]))
    return shape_of(sizes[name])
