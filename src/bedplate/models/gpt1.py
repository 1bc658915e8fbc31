"""GPT-1: Improving Language Understanding by Generative Pre-Training.

Radford, Narasimhan, Salimans, Sutskever, 2018; not on arXiv.

New here: a Transformer decoder alone, trained on text first and then, whole, on each task. A task changes the input
(a start, a delimiter and an extract token, learned with it) and adds one linear layer; learning goes on to predict
text beside the task. The block is the Transformer's, norms after the residual sums, with GELU and learned positions.

Paper against the released code: the code drops elements of the embedding *matrix*, once a step, before look-up and
logits alike (here and in transformers: of the looked-up vectors); its vocabulary has 40,478 tokens, not 40,000; its
linear layer has a bias, the paper's W_y (eq. 3) has none. GELU is the tanh form, which config.json calls "gelu".
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bedplate.errors import UserError, nearest
from bedplate.nn.attend import Bias
from bedplate.nn.attention import Attention
from bedplate.nn.cache import KVCache
from bedplate.nn.linear import Linear, Weight, project
from bedplate.nn.mlp import ACTIVATIONS, MLP
from bedplate.nn.norm import LayerNorm
from bedplate.nn.position import CAUSAL, restarting_positions, within_documents
from bedplate.weights.checkpoint import Checkpoint, Labels, Setting
from bedplate.weights.rules import Drop, Rename, Split, Transpose


@dataclass(frozen=True, kw_only=True)
class Config:
    """The one published model."""

    vocab_size: int = 40478
    context_length: int = 512
    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-5
    dropout: float = 0.1
    tied: bool = True  # output weight = token embedding (eq. 2)

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "dim", "num_layers", "num_heads"):
            if not 1 <= getattr(self, name) <= 2**20:
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a number from 1 to 1048576")
        if not self.norm_eps > 0:
            raise UserError(f"norm_eps is {self.norm_eps}", fix="give a number above 0")
        if self.dim % self.num_heads:
            raise UserError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}", fix="change one of them")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation {self.activation!r} is unknown", fix=nearest(self.activation, ACTIVATIONS))
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}", fix="give a share from 0 up to, but not, 1")


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Config):
    """The same with the linear layer of a task: one score for each of several answers."""

    task_dropout: float = 0.1  # on what the linear layer sees, as in the released code

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.task_dropout < 1:
            raise UserError(f"task_dropout is {self.task_dropout}", fix="give a share from 0 up to, but not, 1")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(TaskConfig):
    """The same with a score for each class."""

    num_classes: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.num_classes <= 2**20:
            raise UserError(f"num_classes is {self.num_classes}", fix="give a number from 1 to 1048576")


class Block(nn.Module):
    """Norms after the residual sums, as in the Transformer of 2017."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config.dim, config.num_heads, dropout=config.dropout)
        self.attention_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config.dim, 4 * config.dim, activation=ACTIVATIONS[config.activation])
        self.mlp_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "batch length dim"], *, bias: Bias, state: KVCache | None
    ) -> Float[Tensor, "batch length dim"]:
        x = self.attention_norm(x + self.dropout(self.attention(x, bias=bias, state=state)))  # eq. 2
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class GPT1(nn.Module):
    """Token ids in, next-token logits out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.position_embedding = nn.Embedding(config.context_length, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = None if config.tied else Linear(config.dim, config.vocab_size, bias=False)
        self.apply(_initialize)

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
        x = self.dropout(self.token_embedding(ids) + self.position_embedding(positions))  # eq. 2
        for layer, block in enumerate(self.blocks):
            x = block(x, bias=bias, state=state[layer] if state else None)
        return x

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
        room = config.context_length if capacity is None else capacity
        size = (batch, config.num_heads, room, config.dim // config.num_heads)
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


class GPT1Classifier(GPT1):
    """The language model, and the linear layer that a classification task adds."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        self.task_head = Linear(config.dim, config.num_classes, bias=False)
        self.task_dropout = nn.Dropout(config.task_dropout)
        _initialize(self.task_head)

    def classify(self, vectors: Float[Tensor, "item sequence dim"]) -> Float[Tensor, "item classes"]:
        """Scores of the classes, from the features at the extract token of each sequence of an item."""
        return self.task_head(self.task_dropout(vectors.sum(dim=1)))  # eq. 3


class GPT1Chooser(GPT1):
    """The language model, and the linear layer that a choice among answers adds."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.task_head = Linear(config.dim, 1)
        self.task_dropout = nn.Dropout1d(config.task_dropout)  # one mask for all answers, as in the released code
        _initialize(self.task_head)

    def classify(self, vectors: Float[Tensor, "item answer dim"]) -> Float[Tensor, "item answer"]:
        """Scores of the answers, from the features at the extract token of each."""
        return self.task_head(self.task_dropout(vectors.mT).mT).squeeze(2)


def _initialize(module: nn.Module) -> None:
    """Matrices N(0, 0.02), biases 0, norm gains 1 (section 4.1)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


SIZES = {"openai-gpt": Config()}  # 116,534,784 parameters

SETTINGS = (
    Setting("vocab_size", "vocab_size"),
    Setting("n_positions", "context_length"),
    Setting("n_embd", "dim"),
    Setting("n_layer", "num_layers"),
    Setting("n_head", "num_heads"),
    # Their table of activations has "gelu" for the tanh form, and no name for the other one.
    Setting("afn", "activation", values={"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}),
    Setting("layer_norm_epsilon", "norm_eps"),
    Setting("resid_pdrop", "dropout"),
    Setting("embd_pdrop", "dropout"),
    Setting("attn_pdrop", "dropout"),
    Setting("tie_word_embeddings", "tied"),
)
IGNORE = ("n_ctx", "initializer_range")
WEIGHTS = (
    Rename("transformer.tokens_embed.weight", "token_embedding.weight"),
    Rename("transformer.positions_embed.weight", "position_embedding.weight"),
    Transpose(Split("transformer.h.*.attn.c_attn.weight", "blocks.*.attention.{query,key,value}.weight")),
    Split("transformer.h.*.attn.c_attn.bias", "blocks.*.attention.{query,key,value}.bias"),
    Transpose(Rename("transformer.h.*.attn.c_proj.weight", "blocks.*.attention.out.weight")),
    Rename("transformer.h.*.attn.c_proj.bias", "blocks.*.attention.out.bias"),
    Rename("transformer.h.*.ln_1.{weight,bias}", "blocks.*.attention_norm.{weight,bias}"),
    Transpose(Rename("transformer.h.*.mlp.c_fc.weight", "blocks.*.mlp.up.weight")),
    Rename("transformer.h.*.mlp.c_fc.bias", "blocks.*.mlp.up.bias"),
    Transpose(Rename("transformer.h.*.mlp.c_proj.weight", "blocks.*.mlp.down.weight")),
    Rename("transformer.h.*.mlp.c_proj.bias", "blocks.*.mlp.down.bias"),
    Rename("transformer.h.*.ln_2.{weight,bias}", "blocks.*.mlp_norm.{weight,bias}"),
    Rename("lm_head.weight", "head.weight"),
    Drop("transformer.h.*.attn.bias"),  # the causal mask, once stored as a buffer
    Drop("transformer.position_ids"),  # 0, 1, 2 ..., too
)

TIED = {"lm_head.weight": "transformer.tokens_embed.weight"}

HF = (
    Checkpoint(
        model_type="openai-gpt",
        architecture="OpenAIGPTLMHeadModel",
        model=GPT1,
        config=Config,
        prefix="transformer.",
        settings=SETTINGS,
        ignore=(*IGNORE, "summary_*"),
        weights=WEIGHTS,
        tied=TIED,
    ),
    Checkpoint(
        model_type="openai-gpt",
        architecture="OpenAIGPTDoubleHeadsModel",
        model=GPT1Chooser,
        config=TaskConfig,
        prefix="transformer.",
        settings=(*SETTINGS, Setting("summary_first_dropout", "task_dropout")),
        require={
            "summary_type": "cls_index", "summary_use_proj": True, "summary_activation": None,
            "summary_proj_to_labels": True,
        },
        ignore=IGNORE,
        weights=(*WEIGHTS, Rename("multiple_choice_head.summary.{weight,bias}", "task_head.{weight,bias}")),
        tied=TIED,
    ),
    Checkpoint(
        model_type="openai-gpt",
        architecture="OpenAIGPTForSequenceClassification",
        model=GPT1Classifier,
        config=ClassifierConfig,
        prefix="transformer.",
        settings=(*SETTINGS, Setting("summary_first_dropout", "task_dropout"), Labels("id2label", "num_classes")),
        ignore=(*IGNORE, "summary_*"),
        weights=(*WEIGHTS, Rename("score.weight", "task_head.weight")),
        tied=TIED,
    ),
)  # fmt: skip
