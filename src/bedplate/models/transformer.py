"""Transformer: Attention Is All You Need.

Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, 2017, arXiv 1706.03762.

New here: an encoder and a decoder for translation of attention and position-wise layers alone, without recurrence or
convolution: every position is learned at once, and any two are one step apart.

Paper against checkpoints: none were released with the paper; folders of transformers' MarianMT hold this architecture.
There the sines of a position stand before its cosines (the paper alternates them: a permutation, which learned weights
absorb), projections have biases (tensor2tensor: none), the activation is often silu, and a fixed bias is added to the
logits. The table says 213M parameters for the big model; by its sizes and 37,000 tokens they are 214M.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bedplate.errors import UserError, nearest
from bedplate.nn.attend import Bias
from bedplate.nn.attention import Attention
from bedplate.nn.linear import Weight, project
from bedplate.nn.memory import DecoderState, let_read, new_decoder_state
from bedplate.nn.mlp import ACTIVATIONS, MLP
from bedplate.nn.norm import LayerNorm
from bedplate.nn.position import CAUSAL
from bedplate.weights.checkpoint import ACTIVATION_WORDS, Checkpoint, Setting
from bedplate.weights.rules import Drop, Rename

NORM_EPS = 1e-5  # the paper does not say; tensor2tensor has 1e-6, transformers this


@dataclass(frozen=True, kw_only=True)
class Config:
    """The base model of table 3."""

    vocab_size: int = 37000
    context_length: int = 1024
    dim: int = 512
    num_layers: int = 6  # of the encoder
    num_decoder_layers: int = 6
    num_heads: int = 8
    head_dim: int | None = None  # dim / num_heads
    mlp_dim: int = 2048
    activation: str = "relu"
    dropout: float = 0.1
    scale_embedding: bool = True  # token embeddings * sqrt(dim)
    start_id: int = 0  # what the decoder reads first

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "dim", "num_layers", "num_decoder_layers", "num_heads", "mlp_dim"):
            if not 1 <= getattr(self, name) <= 2**20:
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a number from 1 to 1048576")
        if self.head_dim is None and self.dim % self.num_heads:
            raise UserError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}", fix="change one of them")
        if self.dim % 2:
            raise UserError(f"dim is {self.dim}", fix="give an even number: positions are pairs of sine and cosine")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation {self.activation!r} is unknown", fix=nearest(self.activation, ACTIVATIONS))
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}", fix="give a share from 0 up to, but not, 1")
        if not 0 <= self.start_id < self.vocab_size:
            raise UserError(f"start_id is {self.start_id}", fix=f"give an id from 0 to {self.vocab_size - 1}")


class Sinusoids(nn.Module):
    """Fixed positions: sines, then cosines, of frequencies from 1 to nearly 1/10,000 (section 3.5), in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, positions: Int[Tensor, "#batch length"]) -> Float[Tensor, "#batch length dim"]:
        exponents = torch.arange(0, self.dim, 2, dtype=torch.float64, device=positions.device) / self.dim
        angles = positions[..., None] / 10000**exponents
        return torch.cat((angles.sin(), angles.cos()), dim=-1).float()


class EncoderBlock(nn.Module):
    """Self-attention, then the MLP; each is added to its input, and the sum normalized."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config.dim, config.num_heads, head_dim=config.head_dim)
        self.attention_norm = LayerNorm(config.dim, eps=NORM_EPS)
        self.mlp = MLP(config.dim, config.mlp_dim, activation=ACTIVATIONS[config.activation])
        self.mlp_norm = LayerNorm(config.dim, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "batch source dim"], *, bias: Bias) -> Float[Tensor, "batch source dim"]:
        x = self.attention_norm(x + self.dropout(self.attention(x, bias=bias)))  # section 3.1
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class DecoderBlock(nn.Module):
    """Attention to what is written so far, attention to the source, then the MLP."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config.dim, config.num_heads, head_dim=config.head_dim)
        self.attention_norm = LayerNorm(config.dim, eps=NORM_EPS)
        self.cross_attention = Attention(config.dim, config.num_heads, head_dim=config.head_dim)
        self.cross_attention_norm = LayerNorm(config.dim, eps=NORM_EPS)
        self.mlp = MLP(config.dim, config.mlp_dim, activation=ACTIVATIONS[config.activation])
        self.mlp_norm = LayerNorm(config.dim, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        *,
        memory: Float[Tensor, "batch source dim"] | None,
        memory_bias: Bool[Tensor, "#batch 1 1 source"] | None,
        state: DecoderState | None,
    ) -> Float[Tensor, "batch length dim"]:
        own = self.attention(x, bias=CAUSAL, state=state.own if state else None)
        x = self.attention_norm(x + self.dropout(own))
        if state:
            read = self.cross_attention.recall(x, state.memory)
        else:
            read = self.cross_attention(x, memory=memory, bias=memory_bias)
        x = self.cross_attention_norm(x + self.dropout(read))  # section 3.2.3
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class Transformer(nn.Module):
    """Ids of a source and of the text so far in, next-token logits out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.positions = Sinusoids(config.dim)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_layers))
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.num_decoder_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("output_bias", torch.zeros(1, config.vocab_size))  # zero, unless a checkpoint has one
        self.initialize()

    def initialize(self) -> None:
        """Xavier's uniform distribution, as tensor2tensor's unit scaling; embeddings N(0, 1 / sqrt(dim))."""
        for name, parameter in self.named_parameters():
            if name == "token_embedding.weight":
                nn.init.normal_(parameter, std=self.config.dim**-0.5)
            elif parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @property
    def output_weight(self) -> Weight:
        """The matrix that turns features into logits: the embedding (section 3.4)."""
        return self.token_embedding.weight

    def encode(
        self, source: Int[Tensor, "batch source"], *, mask: Bool[Tensor, "batch source"] | None = None
    ) -> Float[Tensor, "batch source dim"]:
        """What the decoder reads from. `mask` is False at padding."""
        self._check_length(source.shape[1])
        bias = None if mask is None else mask[:, None, None]
        x = self._embed(source, torch.arange(source.shape[1], device=source.device)[None])
        for block in self.encoder:
            x = block(x, bias=bias)
        return x

    def features(
        self,
        ids: Int[Tensor, "batch length"],
        *,
        memory: Float[Tensor, "batch source dim"] | None = None,
        mask: Bool[Tensor, "batch source"] | None = None,
        state: list[DecoderState] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Everything of the decoder but the output layer; it reads from `memory`, or from what the state holds."""
        self._check_length(ids.shape[1] + (max(state[0].lengths) if state else 0))
        positions = (
            state[0].next_positions(ids.shape[1]) if state else torch.arange(ids.shape[1], device=ids.device)[None]
        )
        x = self._embed(ids, positions)
        bias = None if mask is None else mask[:, None, None]
        for layer, block in enumerate(self.decoder):
            x = block(x, memory=memory, memory_bias=bias, state=state[layer] if state else None)
        return x

    def logits(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """Scores of every token of the vocabulary to come next."""
        return project(features, self.output_weight) + self.output_bias[0]

    def forward(
        self,
        source: Int[Tensor, "batch source"],
        ids: Int[Tensor, "batch length"],
        *,
        mask: Bool[Tensor, "batch source"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        return self.logits(self.features(ids, memory=self.encode(source, mask=mask), mask=mask))

    def new_state(self, batch: int, *, capacity: int | None = None) -> list[DecoderState]:
        """Of each decoder layer, for up to `capacity` tokens a sequence (default: the context length)."""
        config, room = self.config, self.config.context_length if capacity is None else capacity
        head_dim = config.head_dim or config.dim // config.num_heads
        weight = self.token_embedding.weight
        return new_decoder_state(len(self.decoder), batch, config.num_heads, room, head_dim, like=weight)

    def read_source(self, source: Int[Tensor, "1 source"], *, state: list[DecoderState]) -> None:
        """Encode a source once; the sequences of the state write from it."""
        let_read(state, self.decoder, self.encode(source))

    def _embed(self, ids: Tensor, positions: Tensor) -> Float[Tensor, "batch length dim"]:
        tokens = self.token_embedding(ids)
        scale = self.config.dim**0.5 if self.config.scale_embedding else 1.0
        return self.dropout(tokens * scale + self.positions(positions).to(tokens.dtype))  # section 3.4

    def _check_length(self, length: int) -> None:
        if length > self.config.context_length:
            raise ValueError(f"{length} tokens are more than the context length of {self.config.context_length}")


SIZES = {  # parameters, with 37,000 tokens:
    "transformer-base": Config(),  # 63,082,496
    "transformer-big": Config(dim=1024, num_heads=16, mlp_dim=4096, dropout=0.3),  # 214,245,376
}

HF = Checkpoint(
    model_type="marian",
    architecture="MarianMTModel",
    model=Transformer,
    config=Config,
    settings=(
        Setting("vocab_size", "vocab_size"),
        Setting("decoder_vocab_size", "vocab_size"),
        Setting("max_position_embeddings", "context_length"),
        Setting("d_model", "dim"),
        Setting("encoder_layers", "num_layers"),
        Setting("num_hidden_layers", "num_layers"),
        Setting("decoder_layers", "num_decoder_layers"),
        Setting("encoder_attention_heads", "num_heads"),
        Setting("decoder_attention_heads", "num_heads"),
        Setting("encoder_ffn_dim", "mlp_dim"),
        Setting("decoder_ffn_dim", "mlp_dim"),
        Setting("activation_function", "activation", values=ACTIVATION_WORDS),
        Setting("dropout", "dropout"),
        Setting("scale_embedding", "scale_embedding"),
        Setting("decoder_start_token_id", "start_id"),
        Setting("pad_token_id", "start_id"),
    ),
    require={
        "is_encoder_decoder": True, "share_encoder_decoder_embeddings": True, "tie_word_embeddings": True,
        "attention_dropout": 0.0, "activation_dropout": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0,
    },
    accept={
        "normalize_before": False, "normalize_embedding": False, "add_final_layer_norm": False,
        "static_position_embeddings": True,
    },
    absent=lambda values: {"scale_embedding": False, "activation_function": "gelu", "decoder_start_token_id": 58100},
    # Other heads, and how weights were drawn.
    ignore=("init_std", "classif_dropout", "classifier_dropout", "add_bias_logits", "extra_pos_embeddings"),
    weights=(
        Rename("model.shared.weight", "token_embedding.weight"),
        *(
            Rename(f"model.{side}.layers.*.{theirs}.{{weight,bias}}", f"{side}.*.{ours}.{{weight,bias}}")
            for side in ("encoder", "decoder")
            for theirs, ours in (
                ("self_attn.q_proj", "attention.query"),
                ("self_attn.k_proj", "attention.key"),
                ("self_attn.v_proj", "attention.value"),
                ("self_attn.out_proj", "attention.out"),
                ("self_attn_layer_norm", "attention_norm"),
                ("encoder_attn.q_proj", "cross_attention.query"),
                ("encoder_attn.k_proj", "cross_attention.key"),
                ("encoder_attn.v_proj", "cross_attention.value"),
                ("encoder_attn.out_proj", "cross_attention.out"),
                ("encoder_attn_layer_norm", "cross_attention_norm"),
                ("fc1", "mlp.up"),
                ("fc2", "mlp.down"),
                ("final_layer_norm", "mlp_norm"),
            )
            if side == "decoder" or "encoder_attn" not in theirs
        ),
        Rename("final_logits_bias", "output_bias"),
        Drop("model.encoder.embed_positions.weight"),  # fixed: computed
        Drop("model.decoder.embed_positions.weight"),
    ),
    tied={
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "lm_head.weight": "model.shared.weight",
    },
)  # fmt: skip
