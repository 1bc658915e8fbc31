"""T5: Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer.

Raffel, Shazeer, Roberts, Lee, Narang, Matena, Zhou, Li, Liu, 2020, arXiv 1910.10683. With T5 1.1, mT5 (Xue et al. 2021,
arXiv 2010.11934) and Flan-T5 (Chung et al. 2022, arXiv 2210.11416), which have this architecture.

New here: every task is text in, text out, for one encoder-decoder with norms on the input of each sub-block that only
scale (no mean, no bias), and positions as a learned bias on the scores, by buckets of the distance.

Paper against released weights: scores are not divided by sqrt(head_dim), which initialization makes up for. The first
T5 ties its output to the embedding and scales features by dim^-0.5; T5 1.1 and Flan-T5 have an output of their own and
a gated MLP, and so has mT5. transformers 5 writes "tie_word_embeddings": true for all of them, whatever is stored.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bedplate.errors import UserError, nearest
from bedplate.nn.attend import Bias
from bedplate.nn.attention import Attention
from bedplate.nn.linear import Linear, Weight, project
from bedplate.nn.memory import DecoderState, let_read, new_decoder_state
from bedplate.nn.mlp import ACTIVATIONS, MLP, GatedMLP, gelu_tanh
from bedplate.nn.norm import RMSNorm
from bedplate.weights.checkpoint import Checkpoint, Setting
from bedplate.weights.rules import Drop, Rename, Rule, Where

MLPS = {
    "relu": partial(MLP, activation=ACTIVATIONS["relu"]),
    "gelu": partial(MLP, activation=ACTIVATIONS["gelu"]),
    "gated gelu": partial(GatedMLP, activation=gelu_tanh),
    "gated silu": partial(GatedMLP, activation=ACTIVATIONS["silu"]),
    "gated relu": partial(GatedMLP, activation=ACTIVATIONS["relu"]),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The first T5 of the smallest published size."""

    vocab_size: int = 32128
    context_length: int = 2048  # of either side; positions are relative, so this is what memory is set aside for
    dim: int = 512
    num_layers: int = 6  # of the encoder
    num_decoder_layers: int = 6
    num_heads: int = 8
    head_dim: int = 64
    mlp_dim: int = 2048
    mlp: str = "relu"
    num_buckets: int = 32  # of distances
    max_distance: int = 128  # from which on all distances are one
    dropout: float = 0.1
    norm_eps: float = 1e-6
    tied: bool = True  # output weight = token embedding
    scale_output: bool = True  # features * dim^-0.5 before the output
    start_id: int = 0  # what the decoder reads first: padding

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "dim", "num_layers", "num_decoder_layers", "num_heads", "head_dim",
                     "mlp_dim", "max_distance"):  # fmt: skip
            if not 1 <= getattr(self, name) <= 2**20:
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a number from 1 to 1048576")
        if self.num_buckets < 4 or self.num_buckets % 2 or self.max_distance <= self.num_buckets // 2:
            cause = f"num_buckets is {self.num_buckets}, max_distance {self.max_distance}"
            raise UserError(cause, fix="give an even number of buckets from 4 up, and a distance above half of it")
        if self.mlp not in MLPS:
            raise UserError(f"mlp {self.mlp!r} is unknown", fix=nearest(self.mlp, MLPS))
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}", fix="give a share from 0 up to, but not, 1")
        if not 0 <= self.start_id < self.vocab_size:
            raise UserError(f"start_id is {self.start_id}", fix=f"give an id from 0 to {self.vocab_size - 1}")


class RelativeBias(nn.Module):
    """A learned score for each head and bucket of distances (section 2.1), shared by all blocks of a stack."""

    def __init__(self, config: Config, *, behind: int) -> None:
        super().__init__()
        self.buckets = nn.Embedding(config.num_buckets, config.num_heads)
        self.behind = behind  # buckets for keys behind the query: half of them, or none where it sees none
        self.max_distance = config.max_distance

    def forward(
        self, queries: Int[Tensor, "#batch query"], keys: Int[Tensor, " key"]
    ) -> Float[Tensor, "#batch heads query key"]:
        """The bias of queries at these positions for keys at those."""
        return self.buckets(self.bucket(keys - queries[..., None])).permute(0, 3, 1, 2)

    def bucket(self, distance: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Small distances have a bucket each; larger ones share, in logarithmic steps up to the last bucket."""
        ahead = self.buckets.num_embeddings - self.behind
        first = torch.where(distance > 0, ahead, 0) if self.behind else torch.zeros_like(distance)
        distance = distance.abs() if self.behind else (-distance).clamp(min=0)
        exact = ahead // 2
        # In float32, as the released code: buckets are borders of it.
        steps = (distance.clamp(min=1).float() / exact).log() / math.log(self.max_distance / exact) * (ahead - exact)
        far = (exact + steps.long()).clamp(max=ahead - 1)
        return first + torch.where(distance < exact, distance, far)


class EncoderBlock(nn.Module):
    """Norms on the input of each sub-block."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = _attention(config)
        self.mlp_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLPS[config.mlp](config.dim, config.mlp_dim, bias=False, dropout=config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "batch source dim"], *, bias: Bias) -> Float[Tensor, "batch source dim"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), bias=bias))  # section 2.1
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class DecoderBlock(nn.Module):
    """The same, with attention to the source in between."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = _attention(config)
        self.cross_attention_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.cross_attention = _attention(config)
        self.mlp_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLPS[config.mlp](config.dim, config.mlp_dim, bias=False, dropout=config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        *,
        bias: Bias,
        memory: Float[Tensor, "batch source dim"] | None,
        memory_bias: Bool[Tensor, "#batch 1 1 source"] | None,
        state: DecoderState | None,
    ) -> Float[Tensor, "batch length dim"]:
        own = state.own if state else None
        x = x + self.dropout(self.attention(self.attention_norm(x), bias=bias, state=own))
        asked = self.cross_attention_norm(x)
        if state:
            read = self.cross_attention.recall(asked, state.memory)
        else:
            read = self.cross_attention(asked, memory=memory, bias=memory_bias)
        x = x + self.dropout(read)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


def _attention(config: Config) -> Attention:
    return Attention(config.dim, config.num_heads, head_dim=config.head_dim, bias=False, scale=1.0)


class T5(nn.Module):
    """Ids of a source and of the text so far in, next-token logits out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.encoder_bias = RelativeBias(config, behind=config.num_buckets // 2)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_layers))
        self.encoder_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.decoder_bias = RelativeBias(config, behind=0)
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.num_decoder_layers))
        self.final_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.head = None if config.tied else Linear(config.dim, config.vocab_size, bias=False)
        self.initialize()

    def initialize(self) -> None:
        """As Mesh TensorFlow: embeddings N(0, 1), matrices by their inputs, queries smaller by sqrt(head_dim)."""
        config = self.config
        inner = config.num_heads * config.head_dim
        spreads = {
            "token_embedding": 1.0, "buckets": config.dim**-0.5, "head": config.dim**-0.5,
            "query": (config.dim * config.head_dim) ** -0.5, "key": config.dim**-0.5, "value": config.dim**-0.5,
            "out": inner**-0.5, "up": config.dim**-0.5, "gate": config.dim**-0.5, "down": config.mlp_dim**-0.5,
        }  # fmt: skip
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=spreads[name.split(".")[-2]])

    @property
    def output_weight(self) -> Weight:
        """The matrix that turns features into logits."""
        return self.token_embedding.weight if self.head is None else self.head.weight

    def encode(
        self, source: Int[Tensor, "batch source"], *, mask: Bool[Tensor, "batch source"] | None = None
    ) -> Float[Tensor, "batch source dim"]:
        """What the decoder reads from. `mask` is False at padding."""
        self._check_length(source.shape[1])
        x = self.dropout(self.token_embedding(source))
        bias = self.source_bias(source.shape[1], mask=mask)
        for block in self.encoder:
            x = block(x, bias=bias)
        return self.dropout(self.encoder_norm(x))

    def features(
        self,
        ids: Int[Tensor, "batch length"],
        *,
        memory: Float[Tensor, "batch source dim"] | None = None,
        mask: Bool[Tensor, "batch source"] | None = None,
        state: list[DecoderState] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Everything of the decoder but the output layer; it reads from `memory`, or from what the state holds."""
        held = max(state[0].lengths) if state else 0
        self._check_length(held + ids.shape[1])
        keys = torch.arange(held + ids.shape[1], device=ids.device)
        bias = self.own_bias(state[0].next_positions(ids.shape[1]) if state else keys[None], keys)
        x = self.dropout(self.token_embedding(ids))
        memory_bias = None if mask is None else mask[:, None, None]
        for layer, block in enumerate(self.decoder):
            x = block(x, bias=bias, memory=memory, memory_bias=memory_bias, state=state[layer] if state else None)
        x = self.dropout(self.final_norm(x))
        return x * self.config.dim**-0.5 if self.config.scale_output else x

    def source_bias(self, length: int, *, mask: Bool[Tensor, "batch source"] | None) -> Bias:
        """Of the encoder: distances on both sides, and no look at padding."""
        positions = torch.arange(length, device=self.token_embedding.weight.device)
        bias = self.encoder_bias(positions[None], positions).to(self.token_embedding.weight.dtype)
        return bias if mask is None else bias.masked_fill(~mask[:, None, None], -torch.inf)

    def own_bias(self, queries: Int[Tensor, "#batch query"], keys: Int[Tensor, " key"]) -> Bias:
        """Of the decoder: distances to tokens before."""
        bias = self.decoder_bias(queries, keys).to(self.token_embedding.weight.dtype)
        return bias.masked_fill(keys > queries[:, None, :, None], -torch.inf)

    def logits(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """Scores of every token of the vocabulary to come next."""
        return project(features, self.output_weight)

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
        head_dim = config.head_dim
        weight = self.token_embedding.weight
        return new_decoder_state(len(self.decoder), batch, config.num_heads, room, head_dim, like=weight)

    def read_source(self, source: Int[Tensor, "1 source"], *, state: list[DecoderState]) -> None:
        """Encode a source once; the sequences of the state write from it."""
        let_read(state, self.decoder, self.encode(source))

    def _check_length(self, length: int) -> None:
        if length > self.config.context_length:
            raise ValueError(f"{length} tokens are more than the context length of {self.config.context_length}")


@dataclass(frozen=True, kw_only=True)
class MT5Config(Config):
    """mT5 of the smallest published size."""

    vocab_size: int = 250112
    num_layers: int = 8
    num_decoder_layers: int = 8
    num_heads: int = 6
    mlp_dim: int = 1024
    mlp: str = "gated gelu"
    tied: bool = False
    scale_output: bool = False


class MT5(T5):
    """The same model, whose folders say so in other words."""


GATED = Config(
    num_layers=8, num_decoder_layers=8, num_heads=6, mlp_dim=1024, mlp="gated gelu", tied=False, scale_output=False
)  # fmt: skip
SHAPES = {  # dim, layers of each side, heads, inner width
    "base": (768, 12, 12, 2048),
    "large": (1024, 24, 16, 2816),
    "xl": (2048, 24, 32, 5120),
    "xxl": (4096, 24, 64, 10240),
}


def _sized(config: Config, dim: int, layers: int, heads: int, mlp_dim: int) -> Config:
    return replace(config, dim=dim, num_layers=layers, num_decoder_layers=layers, num_heads=heads, mlp_dim=mlp_dim)


SIZES = {  # parameters: 60,506,624; 222,903,552; 737,668,096; 2,851,598,336; 11,307,321,344
    "t5-small": Config(),
    "t5-base": _sized(Config(), 768, 12, 12, 3072),
    "t5-large": _sized(Config(), 1024, 24, 16, 4096),
    "t5-3b": replace(_sized(Config(), 1024, 24, 32, 16384), head_dim=128),
    "t5-11b": replace(_sized(Config(), 1024, 24, 128, 65536), head_dim=128),
    "flan-t5-small": GATED,  # and of T5 1.1
    **{f"flan-t5-{name}": _sized(GATED, *shape) for name, shape in SHAPES.items()},
    "mt5-small": MT5Config(),
    **{f"mt5-{name}": _sized(MT5Config(), *shape) for name, shape in SHAPES.items()},
}


def _gated(config: Config) -> bool:
    return config.mlp.startswith("gated")


def _plain(config: Config) -> bool:
    return not _gated(config)


def _stack(stack: str, *, cross: bool) -> list[Rule]:
    """The rules of one stack; the feed-forward layer stands behind one sub-block or two."""
    theirs, ours = f"{stack}.block.*.layer", f"{stack}.*"
    rules: list[Rule] = []
    parts = [("SelfAttention", "attention"), ("EncDecAttention", "cross_attention")]
    for number, (name, own) in enumerate(parts[: 1 + cross]):
        inner = f"{theirs}.{number}.{name}"
        rules.append(Rename(f"{inner}.{{q,k,v,o}}.weight", f"{ours}.{own}.{{query,key,value,out}}.weight"))
        rules.append(Rename(f"{theirs}.{number}.layer_norm.weight", f"{ours}.{own}_norm.weight"))
    last = f"{theirs}.{1 + cross}"
    return [
        *rules,
        Rename(f"{last}.layer_norm.weight", f"{ours}.mlp_norm.weight"),
        Where(Rename(f"{last}.DenseReluDense.wi.weight", f"{ours}.mlp.up.weight"), _plain),
        Where(Rename(f"{last}.DenseReluDense.{{wi_0,wi_1}}.weight", f"{ours}.mlp.{{gate,up}}.weight"), _gated),
        Rename(f"{last}.DenseReluDense.wo.weight", f"{ours}.mlp.down.weight"),
    ]


_BIAS = "{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_T5 = Checkpoint(
    model_type="t5",
    architecture="T5ForConditionalGeneration",
    model=T5,
    config=Config,
    settings=(
        Setting("vocab_size", "vocab_size"),
        Setting("n_positions", "context_length"),
        Setting("d_model", "dim"),
        Setting("d_kv", "head_dim"),
        Setting("d_ff", "mlp_dim"),
        Setting("num_layers", "num_layers"),
        Setting("num_decoder_layers", "num_decoder_layers"),
        Setting("num_heads", "num_heads"),
        Setting("relative_attention_num_buckets", "num_buckets"),
        Setting("relative_attention_max_distance", "max_distance"),
        Setting("dropout_rate", "dropout"),
        Setting("layer_norm_epsilon", "norm_eps"),
        Setting(
            "feed_forward_proj",
            "mlp",
            values={
                "relu": "relu", "gelu": "gelu", "gated-gelu": "gated gelu", "gated-silu": "gated silu",
                "gated-relu": "gated relu",
            },
        ),
        Setting("tie_word_embeddings", "tied"),
        Setting("scale_decoder_outputs", "scale_output"),
        Setting("decoder_start_token_id", "start_id"),
        Setting("pad_token_id", "start_id"),
    ),
    require={"is_encoder_decoder": True},
    # Told by feed_forward_proj; how weights were drawn; another head; lengths that some tokenizer was used with.
    ignore=("dense_act_fn", "is_gated_act", "initializer_factor", "classifier_dropout", "output_past"),
    weights=(
        Rename("shared.weight", "token_embedding.weight"),
        Rename(_BIAS.format(stack="encoder"), "encoder_bias.buckets.weight"),
        Rename(_BIAS.format(stack="decoder"), "decoder_bias.buckets.weight"),
        *_stack("encoder", cross=False),
        *_stack("decoder", cross=True),
        Rename("encoder.final_layer_norm.weight", "encoder_norm.weight"),
        Rename("decoder.final_layer_norm.weight", "final_norm.weight"),
        Rename("lm_head.weight", "head.weight"),
        Drop("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"),  # in old files, never used
    ),
    tied={
        "lm_head.weight": "shared.weight",
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    },
    untie="tie_word_embeddings",
    # Files of transformers 4 say by their output alone that features are scaled.
    absent=lambda values: {"scale_decoder_outputs": values.get("tie_word_embeddings", True)},
)  # fmt: skip
HF = (
    _T5,
    replace(
        _T5,
        model_type="mt5",
        architecture="MT5ForConditionalGeneration",
        model=MT5,
        config=MT5Config,
        absent=lambda values: {"scale_decoder_outputs": False},
    ),
)
