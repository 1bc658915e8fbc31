"""BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding.

Devlin, Chang, Lee, Toutanova, 2019 (arXiv 1810.04805).

New here: an encoder whose tokens see both sides, learned by guessing hidden tokens and whether one sentence follows
another; segments beside positions; and one small layer on top of the same encoder for each task.

Paper against the released weights: the first of them were trained with the erf form of GELU, the released code later
computes its tanh form; `SIZES` counts what the paper rounds (110M, 340M) and holds the smaller models of 2020.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bedplate.errors import UserError, nearest
from bedplate.nn.attend import Bias
from bedplate.nn.attention import Attention
from bedplate.nn.linear import Linear, Weight, project
from bedplate.nn.mlp import ACTIVATIONS, MLP
from bedplate.nn.norm import LayerNorm
from bedplate.nn.position import restarting_positions, same_document
from bedplate.weights.checkpoint import Checkpoint, Labels, Setting
from bedplate.weights.rules import Drop, Rename, expand

Ids = Int[Tensor, "batch length"]
Hidden = Float[Tensor, "batch length dim"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The encoder of BERT-base."""

    vocab_size: int = 30522
    context_length: int = 512
    num_segments: int = 2
    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    activation: str = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "num_segments", "dim", "num_layers", "num_heads", "mlp_dim"):
            if not 1 <= getattr(self, name) <= 2**20:
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a number from 1 to 1048576")
        if not self.norm_eps > 0:
            raise UserError(f"norm_eps is {self.norm_eps}", fix="give a number above 0")
        if self.dim % self.num_heads:
            raise UserError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}", fix="change one of them")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation {self.activation!r} is unknown", fix=nearest(self.activation, ACTIVATIONS))
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a share from 0 up to, but not, 1")


@dataclass(frozen=True, kw_only=True)
class PooledConfig(Config):
    """The encoder with its pooler."""


@dataclass(frozen=True, kw_only=True)
class MaskedConfig(Config):
    """For guessing hidden tokens."""


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig(Config):
    """For both tasks of pre-training."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Config):
    """For a task with classes."""

    num_classes: int = 2
    task_dropout: float | None = None  # on what the classes are read from; none: as `dropout`

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.num_classes <= 2**20:
            raise UserError(f"num_classes is {self.num_classes}", fix="give a number from 1 to 1048576")
        if self.task_dropout is not None and not 0 <= self.task_dropout < 1:
            raise UserError(f"task_dropout is {self.task_dropout}", fix="give a share from 0 up to, but not, 1")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(TaskConfig):
    """Classes of texts and of pairs of texts."""


@dataclass(frozen=True, kw_only=True)
class TaggerConfig(TaskConfig):
    """Classes of tokens."""


@dataclass(frozen=True, kw_only=True)
class SpanConfig(TaskConfig):
    """Answers that are a span of the text: scores to begin and to end it."""

    task_dropout: float | None = 0.0


class Block(nn.Module):
    """Norms after the residual sums, as in the Transformer of 2017."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config.dim, config.num_heads, dropout=config.attention_dropout)
        self.attention_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config.dim, config.mlp_dim, activation=ACTIVATIONS[config.activation])
        self.mlp_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Hidden, *, bias: Bias) -> Hidden:
        x = self.attention_norm(x + self.dropout(self.attention(x, bias=bias)))  # section 3
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class BERT(nn.Module):
    """Token ids in, a vector for each token out: the encoder that all tasks share."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.position_embedding = nn.Embedding(config.context_length, config.dim)
        self.segment_embedding = nn.Embedding(config.num_segments, config.dim)
        self.embedding_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.apply(initialize)

    def hidden_states(
        self, ids: Ids, *, segments: Ids | None = None, mask: Bool[Tensor, "batch length"] | None = None,
        documents: Ids | None = None,
    ) -> list[Hidden]:  # fmt: skip
        """What enters the first block, and what leaves each.

        `segments`: 0 for the first text of a row, 1 for the second (none: all 0). `mask`: True where there is a token,
        False where a row is filled up. `documents`: which packed document each token belongs to; what fills up a row is
        one of its own.
        """
        positions, bias = self._positions_and_bias(ids, mask, documents)
        x = self.token_embedding(ids) + self.position_embedding(positions)  # section 3
        x = x + self.segment_embedding(torch.zeros_like(ids) if segments is None else segments)
        states = [self.dropout(self.embedding_norm(x))]
        for block in self.blocks:
            states.append(block(states[-1], bias=bias))
        return states

    def forward(
        self, ids: Ids, *, segments: Ids | None = None, mask: Bool[Tensor, "batch length"] | None = None,
        documents: Ids | None = None,
    ) -> Hidden:  # fmt: skip
        return self.hidden_states(ids, segments=segments, mask=mask, documents=documents)[-1]

    def _positions_and_bias(
        self, ids: Tensor, mask: Tensor | None, documents: Tensor | None
    ) -> tuple[Int[Tensor, "#batch length"], Bias]:
        length = ids.shape[1]
        if length > self.config.context_length:
            raise ValueError(f"{length} tokens are more than the context length of {self.config.context_length}")
        if documents is not None:
            if mask is not None:
                raise ValueError("packed rows take no mask: what fills them up is a document of its own")
            return restarting_positions(documents), same_document(documents)
        bias = None if mask is None else mask[:, None, None, :]
        return torch.arange(length, device=ids.device)[None], bias


class Pooler(nn.Module):
    """A vector for the whole text, from that of its first token, [CLS]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = Linear(dim, dim)

    def forward(self, x: Hidden) -> Float[Tensor, "batch dim"]:
        return torch.tanh(self.dense(x[:, 0]))  # section 3


class MaskedHead(nn.Module):
    """Scores of the vocabulary from a token's vector; the matrix is the token embedding, the bias its own."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = Linear(config.dim, config.dim)
        self.activation = ACTIVATIONS[config.activation]
        self.norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def features(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Everything but the output matrix."""
        return self.norm(self.activation(self.dense(x)))

    def forward(self, x: Float[Tensor, "*batch dim"], weight: Weight) -> Float[Tensor, "*batch vocab"]:
        return project(self.features(x), weight, self.bias)  # section 3.1


class Headed(nn.Module):
    """The encoder with something on top; every input of the encoder is passed on to it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.bert = BERT(config)


@dataclass(frozen=True)
class Pooled:
    """A vector for each token, and one for the whole row."""

    features: Hidden
    pooled: Float[Tensor, "batch dim"]


class PooledBERT(Headed):
    """The encoder and its pooler, as `BertModel` has them."""

    def __init__(self, config: PooledConfig) -> None:
        super().__init__(config)
        self.pooler = Pooler(config.dim).apply(initialize)

    def forward(self, ids: Ids, **inputs: Tensor | None) -> Pooled:
        features = self.bert(ids, **inputs)
        return Pooled(features, self.pooler(features))


class Guessing(Headed):
    """The encoder with the head that guesses hidden tokens."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.masked_head = MaskedHead(config).apply(initialize)

    @property
    def output_weight(self) -> Weight:
        """The matrix that turns the head's features into logits."""
        return self.bert.token_embedding.weight


class MaskedBERT(Guessing):
    """Scores of every token of the vocabulary at every place."""

    def forward(self, ids: Ids, **inputs: Tensor | None) -> Float[Tensor, "batch length vocab"]:
        return self.masked_head(self.bert(ids, **inputs), self.output_weight)


@dataclass(frozen=True)
class Guesses:
    """Of the hidden tokens, and of whether the second text follows the first (0) or is another (1)."""

    tokens: Float[Tensor, "batch length vocab"]
    next_sentence: Float[Tensor, "batch 2"]


class PretrainingBERT(Guessing):
    """Both heads of pre-training."""

    def __init__(self, config: PretrainingConfig) -> None:
        super().__init__(config)
        self.pooler = Pooler(config.dim).apply(initialize)
        self.next_sentence_head = Linear(config.dim, 2).apply(initialize)

    def next_sentence(self, features: Hidden) -> Float[Tensor, "batch 2"]:
        """Scores of 0, "follows", and 1, "another", from the features of all tokens."""
        return self.next_sentence_head(self.pooler(features))  # section 3.1

    def forward(self, ids: Ids, **inputs: Tensor | None) -> Guesses:
        features = self.bert(ids, **inputs)
        return Guesses(self.masked_head(features, self.output_weight), self.next_sentence(features))


class BERTClassifier(Headed):
    """Scores of classes for a text or a pair of texts."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.pooler = Pooler(config.dim).apply(initialize)
        self.task_dropout = nn.Dropout(config.dropout if config.task_dropout is None else config.task_dropout)
        self.task_head = Linear(config.dim, config.num_classes).apply(initialize)

    def forward(self, ids: Ids, **inputs: Tensor | None) -> Float[Tensor, "batch classes"]:
        return self.task_head(self.task_dropout(self.pooler(self.bert(ids, **inputs))))  # section 4.1


class BERTTagger(Headed):
    """Scores of classes for each token."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.task_dropout = nn.Dropout(config.dropout if config.task_dropout is None else config.task_dropout)
        self.task_head = Linear(config.dim, config.num_classes).apply(initialize)

    def forward(self, ids: Ids, **inputs: Tensor | None) -> Float[Tensor, "batch length classes"]:
        return self.task_head(self.task_dropout(self.bert(ids, **inputs)))  # section 5.3


class BERTSpans(BERTTagger):
    """Scores of each token to begin and to end the answer: [..., 0] and [..., 1] (the paper's section 4.2)."""


def initialize(module: nn.Module) -> None:
    """Matrices N(0, 0.02), cut at two deviations as in the released code; biases 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def _size(num_layers: int, dim: int) -> PooledConfig:
    return PooledConfig(num_layers=num_layers, dim=dim, num_heads=dim // 64, mlp_dim=4 * dim)


SIZES = {  # parameters, with the pooler:
    "bert-tiny": _size(2, 128),  # 4,385,920
    "bert-mini": _size(4, 256),  # 11,170,560
    "bert-small": _size(4, 512),  # 28,763,648
    "bert-medium": _size(8, 512),  # 41,373,184
    "bert-base": _size(12, 768),  # 109,482,240
    "bert-large": _size(24, 1024),  # 335,141,888
}

SETTINGS = (
    Setting("vocab_size", "vocab_size"),
    Setting("max_position_embeddings", "context_length"),
    Setting("type_vocab_size", "num_segments"),
    Setting("hidden_size", "dim"),
    Setting("num_hidden_layers", "num_layers"),
    Setting("num_attention_heads", "num_heads"),
    Setting("intermediate_size", "mlp_dim"),
    Setting(
        "hidden_act", "activation",
        values={
            "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
            "relu": "relu", "silu": "silu", "swish": "silu", "tanh": "tanh",
        },
    ),
    Setting("layer_norm_eps", "norm_eps"),
    Setting("hidden_dropout_prob", "dropout"),
    Setting("attention_probs_dropout_prob", "attention_dropout"),
)  # fmt: skip
TASK = (Labels("id2label", "num_classes"), Setting("classifier_dropout", "task_dropout"))
# pooler_* and directionality are settings of the first code that it never read.
IGNORE = ("initializer_range", "pooler_*", "directionality")
EMBEDDING = "embeddings.word_embeddings.weight"
TIED = {
    "cls.predictions.decoder.weight": f"bert.{EMBEDDING}",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
MASKED = (
    Rename("cls.predictions.transform.dense.{weight,bias}", "masked_head.dense.{weight,bias}"),
    Rename("cls.predictions.transform.LayerNorm.{weight,bias}", "masked_head.norm.{weight,bias}"),
    Rename("cls.predictions.bias", "masked_head.bias"),
)
POOLER = "pooler.dense.{weight,bias}"
TASK_HEAD = Rename("classifier.{weight,bias}", "task_head.{weight,bias}")


def _encoder(theirs: str, ours: str) -> tuple[Rename | Drop, ...]:
    """Rules of the encoder, under the names that it has in a model."""
    layer, block = f"{theirs}encoder.layer.*.", f"{ours}blocks.*."
    both = "{weight,bias}"
    return (
        Rename(f"{theirs}{EMBEDDING}", f"{ours}token_embedding.weight"),
        Rename(f"{theirs}embeddings.position_embeddings.weight", f"{ours}position_embedding.weight"),
        Rename(f"{theirs}embeddings.token_type_embeddings.weight", f"{ours}segment_embedding.weight"),
        Rename(f"{theirs}embeddings.LayerNorm.{both}", f"{ours}embedding_norm.{both}"),
        Rename(f"{layer}attention.self.query.{both}", f"{block}attention.query.{both}"),
        Rename(f"{layer}attention.self.key.{both}", f"{block}attention.key.{both}"),
        Rename(f"{layer}attention.self.value.{both}", f"{block}attention.value.{both}"),
        Rename(f"{layer}attention.output.dense.{both}", f"{block}attention.out.{both}"),
        Rename(f"{layer}attention.output.LayerNorm.{both}", f"{block}attention_norm.{both}"),
        Rename(f"{layer}intermediate.dense.{both}", f"{block}mlp.up.{both}"),
        Rename(f"{layer}output.dense.{both}", f"{block}mlp.down.{both}"),
        Rename(f"{layer}output.LayerNorm.{both}", f"{block}mlp_norm.{both}"),
        Drop(f"{theirs}embeddings.position_ids"),  # 0, 1, 2 ..., in older files
    )


def _table(
    architecture: str, model: type[nn.Module], config: type, *rules: Rename | Drop, theirs: str = "bert.",
    ours: str = "bert.", settings: tuple[Setting, ...] = (), mark: str = "",
) -> Checkpoint:  # fmt: skip
    """What all tables share, and what each adds."""
    return Checkpoint(
        model_type="bert",
        architecture=architecture,
        model=model,
        config=config,
        prefix=theirs,
        settings=(*SETTINGS, *settings),
        require={
            "is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute",
            "tie_word_embeddings": True,
        },
        ignore=(*IGNORE, *(() if settings else ("classifier_dropout",))),
        weights=(*_encoder(theirs, ours), *rules),
        tied=TIED if issubclass(model, Guessing) else {},
        aliases={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
        mark=mark,
    )  # fmt: skip


_POOLER = Rename(f"bert.{POOLER}", POOLER)
_NO_POOLER = tuple(Drop(name) for name in expand(f"bert.{POOLER}"))  # older files hold it beside heads that need none
_PRETRAINING = (*MASKED, _POOLER, Rename("cls.seq_relationship.{weight,bias}", "next_sentence_head.{weight,bias}"))
HF = (
    _table("BertForPreTraining", PretrainingBERT, PretrainingConfig, *_PRETRAINING),
    # The first published files call themselves so, and hold both heads.
    _table("BertForMaskedLM", PretrainingBERT, PretrainingConfig, *_PRETRAINING, mark="cls.seq_relationship.weight"),
    _table("BertForMaskedLM", MaskedBERT, MaskedConfig, *MASKED, *_NO_POOLER),
    _table("BertForSequenceClassification", BERTClassifier, ClassifierConfig, _POOLER, TASK_HEAD, settings=TASK),
    _table("BertForTokenClassification", BERTTagger, TaggerConfig, *_NO_POOLER, TASK_HEAD, settings=TASK),
    _table(
        "BertForQuestionAnswering", BERTSpans, SpanConfig, *_NO_POOLER,
        Rename("qa_outputs.{weight,bias}", "task_head.{weight,bias}"),
    ),
    _table("BertModel", PooledBERT, PooledConfig, Rename(POOLER, POOLER), theirs="", mark="pooler.dense.weight"),
    _table("BertModel", BERT, Config, theirs="", ours=""),  # saved without a pooler
)  # fmt: skip
