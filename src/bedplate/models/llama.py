"""Llama: Open and Efficient Foundation Language Models, and the open checkpoints that share its layout.

Touvron and 13 others, 2023, arXiv 2302.13971; Llama 2: arXiv 2307.09288; Llama 3: Grattafiori et al. 2024, arXiv
2407.21783. Mistral 7B: Jiang et al. 2023, arXiv 2310.06825. Qwen2: Yang et al. 2024, arXiv 2407.10671.

Parts of PaLM in a serial pre-norm block: gated MLP, rotary positions, no biases; with RMS norms, an output matrix of
its own, and from Llama 2 70B on groups of heads that share keys and values (Ainslie et al. 2023, arXiv 2305.13245).

Papers against weights: no paper gives the epsilon of the norms, and the first has 2,048 positions; later models stretch
theirs as `config.json` says. Rotary angles are in float32, as transformers has them, norms in the format of the input
(transformers: in float32). Beyond its context "dynamic" stretching changes all angles with every token, so that only a
whole text at once, without cache or packing, can be longer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bedplate.errors import UserError, nearest
from bedplate.nn.attend import Bias
from bedplate.nn.attention import Attention
from bedplate.nn.cache import KVCache
from bedplate.nn.linear import Linear, Weight, project
from bedplate.nn.mlp import ACTIVATIONS, GatedMLP
from bedplate.nn.norm import RMSNorm
from bedplate.nn.position import CAUSAL, Causal, restarting_positions, turns, within_documents
from bedplate.nn.rotary import Dynamic, Stretch, frequencies
from bedplate.weights.checkpoint import ACTIVATION_WORDS, Checkpoint, Setting
from bedplate.weights.rotary import StretchSetting, one_spelling
from bedplate.weights.rules import Drop, Rename

Turns = tuple[Float[Tensor, "#batch 1 length half"], Float[Tensor, "#batch 1 length half"]]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The smallest model of the first paper, 7B."""

    vocab_size: int = 32000
    context_length: int = 2048
    dim: int = 4096
    num_layers: int = 32
    num_heads: int = 32
    num_kv_heads: int | None = None  # num_heads
    head_dim: int | None = None  # dim / num_heads
    mlp_dim: int = 11008  # 8/3 of dim, rounded up to a multiple of 256
    activation: str = "silu"
    norm_eps: float = 1e-6
    rotary_base: float = 10000.0
    stretch: Stretch | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    tied: bool = False  # output weight = token embedding

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "dim", "num_layers", "num_heads", "mlp_dim"):
            if not 1 <= getattr(self, name) <= 2**20:
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a number from 1 to 1048576")
        if self.head_dim is None and self.dim % self.num_heads:
            raise UserError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}", fix="change one of them")
        if self.head_width < 2 or self.head_width % 2:
            cause = f"a head has {self.head_width} numbers, and rotary positions turn pairs"
            raise UserError(cause, fix="give an even head_dim")
        if self.kv_heads < 1 or self.num_heads % self.kv_heads:
            cause = f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            raise UserError(cause, fix="change one of them")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation {self.activation!r} is unknown", fix=nearest(self.activation, ACTIVATIONS))
        for name in ("norm_eps", "rotary_base"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a number above 0")
        if not 0 <= self.attention_dropout < 1:
            raise UserError(
                f"attention_dropout is {self.attention_dropout}", fix="give a share from 0 up to, but not, 1"
            )

    @property
    def head_width(self) -> int:
        """Numbers in a head."""
        return self.dim // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


@dataclass(frozen=True, kw_only=True)
class MistralConfig(Config):
    """Mistral's layout, with what a missing key means there."""

    context_length: int = 131072
    num_kv_heads: int | None = 8
    mlp_dim: int = 14336
    window: int | None = 4096  # keys that a token sees, itself among them; none: all before it

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None and self.window < 1:
            raise UserError(f"window is {self.window}", fix="give a number from 1 up, or none")


@dataclass(frozen=True, kw_only=True)
class Qwen2Config(Config):
    """Qwen2's layout, with what a missing key means there."""

    vocab_size: int = 151936
    context_length: int = 32768
    mlp_dim: int = 22016
    attention_bias: bool = True


class Block(nn.Module):
    """RMS norms on the input of attention and MLP, one after the other."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(
            config.dim, config.num_heads, num_kv_heads=config.kv_heads, head_dim=config.head_width,
            bias=config.attention_bias, dropout=config.attention_dropout,
        )  # fmt: skip
        self.mlp_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = GatedMLP(config.dim, config.mlp_dim, activation=ACTIVATIONS[config.activation], bias=config.mlp_bias)

    def forward(
        self, x: Float[Tensor, "batch length dim"], *, bias: Bias, rotary: Turns, state: KVCache | None
    ) -> Float[Tensor, "batch length dim"]:
        x = x + self.attention(self.attention_norm(x), bias=bias, rotary=rotary, state=state)  # section 2.2
        return x + self.mlp(self.mlp_norm(x))


class Llama(nn.Module):
    """Token ids in, next-token logits out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.head = None if config.tied else Linear(config.dim, config.vocab_size, bias=False)
        self.initialize()

    def initialize(self) -> None:
        """N(0, 0.02) as transformers has it; no paper says. Biases are 0."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @property
    def output_weight(self) -> Weight:
        """The matrix that turns features into logits."""
        return self.token_embedding.weight if self.head is None else self.head.weight

    @property
    def causal(self) -> Causal:
        """What a token sees."""
        return CAUSAL

    def features(
        self,
        ids: Int[Tensor, "batch length"],
        *,
        documents: Int[Tensor, "batch length"] | None = None,
        state: list[KVCache] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Everything but the output layer. `documents`: which packed document each token belongs to."""
        held = max(state[0].lengths) if state else 0
        whole = documents is None and state is None
        pairs = self._frequencies(held + ids.shape[1], whole=whole).to(ids.device)
        positions, bias = torch.arange(ids.shape[1], device=ids.device)[None], self.causal
        if documents is not None:
            if held:
                raise ValueError("packed documents cannot go on from a cache")
            positions, bias = restarting_positions(documents), within_documents(documents, causal=self.causal)
        elif state is not None:
            positions = state[0].next_positions(ids.shape[1])
        rotary = turns(positions, pairs, gain=self.config.stretch.gain if self.config.stretch else 1.0)
        x = self.token_embedding(ids)
        for layer, block in enumerate(self.blocks):
            x = block(x, bias=bias, rotary=rotary, state=state[layer] if state else None)
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
        config, weight = self.config, self.token_embedding.weight
        size = (batch, config.kv_heads, config.context_length if capacity is None else capacity, config.head_width)
        return [KVCache(*size, dtype=weight.dtype, device=weight.device) for _ in self.blocks]

    def _frequencies(self, length: int, *, whole: bool) -> Float[Tensor, " half"]:
        """Of the rotary positions of a text of `length` tokens; `whole`: all of it is at hand, in one piece."""
        config, stretch = self.config, self.config.stretch
        size, context = {"head_dim": config.head_width, "base": config.rotary_base}, config.context_length
        if isinstance(stretch, Dynamic) and whole and context < length <= stretch.factor * context:
            return stretch.beyond(**size, length=length, context=context)
        if length > context:
            raise ValueError(f"{length} tokens are more than the context length of {context}")
        return stretch.frequencies(**size) if stretch else frequencies(**size)


class Mistral(Llama):
    """Sees a window of the text before."""

    def __init__(self, config: MistralConfig) -> None:
        super().__init__(config)
        self.window = config.window

    @property
    def causal(self) -> Causal:
        """What a token sees."""
        return Causal(window=self.window)


class Qwen2(Llama):
    """Queries, keys and values have a bias, what attention gives has none."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        for name, layer in self.named_modules():
            if name.endswith("attention.out"):
                layer.register_parameter("bias", None)


SIZES = {  # parameters:
    "llama-7b": Config(),  # 6,738,415,616
    "llama-13b": Config(dim=5120, num_layers=40, num_heads=40, mlp_dim=13824),  # 13,015,864,320
    "llama-33b": Config(dim=6656, num_layers=60, num_heads=52, mlp_dim=17920),  # 32,528,943,616
    "llama-65b": Config(dim=8192, num_layers=80, num_heads=64, mlp_dim=22016, norm_eps=1e-5),  # 65,285,660,672
    "llama2-70b": Config(
        context_length=4096, dim=8192, num_layers=80, num_heads=64, num_kv_heads=8, mlp_dim=28672, norm_eps=1e-5
    ),  # 68,976,648,192
    "llama3-8b": Config(
        vocab_size=128256, context_length=8192, num_kv_heads=8, mlp_dim=14336, norm_eps=1e-5, rotary_base=500000.0
    ),  # 8,030,261,248
    "smollm-135m": Config(
        vocab_size=49152, dim=576, num_layers=30, num_heads=9, num_kv_heads=3, mlp_dim=1536, norm_eps=1e-5, tied=True
    ),  # 134,515,008
    "mistral-7b": MistralConfig(context_length=32768, norm_eps=1e-5),  # 7,241,732,096
    "qwen2-0.5b": Qwen2Config(
        context_length=131072, dim=896, num_layers=24, num_heads=14, num_kv_heads=2, mlp_dim=4864,
        rotary_base=1000000.0, tied=True,
    ),  # 494,032,768
}  # fmt: skip

SETTINGS = (
    Setting("vocab_size", "vocab_size"),
    Setting("max_position_embeddings", "context_length"),
    Setting("hidden_size", "dim"),
    Setting("num_hidden_layers", "num_layers"),
    Setting("num_attention_heads", "num_heads"),
    Setting("num_key_value_heads", "num_kv_heads"),
    Setting("intermediate_size", "mlp_dim"),
    Setting("hidden_act", "activation", values=ACTIVATION_WORDS),
    Setting("rms_norm_eps", "norm_eps"),
    Setting("rope_theta", "rotary_base"),
    StretchSetting("rope_scaling", "stretch"),
    Setting("attention_dropout", "attention_dropout"),
    Setting("tie_word_embeddings", "tied"),
)


HEAD_DIM = Setting("head_dim", "head_dim")
WEIGHTS = (
    Rename("model.embed_tokens.weight", "token_embedding.weight"),
    Rename("model.layers.*.input_layernorm.weight", "blocks.*.attention_norm.weight"),
    Rename("model.layers.*.self_attn.{q,k,v,o}_proj.weight", "blocks.*.attention.{query,key,value,out}.weight"),
    Rename("model.layers.*.self_attn.{q,k,v,o}_proj.bias", "blocks.*.attention.{query,key,value,out}.bias"),
    Rename("model.layers.*.post_attention_layernorm.weight", "blocks.*.mlp_norm.weight"),
    Rename("model.layers.*.mlp.{gate,up,down}_proj.weight", "blocks.*.mlp.{gate,up,down}.weight"),
    Rename("model.layers.*.mlp.{gate,up,down}_proj.bias", "blocks.*.mlp.{gate,up,down}.bias"),
    Rename("model.norm.weight", "final_norm.weight"),
    Rename("lm_head.weight", "head.weight"),
    Drop("model.layers.*.self_attn.rotary_emb.inv_freq"),  # once stored as a buffer
)


def _without_windows(values: Mapping[str, Any]) -> dict[str, Any]:
    """Qwen2's content of config.json, in which windows are switched off."""
    if set(values.get("layer_types") or ()) - {"full_attention"}:
        raise UserError("config.json: layer_types other than 'full_attention' are not supported", fix="use no window")
    return one_spelling(values)


def _table(model_type: str, model: type[Llama], config: type[Config], **more: Any) -> Checkpoint:
    """Layouts differ in little."""
    common: dict[str, Any] = {
        "architecture": f"{model.__name__}ForCausalLM", "prefix": "model.", "settings": SETTINGS,
        "spelling": one_spelling, "tied": {"lm_head.weight": "model.embed_tokens.weight"},
    }  # fmt: skip
    return Checkpoint(model_type=model_type, model=model, config=config, weights=WEIGHTS, **common | more)


HF = (
    _table(
        "llama", Llama, Config,
        settings=(
            *SETTINGS, HEAD_DIM, Setting("attention_bias", "attention_bias"), Setting("mlp_bias", "mlp_bias"),
        ),
        # pretraining_tp splits products in pieces, max_sequence_length repeats the context.
        ignore=("initializer_range", "pretraining_tp", "max_sequence_length"),
    ),
    _table(
        "mistral", Mistral, MistralConfig,
        settings=(*SETTINGS, HEAD_DIM, Setting("sliding_window", "window")), ignore=("initializer_range",),
    ),
    _table(
        "qwen2", Qwen2, Qwen2Config,
        spelling=_without_windows, require={"use_sliding_window": False}, accept={"use_mrope": False},
        ignore=("initializer_range", "sliding_window", "max_window_layers", "layer_types"),
    ),
)  # fmt: skip
