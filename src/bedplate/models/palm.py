"""PaLM: Scaling Language Modeling with Pathways.

Chowdhery, Narang, Devlin and 64 others, 2022, arXiv 2204.02311.

New here, against GPT-3: attention and MLP read the same normalized input and are added up in parallel; all queries
share one head of keys and values (multi-query attention, Shazeer 2019, arXiv 1911.02150); a gated MLP (SwiGLU); rotary
positions; no biases; one matrix embeds tokens and scores them, with logits scaled down.

Paper against weights: none were released, and transformers has no such class: folders have a layout of our own. The
paper gives neither the base of the rotary positions nor the epsilon of the norms; 10,000 and 1e-6 are those of the
rotary paper and of T5X, its code. Norms have a gain, but no bias, as "no biases" says.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bedplate.errors import UserError
from bedplate.nn.attend import Bias
from bedplate.nn.attention import Attention
from bedplate.nn.cache import KVCache
from bedplate.nn.linear import Weight, project
from bedplate.nn.mlp import ACTIVATIONS, GatedMLP
from bedplate.nn.norm import LayerNorm
from bedplate.nn.position import CAUSAL, restarting_positions, turns, within_documents
from bedplate.nn.rotary import frequencies
from bedplate.weights.checkpoint import Checkpoint, Setting
from bedplate.weights.rules import Rename

Turns = tuple[Float[Tensor, "#batch 1 length half"], Float[Tensor, "#batch 1 length half"]]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The smallest published model, 8B."""

    vocab_size: int = 256000
    context_length: int = 2048
    dim: int = 4096
    num_layers: int = 32
    num_heads: int = 16
    num_kv_heads: int = 1  # multi-query; the paper compares with as many as there are heads
    head_dim: int = 256
    mlp_dim: int | None = None  # 4 * dim
    norm_eps: float = 1e-6
    rotary_base: float = 10000.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "dim", "num_layers", "num_heads", "num_kv_heads", "head_dim"):
            if not 1 <= getattr(self, name) <= 2**20:
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a number from 1 to 1048576")
        if self.mlp_dim is not None and not 1 <= self.mlp_dim <= 2**20:
            raise UserError(f"mlp_dim is {self.mlp_dim}", fix="give a number from 1 to 1048576, or none for 4 * dim")
        if self.num_heads % self.num_kv_heads:
            cause = f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            raise UserError(cause, fix="change one of them")
        if self.head_dim % 2:
            raise UserError(f"head_dim is {self.head_dim}", fix="give an even number: rotary positions turn pairs")
        for name in ("norm_eps", "rotary_base"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a number above 0")

    @property
    def tied(self) -> bool:
        """One matrix embeds tokens and scores them."""
        return True


class Block(nn.Module):
    """Attention and MLP side by side, on one norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        heads = {"num_kv_heads": config.num_kv_heads, "head_dim": config.head_dim}
        self.norm = LayerNorm(config.dim, eps=config.norm_eps, bias=False)
        self.attention = Attention(config.dim, config.num_heads, bias=False, **heads)
        self.mlp = GatedMLP(config.dim, config.mlp_dim or 4 * config.dim, activation=ACTIVATIONS["silu"], bias=False)

    def forward(
        self, x: Float[Tensor, "batch length dim"], *, bias: Bias, rotary: Turns, state: KVCache | None
    ) -> Float[Tensor, "batch length dim"]:
        normed = self.norm(x)
        return x + self.attention(normed, bias=bias, rotary=rotary, state=state) + self.mlp(normed)  # section 2


class PaLM(nn.Module):
    """Token ids in, next-token logits out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = LayerNorm(config.dim, eps=config.norm_eps, bias=False)
        self.initialize()

    def initialize(self) -> None:
        """Embeddings N(0, 1), as no norm follows them; other matrices N(0, 1 / sqrt(inputs)) (section 5)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=1.0 if "embedding" in name else parameter.shape[1] ** -0.5)

    @property
    def output_weight(self) -> Weight:
        """The matrix that turns features into logits."""
        return self.token_embedding.weight

    def features(
        self,
        ids: Int[Tensor, "batch length"],
        *,
        documents: Int[Tensor, "batch length"] | None = None,
        state: list[KVCache] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Everything but the output layer. `documents`: which packed document each token belongs to."""
        positions, bias = self._positions_and_bias(ids, documents, state[0] if state else None)
        pairs = frequencies(self.config.head_dim, base=self.config.rotary_base).to(ids.device)
        rotary = turns(positions, pairs)
        x = self.token_embedding(ids)
        for layer, block in enumerate(self.blocks):
            x = block(x, bias=bias, rotary=rotary, state=state[layer] if state else None)
        return self.final_norm(x) * self.config.dim**-0.5  # section 5: of the logits, as embeddings have variance 1

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
        size = (batch, config.num_kv_heads, config.context_length if capacity is None else capacity, config.head_dim)
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


SIZES = {  # parameters (table 1 says 8.63, 62.50 and 540.35 billion):
    "palm-8b": Config(),  # 8,632,012,800
    "palm-62b": Config(dim=8192, num_layers=64, num_heads=32),  # 62,495,662,080
    "palm-540b": Config(dim=18432, num_layers=118, num_heads=48),  # 540,356,474,880
}

HF = Checkpoint(
    model_type="palm",
    architecture="PaLMForCausalLM",
    model=PaLM,
    config=Config,
    prefix="model.",
    settings=(
        Setting("vocab_size", "vocab_size"),
        Setting("max_position_embeddings", "context_length"),
        Setting("hidden_size", "dim"),
        Setting("num_hidden_layers", "num_layers"),
        Setting("num_attention_heads", "num_heads"),
        Setting("num_key_value_heads", "num_kv_heads"),
        Setting("head_dim", "head_dim"),
        Setting("intermediate_size", "mlp_dim"),
        Setting("layer_norm_eps", "norm_eps"),
        Setting("rope_theta", "rotary_base"),
    ),
    require={"hidden_act": "silu", "tie_word_embeddings": True},
    weights=(
        Rename("model.embed_tokens.weight", "token_embedding.weight"),
        Rename("model.layers.*.norm.weight", "blocks.*.norm.weight"),
        Rename("model.layers.*.self_attn.{q,k,v,o}_proj.weight", "blocks.*.attention.{query,key,value,out}.weight"),
        Rename("model.layers.*.mlp.{gate,up,down}_proj.weight", "blocks.*.mlp.{gate,up,down}.weight"),
        Rename("model.norm.weight", "final_norm.weight"),
    ),
)
