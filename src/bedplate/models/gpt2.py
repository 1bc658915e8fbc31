"""GPT-2: Language Models are Unsupervised Multitask Learners.

Radford, Wu, Child, Luan, Amodei, Sutskever, 2019; not on arXiv.

New here: the Transformer decoder of GPT-1 with the layer norms moved to the input of each sub-block, one more after
the last block, residual weights scaled down at initialization by depth, byte-level BPE, and a context of 1,024.

Paper against the released weights: the paper's sizes (117M, 345M, 762M, 1542M) undercount, see `SIZES`; the released
code has no dropout, the configurations that travel with the weights say 0.1 everywhere.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bedplate.errors import UserError, nearest
from bedplate.nn.attend import Bias
from bedplate.nn.attention import Attention
from bedplate.nn.cache import KVCache
from bedplate.nn.linear import Linear, Weight, inferring, kernels, project
from bedplate.nn.mlp import ACTIVATIONS, MLP
from bedplate.nn.norm import LayerNorm
from bedplate.nn.position import CAUSAL, Causal, restarting_positions, within_documents
from bedplate.weights.checkpoint import ACTIVATION_WORDS, Checkpoint, Setting
from bedplate.weights.rules import Drop, Rename, Split, Transpose


@dataclass(frozen=True, kw_only=True)
class Config:
    """The smallest published model."""

    vocab_size: int = 50257
    context_length: int = 1024
    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int | None = None  # 4 * dim
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-5
    dropout: float = 0.1
    scale_by_head_dim: bool = True  # scores / sqrt(head_dim)
    scale_by_layer: bool = False  # and / (layer + 1): Mistral's GPT-2 variants
    tied: bool = True  # output weight = token embedding

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "dim", "num_layers", "num_heads"):
            if not 1 <= getattr(self, name) <= 2**20:
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a number from 1 to 1048576")
        if self.mlp_dim is not None and not 1 <= self.mlp_dim <= 2**20:
            raise UserError(f"mlp_dim is {self.mlp_dim}", fix="give a number from 1 to 1048576, or none for 4 * dim")
        if not self.norm_eps > 0:
            raise UserError(f"norm_eps is {self.norm_eps}", fix="give a number above 0")
        if self.dim % self.num_heads:
            raise UserError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}", fix="change one of them")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation {self.activation!r} is unknown", fix=nearest(self.activation, ACTIVATIONS))
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}", fix="give a share from 0 up to, but not, 1")


class Block(nn.Module):
    """Norms on the input of each sub-block, so that the residual path is free from end to end."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        scale = (config.dim // config.num_heads) ** -0.5 if config.scale_by_head_dim else 1.0
        scale = scale / (layer + 1) if config.scale_by_layer else scale
        self.attention_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config.dim, config.num_heads, scale=scale, dropout=config.dropout)
        self.mlp_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config.dim, config.mlp_dim or 4 * config.dim, activation=ACTIVATIONS[config.activation])
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "batch length dim"], *, bias: Bias, state: KVCache | None
    ) -> Float[Tensor, "batch length dim"]:
        if state is not None and x.shape[1] == 1 and isinstance(bias, Causal) and inferring(x):
            kernel = kernels()
            output = kernel.one_token.one_token(self, x, state, bias.window) if kernel else None
            if output is not None:
                return output
        x = x + self.dropout(self.attention(self.attention_norm(x), bias=bias, state=state))  # section 2.3
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class GPT2(nn.Module):
    """Token ids in, next-token logits out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.position_embedding = nn.Embedding(config.context_length, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.final_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.head = None if config.tied else Linear(config.dim, config.vocab_size, bias=False)
        self.initialize()

    def initialize(self) -> None:
        """N(0, 0.02), positions N(0, 0.01), weights into the residual path / sqrt(residual layers) (section 2.3)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                into_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
                scale = (2 * self.config.num_layers) ** -0.5 if into_residual else 1.0
                nn.init.normal_(parameter, std=0.01 if "position" in name else 0.02 * scale)
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
        positions, bias = self._positions_and_bias(ids, documents, state[0] if state else None)
        x = self.dropout(self.token_embedding(ids) + self.position_embedding(positions))
        for layer, block in enumerate(self.blocks):
            x = block(x, bias=bias, state=state[layer] if state else None)
        return self.final_norm(x)

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
        config, weight = self.config, self.position_embedding.weight
        size = (
            batch,
            config.num_heads,
            config.context_length if capacity is None else capacity,
            config.dim // config.num_heads,
        )
        return [KVCache(*size, dtype=weight.dtype, device=weight.device) for _ in self.blocks]

    def _positions_and_bias(
        self, ids: Tensor, documents: Tensor | None, cache: KVCache | None
    ) -> tuple[Int[Tensor, "#batch length"], Bias]:
        held = max(cache.lengths) if cache else 0
        if held + ids.shape[1] > self.config.context_length:
            cause = f"{held + ids.shape[1]} tokens are more than the context length of {self.config.context_length}"
            raise ValueError(cause)
        if documents is not None:
            if held:
                raise ValueError("packed documents cannot go on from a cache")
            return restarting_positions(documents), within_documents(documents)
        if cache is None:
            return torch.arange(ids.shape[1], device=ids.device)[None], CAUSAL
        return cache.next_positions(ids.shape[1]), CAUSAL


SIZES = {  # parameters:
    "gpt2": Config(),  # 124,439,808
    "gpt2-medium": Config(dim=1024, num_layers=24, num_heads=16),  # 354,823,168
    "gpt2-large": Config(dim=1280, num_layers=36, num_heads=20),  # 774,030,080
    "gpt2-xl": Config(dim=1600, num_layers=48, num_heads=25),  # 1,557,611,200
}

HF = Checkpoint(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    model=GPT2,
    config=Config,
    prefix="transformer.",
    settings=(
        Setting("vocab_size", "vocab_size"),
        Setting("n_positions", "context_length"),
        Setting("n_embd", "dim"),
        Setting("n_layer", "num_layers"),
        Setting("n_head", "num_heads"),
        Setting("n_inner", "mlp_dim"),
        Setting("activation_function", "activation", values=ACTIVATION_WORDS),
        Setting("layer_norm_epsilon", "norm_eps"),
        Setting("resid_pdrop", "dropout"),
        Setting("embd_pdrop", "dropout"),
        Setting("attn_pdrop", "dropout"),
        Setting("scale_attn_weights", "scale_by_head_dim"),
        Setting("scale_attn_by_inverse_layer_idx", "scale_by_layer"),
        Setting("tie_word_embeddings", "tied"),
    ),
    require={"add_cross_attention": False},
    # n_ctx repeats n_positions; reorder_and_upcast_attn changes rounding in half precision only; summary_* is for
    # another head.
    ignore=("n_ctx", "reorder_and_upcast_attn", "initializer_range", "summary_*"),
    weights=(
        Rename("transformer.wte.weight", "token_embedding.weight"),
        Rename("transformer.wpe.weight", "position_embedding.weight"),
        Rename("transformer.h.*.ln_1.{weight,bias}", "blocks.*.attention_norm.{weight,bias}"),
        Transpose(Split("transformer.h.*.attn.c_attn.weight", "blocks.*.attention.{query,key,value}.weight")),
        Split("transformer.h.*.attn.c_attn.bias", "blocks.*.attention.{query,key,value}.bias"),
        Transpose(Rename("transformer.h.*.attn.c_proj.weight", "blocks.*.attention.out.weight")),
        Rename("transformer.h.*.attn.c_proj.bias", "blocks.*.attention.out.bias"),
        Rename("transformer.h.*.ln_2.{weight,bias}", "blocks.*.mlp_norm.{weight,bias}"),
        Transpose(Rename("transformer.h.*.mlp.c_fc.weight", "blocks.*.mlp.up.weight")),
        Rename("transformer.h.*.mlp.c_fc.bias", "blocks.*.mlp.up.bias"),
        Transpose(Rename("transformer.h.*.mlp.c_proj.weight", "blocks.*.mlp.down.weight")),
        Rename("transformer.h.*.mlp.c_proj.bias", "blocks.*.mlp.down.bias"),
        Rename("transformer.ln_f.{weight,bias}", "final_norm.{weight,bias}"),
        Rename("lm_head.weight", "head.weight"),
        Drop("transformer.h.*.attn.bias"),  # the causal mask, once stored as a buffer
        Drop("transformer.h.*.attn.masked_bias"),
    ),
    tied={"lm_head.weight": "transformer.wte.weight"},
)
