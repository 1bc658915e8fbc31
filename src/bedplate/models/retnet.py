"""RetNet: Retentive Network: A Successor to Transformer for Large Language Models.

Sun, Dong, Huang, Ma, Xia, Xue, Wang, Wei, 2023; arXiv 2307.08621.

New here: retention in place of attention: no softmax, scores that fade with the distance at a rate of each head's own,
and so a form that reads a text token by token with a state that does not grow. Values are twice as wide as keys, each
head is normalized by itself, and a gate decides what of it counts.

Paper against the released code (torchscale, since October 2023): norms are RMS norms instead of layer norms; the MLP is
gated and narrower; gamma is 1 - 2^(-5 - head) as in the text, not as in the paper's own experiments. No weights were
released.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from bedplate.errors import UserError, nearest
from bedplate.nn.linear import Linear, Weight, project, together
from bedplate.nn.mlp import MLP, GatedMLP, each_alone
from bedplate.nn.norm import RMSNorm
from bedplate.nn.position import restarting_positions
from bedplate.nn.retention import Decay, power_decays, retain, spread_decays
from bedplate.nn.retention_state import RetentionState
from bedplate.weights.checkpoint import Checkpoint, Setting
from bedplate.weights.rules import Computed, Rename, Where

MLPS: dict[str, Any] = {
    "gelu": partial(MLP, activation=F.gelu),  # the paper's
    "gated silu": partial(GatedMLP, activation=F.silu),  # the released ones
    "gated gelu": partial(GatedMLP, activation=F.gelu),
    "gated relu": partial(GatedMLP, activation=F.relu),
}
DECAYS = {"powers": power_decays, "spread": spread_decays}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The paper's smallest model."""

    vocab_size: int = 50257  # the paper does not say
    context_length: int = 2048  # of training and of requests; retention itself has no limit
    dim: int = 2048
    num_layers: int = 24
    num_heads: int = 8
    value_dim: int = 4096  # of all heads together
    mlp_dim: int = 4096
    mlp: str = "gelu"
    decay: str = "powers"  # gamma of the heads: 1 - 2^(-5 - head), or "spread" as in the paper's experiments
    norm_eps: float = 1e-6
    dropout: float = 0.0
    scale_embedding: bool = False  # by sqrt(dim)
    tied: bool = True  # output weight = token embedding

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "dim", "num_layers", "num_heads", "value_dim", "mlp_dim"):
            if not 1 <= getattr(self, name) <= 2**20:
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a number from 1 to 1048576")
        if self.dim % (2 * self.num_heads) or self.value_dim % self.num_heads:
            cause = f"dim {self.dim} and value_dim {self.value_dim} do not fit num_heads {self.num_heads}"
            raise UserError(cause, fix="each head takes an even part of dim, and an equal part of value_dim")
        for name, known in (("mlp", MLPS), ("decay", DECAYS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} {getattr(self, name)!r} is unknown", fix=nearest(getattr(self, name), known))
        if not self.norm_eps > 0:
            raise UserError(f"norm_eps is {self.norm_eps}", fix="give a number above 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}", fix="give a share from 0 up to, but not, 1")

    @property
    def gammas(self) -> tuple[float, ...]:
        """What each head keeps from one token to the next."""
        return DECAYS[self.decay](self.num_heads)


class Places(NamedTuple):
    """Where the tokens of a pass stand, for all layers alike."""

    cosine: Float[Tensor, "batch 1 length half"]
    sine: Float[Tensor, "batch 1 length half"]
    scale: Float[Tensor, "batch heads length 1"]  # of queries
    decay: Decay


def frequencies(head_dim: int, *, device: torch.device | None = None) -> Float[Tensor, " half"]:
    """From 1 to 1/10000, both of them included, in float64."""
    return 10000.0 ** -torch.linspace(0, 1, head_dim // 2, dtype=torch.float64, device=device)


def rotate_pairs(
    x: Float[Tensor, "batch heads length key_dim"],
    cosine: Float[Tensor, "#batch 1 length half"],
    sine: Float[Tensor, "#batch 1 length half"],
) -> Float[Tensor, "batch heads length key_dim"]:
    """Turn each pair (x[2i], x[2i + 1]) by its angle."""
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=-1).flatten(-2)


class MultiScaleRetention(nn.Module):
    """Heads that forget at rates of their own, each normalized by itself, behind a gate."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_heads, self.norm_eps = config.num_heads, config.norm_eps
        self.form = retain  # of a whole text, where no state is carried
        self.query = Linear(config.dim, config.dim, bias=False)
        self.key = Linear(config.dim, config.dim, bias=False)
        self.value = Linear(config.dim, config.value_dim, bias=False)
        self.gate = Linear(config.dim, config.value_dim, bias=False)
        self.out = Linear(config.value_dim, config.dim, bias=False)

    def forward(
        self, x: Float[Tensor, "batch length dim"], *, places: Places, state: RetentionState | None
    ) -> Float[Tensor, "batch length dim"]:
        *parts, gate = together(x, self.query, self.key, self.value, self.gate)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        cosine, sine, scale = (part.to(x.dtype) for part in places[:3])
        query = rotate_pairs(query, cosine, sine) * scale  # section 2.1
        key = rotate_pairs(key, cosine, sine)
        form = self.form if state is None else state.retain
        mixed = form(query, key, value, decay=places.decay).transpose(1, 2)
        normed = F.rms_norm(mixed, mixed.shape[-1:], eps=self.norm_eps).flatten(2)  # section 2.2
        return self.out(each_alone(F.silu, gate) * normed)


class Block(nn.Module):
    """Norms on the input of each sub-block."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.retention_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.retention = MultiScaleRetention(config)
        self.mlp_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLPS[config.mlp](config.dim, config.mlp_dim, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "batch length dim"], *, places: Places, state: RetentionState | None
    ) -> Float[Tensor, "batch length dim"]:
        x = x + self.dropout(self.retention(self.retention_norm(x), places=places, state=state))  # section 2.3
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class RetNet(nn.Module):
    """Token ids in, next-token logits out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.head = None if config.tied else Linear(config.dim, config.vocab_size, bias=False)
        self.initialize()

    def initialize(self) -> None:
        """As the released code: Xavier's uniform with small gains in retention, N(0, 1 / dim) for embedding and output;
        the linear layers of MLPs stay as torch makes them.
        """
        for name, parameter in self.named_parameters():
            if ".retention." in name:
                gain = 2**-1 if name.endswith("out.weight") else 2**-2.5
                nn.init.xavier_uniform_(parameter, gain=gain)
            elif name in ("token_embedding.weight", "head.weight"):
                nn.init.normal_(parameter, std=self.config.dim**-0.5)

    @property
    def output_weight(self) -> Weight:
        """The matrix that turns features into logits."""
        return self.token_embedding.weight if self.head is None else self.head.weight

    def features(
        self,
        ids: Int[Tensor, "batch length"],
        *,
        documents: Int[Tensor, "batch length"] | None = None,
        state: list[RetentionState] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Everything but the output layer. `documents`: which packed document each token belongs to."""
        places = self._places(ids, documents, state[0] if state else None)
        x = self.token_embedding(ids) * (self.config.dim**0.5 if self.config.scale_embedding else 1.0)
        x = self.dropout(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, places=places, state=state[layer] if state else None)
        return self.final_norm(x)

    def logits(self, features: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocab"]:
        """Scores of every token of the vocabulary to come next."""
        return project(features, self.output_weight)

    def forward(
        self,
        ids: Int[Tensor, "batch length"],
        *,
        documents: Int[Tensor, "batch length"] | None = None,
        state: list[RetentionState] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        return self.logits(self.features(ids, documents=documents, state=state))

    def new_state(self, batch: int, *, capacity: int | None = None) -> list[RetentionState]:
        """What each layer holds before the first token; whatever the `capacity`, it is as large after the last one."""
        config, weight = self.config, self.token_embedding.weight
        size = batch, config.num_heads, config.dim // config.num_heads, config.value_dim // config.num_heads
        return [RetentionState(*size, dtype=weight.dtype, device=weight.device) for _ in self.blocks]

    def _places(self, ids: Tensor, documents: Tensor | None, state: RetentionState | None) -> Places:
        if documents is not None and state is not None and any(state.lengths):
            raise ValueError("packed documents cannot go on from a state")
        ages = None if documents is None else restarting_positions(documents)
        if ages is not None:
            positions = ages
        elif state is not None:
            positions = state.next_positions(ids.shape[1])
        else:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        key_dim = self.config.dim // self.config.num_heads
        decay = Decay.of(self.config.gammas, ages=ages, device=ids.device)
        angles = positions[:, None, :, None] * frequencies(key_dim, device=ids.device)
        # Any factor of a row leaves the norm behind it the same, but for its epsilon: this one keeps numbers small.
        scale = (key_dim * decay.totals(positions)[..., None]).rsqrt()  # section 2.1
        return Places(angles.cos(), angles.sin(), scale, decay)


def _paper(dim: int, num_layers: int) -> Config:
    """Heads of 256, values and MLP twice as wide as the model, decays of the experiments."""
    return Config(
        dim=dim, num_layers=num_layers, num_heads=dim // 256, value_dim=2 * dim, mlp_dim=2 * dim,
        decay="spread",
    )  # fmt: skip


def _released(dim: int, num_layers: int, width: int) -> Config:
    """Heads of 256; one width for values and MLP, some 5/3 of the model's."""
    return Config(
        dim=dim, num_layers=num_layers, num_heads=dim // 256, value_dim=width, mlp_dim=width, mlp="gated silu"
    )


SIZES = {  # with the vocabulary of GPT-2, since none was published; the first three are the paper's
    "retnet-1.3b": _paper(2048, 24),
    "retnet-2.7b": _paper(2560, 32),
    "retnet-6.7b": _paper(4096, 32),
    "retnet-base": _released(512, 6, 864),
    "retnet-medium": _released(1024, 16, 1728),
    "retnet-xl": _released(2048, 24, 3456),
    "retnet-3b": _released(2560, 32, 4280),
    "retnet-7b": _released(4096, 32, 6912),
    "retnet-13b": _released(5120, 40, 8560),
    "retnet-65b": _released(8192, 64, 13824),
}


class _Opposite(Setting):
    """A switch that says the opposite of ours."""

    def load(self, value: Any) -> Any:
        """Anything but true and false is left for the check of types."""
        return not value if isinstance(value, bool) else value

    def save(self, value: Any) -> Any:
        """The opposite."""
        return not value


def _angles(config: Config) -> Tensor:
    return frequencies(config.dim // config.num_heads).repeat_interleave(2).float()


def _logs(config: Config) -> Tensor:
    return Decay.of(config.gammas, device=torch.device("cpu")).logs.float()


HF = Checkpoint(  # torchscale's names; config.json holds the arguments of its RetNetConfig
    model_type="retnet",
    architecture="RetNetDecoder",
    model=RetNet,
    config=Config,
    settings=(
        Setting("vocab_size", "vocab_size"),
        Setting("max_target_positions", "context_length"),
        Setting("decoder_embed_dim", "dim"),
        Setting("decoder_layers", "num_layers"),
        Setting("decoder_retention_heads", "num_heads"),
        Setting("decoder_value_embed_dim", "value_dim"),
        Setting("decoder_ffn_embed_dim", "mlp_dim"),
        Setting(
            "activation_fn", "mlp",
            values={"swish": "gated silu", "gelu": "gated gelu", "relu": "gated relu", "plain gelu": "gelu"},
        ),
        Setting("retention_decay", "decay"),  # ours: torchscale knows "powers" alone
        Setting("layernorm_eps", "norm_eps"),
        Setting("dropout", "dropout"),
        _Opposite("no_scale_embedding", "scale_embedding"),
        Setting("share_decoder_input_output_embed", "tied"),
    ),
    require={"decoder_normalize_before": True, "deepnorm": False, "layernorm_embedding": False, "moe_freq": 0},
    accept={"activation_dropout": 0.0, "drop_path_rate": 0.0, "multiway": False, "no_output_layer": False,
            "xpos_rel_pos": False, "rel_pos_buckets": 0, "max_rel_pos": 0},
    absent=lambda values: {
        "vocab_size": -1, "max_target_positions": 1024, "decoder_embed_dim": 768, "decoder_layers": 12,
        "decoder_retention_heads": 3, "decoder_value_embed_dim": 1280, "decoder_ffn_embed_dim": 1280,
        "activation_fn": "gelu", "share_decoder_input_output_embed": False,
    },
    # How it computes, not what; `subln` is without effect in a RetNet; moe_* without experts, xpos_* without xPos.
    ignore=("chunkwise_recurrent", "recurrent_chunk_size", "checkpoint_activations", "fsdp", "ddp_rank", "subln",
            "moe_*", "use_xmoe", "xpos_scale_base", "encoder_normalize_before"),
    weights=(
        Rename("embed_tokens.weight", "token_embedding.weight"),
        Rename("layers.*.retention_layer_norm.weight", "blocks.*.retention_norm.weight"),
        Rename("layers.*.retention.{q_proj,k_proj,v_proj,g_proj,out_proj}.weight",
               "blocks.*.retention.{query,key,value,gate,out}.weight"),
        Rename("layers.*.final_layer_norm.weight", "blocks.*.mlp_norm.weight"),
        Where(Rename("layers.*.ffn.{fc1,gate,fc2}.weight", "blocks.*.mlp.{gate,up,down}.weight"),
              lambda config: config.mlp != "gelu"),
        Where(Rename("layers.*.ffn.{fc1,fc2}.weight", "blocks.*.mlp.{up,down}.weight"),
              lambda config: config.mlp == "gelu"),
        Rename("layer_norm.weight", "final_norm.weight"),
        Rename("output_projection.weight", "head.weight"),
        Computed("retnet_rel_pos.angle", _angles),
        Computed("retnet_rel_pos.decay", _logs),
    ),
    tied={"output_projection.weight": "embed_tokens.weight"},
)  # fmt: skip
