"""BLOOM: A 176B-Parameter Open-Access Multilingual Language Model.

BigScience Workshop, 2022, arXiv 2211.05100; its positions: Press, Smith, Lewis, "Train Short, Test Long", ICLR 2022,
arXiv 2108.12409.

New here, against GPT-2: no position embeddings, but scores that fall linearly with distance (ALiBi), so that texts may
be longer than those of training; a layer norm right behind the token embedding, for stability; 250,680 tokens for 46
natural and 13 programming languages.

Paper against the released weights: trained with Megatron's dropout of 0.1, released with 0.0; 200 rows of the embedding
belong to no token; every size was initialized with the standard deviation 0.0048 of the largest, which the formula in
`initialize` gives for its width alone.
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from bedplate.errors import UserError
from bedplate.nn.attend import Bias
from bedplate.nn.attention import Attention
from bedplate.nn.cache import KVCache
from bedplate.nn.linear import Linear, Weight, project
from bedplate.nn.mlp import MLP, gelu_tanh
from bedplate.nn.norm import LayerNorm
from bedplate.nn.position import Alibi, alibi_slopes, within_documents
from bedplate.weights.checkpoint import Checkpoint, Setting
from bedplate.weights.rules import Rename, SplitPerHead


@dataclass(frozen=True, kw_only=True)
class Config:
    """The published model of 176 billion parameters."""

    vocab_size: int = 250880
    context_length: int = 2048  # tokens it is trained on at a time; it can read more
    dim: int = 14336
    num_layers: int = 70
    num_heads: int = 112
    norm_eps: float = 1e-5
    dropout: float = 0.0
    residual_after_norm: bool = False  # the residual path goes on from the norms' outputs; no published size does
    tied: bool = True  # output weight = token embedding
    learned_positions: ClassVar[bool] = False  # for plans: no table grows with the context

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "dim", "num_layers", "num_heads"):
            if not 1 <= getattr(self, name) <= 2**20:
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a number from 1 to 1048576")
        if self.dim % self.num_heads:
            raise UserError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}", fix="change one of them")
        if not self.norm_eps > 0:
            raise UserError(f"norm_eps is {self.norm_eps}", fix="give a number above 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}", fix="give a share from 0 up to, but not, 1")


class Block(nn.Module):
    """GPT-2's wiring; with `residual_after_norm` what is added to is the norm's output instead of its input."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.residual_after_norm = config.residual_after_norm
        self.attention_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config.dim, config.num_heads, dropout=config.dropout)
        self.mlp_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config.dim, 4 * config.dim, activation=gelu_tanh)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "batch length dim"], *, bias: Bias, state: KVCache | None
    ) -> Float[Tensor, "batch length dim"]:
        normed = self.attention_norm(x)
        residual = normed if self.residual_after_norm else x
        x = residual + self.dropout(self.attention(normed, bias=bias, state=state))
        normed = self.mlp_norm(x)
        residual = normed if self.residual_after_norm else x
        return residual + self.dropout(self.mlp(normed))


class BLOOM(nn.Module):
    """Token ids in, next-token logits out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.embedding_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.head = None if config.tied else Linear(config.dim, config.vocab_size, bias=False)
        self.initialize()

    def initialize(self) -> None:
        """N(0, 1 / sqrt(3 dim)), weights into the residual path / sqrt(residual layers), as the launch scripts."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                into_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
                scale = (2 * self.config.num_layers) ** -0.5 if into_residual else 1.0
                nn.init.normal_(parameter, std=scale * (3 * self.config.dim) ** -0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @property
    def output_weight(self) -> Weight:
        """The matrix that turns features into logits."""
        return self.token_embedding.weight if self.head is None else self.head.weight

    def features(
        self,
        ids: Int[Tensor, "batch length"],
        *,
        documents: Int[Tensor, "batch length"] | None = None,
        state: list[KVCache] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Everything but the output layer. `documents`: which packed document each token belongs to."""
        if documents is not None and state and max(state[0].lengths):
            raise ValueError("packed documents cannot go on from a cache")
        bias = self.bias(documents)
        x = self.embedding_norm(self.token_embedding(ids))  # section 3.2.3
        for layer, block in enumerate(self.blocks):
            x = block(x, bias=bias, state=state[layer] if state else None)
        return self.final_norm(x)

    def bias(self, documents: Int[Tensor, "batch length"] | None) -> Bias:
        """What positions add to scores: each head's slope times the distance, which no document's place changes."""
        seen = None if documents is None else within_documents(documents)
        return Alibi(alibi_slopes(self.config.num_heads), seen)  # section 3.2.3

    def logits(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """Scores of every token of the vocabulary to come next."""
        return project(features, self.output_weight)

    def forward(
        self,
        ids: Int[Tensor, "batch length"],
        *,
        documents: Int[Tensor, "batch length"] | None = None,
        state: list[KVCache] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        return self.logits(self.features(ids, documents=documents, state=state))

    def new_state(self, batch: int, *, capacity: int | None = None) -> list[KVCache]:
        """An empty cache per layer, for up to `capacity` tokens a sequence (default: the context length)."""
        config, weight = self.config, self.token_embedding.weight
        room = config.context_length if capacity is None else capacity
        size = (batch, config.num_heads, room, config.dim // config.num_heads)
        return [KVCache(*size, dtype=weight.dtype, device=weight.device) for _ in self.blocks]


SIZES = {  # parameters:
    "bloom-560m": Config(dim=1024, num_layers=24, num_heads=16),  # 559,214,592
    "bloom-1b1": Config(dim=1536, num_layers=24, num_heads=16),  # 1,065,314,304
    "bloom-1b7": Config(dim=2048, num_layers=24, num_heads=16),  # 1,722,408,960
    "bloom-3b": Config(dim=2560, num_layers=30, num_heads=32),  # 3,002,557,440
    "bloom-7b1": Config(dim=4096, num_layers=30, num_heads=32),  # 7,069,016,064
    "bloom": Config(),  # 176,247,271,424
}

HF = Checkpoint(
    model_type="bloom",
    architecture="BloomForCausalLM",
    model=BLOOM,
    config=Config,
    prefix="transformer.",
    settings=(
        Setting("vocab_size", "vocab_size"),
        Setting("seq_length", "context_length"),
        Setting("hidden_size", "dim"),
        Setting("n_embed", "dim", written=False),
        Setting("n_layer", "num_layers"),
        Setting("num_hidden_layers", "num_layers", written=False),
        Setting("n_head", "num_heads"),
        Setting("num_attention_heads", "num_heads", written=False),
        Setting("layer_norm_epsilon", "norm_eps"),
        Setting("hidden_dropout", "dropout"),
        Setting("attention_dropout", "dropout"),
        Setting("apply_residual_connection_post_layernorm", "residual_after_norm"),
        Setting("tie_word_embeddings", "tied"),
    ),
    # With it transformers leaves out biases, where pretraining_tp is above 1.
    accept={"slow_but_exact": False, "n_inner": None},
    # Of Megatron: how kernels are fused and ranks add up; softmax is computed as precisely as the kernel does anyway.
    ignore=(
        "initializer_range", "pretraining_tp", "pretraining_pp", "offset_alibi", "unk_token_id", "skip_bias_add",
        "skip_bias_add_qkv", "bias_dropout_fusion", "masked_softmax_fusion", "attention_softmax_in_fp32",
    ),
    weights=(
        Rename("transformer.word_embeddings.weight", "token_embedding.weight"),
        Rename("transformer.word_embeddings_layernorm.{weight,bias}", "embedding_norm.{weight,bias}"),
        Rename("transformer.h.*.input_layernorm.{weight,bias}", "blocks.*.attention_norm.{weight,bias}"),
        SplitPerHead(
            "transformer.h.*.self_attention.query_key_value.weight",
            "blocks.*.attention.{query,key,value}.weight",
            heads="num_heads",
        ),
        SplitPerHead(
            "transformer.h.*.self_attention.query_key_value.bias",
            "blocks.*.attention.{query,key,value}.bias",
            heads="num_heads",
        ),
        Rename("transformer.h.*.self_attention.dense.{weight,bias}", "blocks.*.attention.out.{weight,bias}"),
        Rename("transformer.h.*.post_attention_layernorm.{weight,bias}", "blocks.*.mlp_norm.{weight,bias}"),
        Rename("transformer.h.*.mlp.dense_h_to_4h.{weight,bias}", "blocks.*.mlp.up.{weight,bias}"),
        Rename("transformer.h.*.mlp.dense_4h_to_h.{weight,bias}", "blocks.*.mlp.down.{weight,bias}"),
        Rename("transformer.ln_f.{weight,bias}", "final_norm.{weight,bias}"),
        Rename("lm_head.weight", "head.weight"),
    ),
    tied={"lm_head.weight": "transformer.word_embeddings.weight"},
)  # fmt: skip
