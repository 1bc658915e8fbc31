"""GPT-3: Language Models are Few-Shot Learners.

Brown, Mann, Ryder, Subbiah and 27 others, 2020, arXiv 2005.14165. Banded attention: Child et al. 2019, "Generating Long
Sequences with Sparse Transformers", arXiv 1904.10509.

New here, against GPT-2: every other layer sees only a band of the last tokens, a context of 2,048, and 117 times the
parameters; what is new beyond that is how the model is used, with examples in its prompt and no training.

Paper against weights: OpenAI released none, and the paper says neither how wide the band is nor which layers have it;
256 tokens and "dense first" are those of GPT-Neo, EleutherAI's open replication of 2021, whose weights this file reads.
It differs in two things: queries, keys and values have no bias, and scores are not divided by sqrt(head_dim). A model
with the biases and the division has a layout of our own, in GPT-Neo's names. In table 2.1 two sizes contradict
themselves, see `SIZES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from bedplate.errors import UserError, nearest
from bedplate.models import gpt2
from bedplate.nn.cache import KVCache
from bedplate.nn.position import Causal, within_documents
from bedplate.weights.checkpoint import ACTIVATION_WORDS, Checkpoint, Setting
from bedplate.weights.rules import Drop, Rename

KINDS = {"dense": "global", "banded": "local"}  # of layers, and GPT-Neo's words


@dataclass(frozen=True, kw_only=True)
class Config(gpt2.Config):
    """The smallest published model."""

    context_length: int = 2048
    dropout: float = 0.0  # the paper names none
    window: int = 256  # tokens that a banded layer sees, the newest among them
    pattern: str = "dense,banded"  # kinds of the layers, said over and over

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.window <= 2**20:
            raise UserError(f"window is {self.window}", fix="give a number from 1 to 1048576")
        if unknown := [kind for kind in self.pattern.split(",") if kind not in KINDS]:
            raise UserError(f"pattern holds {unknown[0]!r}", fix=nearest(unknown[0], KINDS))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each layer."""
        return tuple(_repeated(self.pattern.split(","), self.num_layers))


@dataclass(frozen=True, kw_only=True)
class NeoConfig(Config):
    """GPT-Neo's layout, with what a missing key means there."""

    dim: int = 2048
    num_layers: int = 24
    num_heads: int = 16
    scale_by_head_dim: bool = False


class GPT3(gpt2.GPT2):
    """GPT-2 whose layers do not all see the whole text."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.kinds, self.band = config.kinds, Causal(window=config.window)

    def features(
        self,
        ids: Int[Tensor, "batch length"],
        *,
        documents: Int[Tensor, "batch length"] | None = None,
        state: list[KVCache] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Everything but the output layer. `documents`: which packed document each token belongs to."""
        positions, everything = self._positions_and_bias(ids, documents, state[0] if state else None)
        band = self.band if documents is None else within_documents(documents, causal=self.band)
        x = self.dropout(self.token_embedding(ids) + self.position_embedding(positions))
        for layer, block in enumerate(self.blocks):
            seen = band if self.kinds[layer] == "banded" else everything  # section 2.1
            x = block(x, bias=seen, state=state[layer] if state else None)
        return self.final_norm(x)


class GPTNeo(GPT3):
    """Queries, keys and values have no bias."""

    def __init__(self, config: NeoConfig) -> None:
        super().__init__(config)
        for name, layer in self.named_modules():
            if name.endswith(("attention.query", "attention.key", "attention.value")):
                layer.register_parameter("bias", None)


SIZES = {  # parameters:
    "gpt3-small": Config(),  # 125,226,240
    "gpt3-medium": Config(dim=1024, num_layers=24, num_heads=16),  # 355,871,744
    "gpt3-large": Config(dim=1536, num_layers=24, num_heads=16),  # 760,300,032
    "gpt3-xl": Config(dim=2048, num_layers=24, num_heads=16),  # 1,315,723,264; the table says 24 heads of 128
    "gpt3-2.7b": Config(dim=2560, num_layers=32, num_heads=32),  # 2,651,553,280
    "gpt3-6.7b": Config(dim=4096, num_layers=32, num_heads=32),  # 6,658,404,352
    "gpt3-13b": Config(dim=5120, num_layers=40, num_heads=40),  # 12,853,386,240; the table says 5,140
    "gpt3": Config(dim=12288, num_layers=96, num_heads=96),  # 174,604,259,328
    "gpt-neo-125m": NeoConfig(dim=768, num_layers=12, num_heads=12),  # 125,198,592
    "gpt-neo-1.3b": NeoConfig(),  # 1,315,575,808
    "gpt-neo-2.7b": NeoConfig(dim=2560, num_layers=32, num_heads=20),  # 2,651,307,520
}


class Pattern(Setting):
    """`attention_types`, such as [[["global", "local"], 12]]: lists of words, and how often each is said."""

    def load(self, value: Any) -> str:
        """The first list, where saying it over and over gives all layers, else the word of each layer."""
        words = {theirs: ours for ours, theirs in KINDS.items()}
        kinds = [words.get(word, word) for word in _words(value)]
        first = [words.get(word, word) for word in value[0][0]] if value else []
        return ",".join(first if kinds == _repeated(first, len(kinds)) else kinds)

    def of(self, config: Config) -> list[Any]:
        """Their value for this configuration. A list may be said no times: so a pattern outlives being cut."""
        words = [KINDS[kind] for kind in config.pattern.split(",")]
        times, rest = divmod(config.num_layers, len(words))
        return [[words, times]] + ([[words[:rest], 1]] if rest else [])


def _repeated(words: list[str], length: int) -> list[str]:
    return [words[place % len(words)] for place in range(length)]


def _words(value: Any) -> list[str]:
    """The word of each layer."""
    try:
        return [word for words, times in value for _ in range(times) for word in words]
    except (TypeError, ValueError):
        raise UserError(f"config.json: attention_types is {value!r}", fix='write [[["global", "local"], 12]]') from None


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json without `attention_layers`, which repeats the words of every layer."""
    values = dict(values)
    words, layers = values.pop("attention_layers", None), values.get("num_layers", NeoConfig.num_layers)
    if "attention_types" in values and len(found := _words(values["attention_types"])) != layers:
        raise UserError(f"config.json: attention_types names {len(found)} layers of {layers}", fix="name all of them")
    if words is not None and words != _words(values.get("attention_types", [[["global", "local"], layers // 2]])):
        raise UserError("config.json: attention_layers is not what attention_types says", fix="leave it out")
    return values


def _table(model_type: str, architecture: str, model: type[GPT3], config: type[Config]) -> Checkpoint:
    return Checkpoint(
        model_type=model_type,
        architecture=architecture,
        model=model,
        config=config,
        prefix="transformer.",
        settings=(
            Setting("vocab_size", "vocab_size"),
            Setting("max_position_embeddings", "context_length"),
            Setting("hidden_size", "dim"),
            Setting("num_layers", "num_layers"),
            Pattern("attention_types", "pattern"),
            Setting("num_heads", "num_heads"),
            Setting("intermediate_size", "mlp_dim"),
            Setting("window_size", "window"),
            Setting("activation_function", "activation", values=ACTIVATION_WORDS),
            Setting("resid_dropout", "dropout"),
            Setting("embed_dropout", "dropout"),
            Setting("attention_dropout", "dropout"),
            Setting("layer_norm_epsilon", "norm_eps"),
            Setting("tie_word_embeddings", "tied"),
        ),
        spelling=_checked,
        ignore=("initializer_range", "classifier_dropout", "summary_*"),  # the last two are for other heads
        weights=(
            Rename("transformer.wte.weight", "token_embedding.weight"),
            Rename("transformer.wpe.weight", "position_embedding.weight"),
            Rename("transformer.h.*.ln_1.{weight,bias}", "blocks.*.attention_norm.{weight,bias}"),
            Rename(
                "transformer.h.*.attn.attention.{q_proj,k_proj,v_proj,out_proj}.weight",
                "blocks.*.attention.{query,key,value,out}.weight",
            ),
            Rename(
                "transformer.h.*.attn.attention.{q_proj,k_proj,v_proj,out_proj}.bias",
                "blocks.*.attention.{query,key,value,out}.bias",
            ),
            Rename("transformer.h.*.ln_2.{weight,bias}", "blocks.*.mlp_norm.{weight,bias}"),
            Rename("transformer.h.*.mlp.c_fc.{weight,bias}", "blocks.*.mlp.up.{weight,bias}"),
            Rename("transformer.h.*.mlp.c_proj.{weight,bias}", "blocks.*.mlp.down.{weight,bias}"),
            Rename("transformer.ln_f.{weight,bias}", "final_norm.{weight,bias}"),
            Rename("lm_head.weight", "head.weight"),
            Drop("transformer.h.*.attn.attention.bias"),  # the masks, once stored as buffers
            Drop("transformer.h.*.attn.attention.masked_bias"),
        ),
        tied={"lm_head.weight": "transformer.wte.weight"},
    )


HF = (
    _table("gpt3", "GPT3LMHeadModel", GPT3, Config),
    _table("gpt_neo", "GPTNeoForCausalLM", GPTNeo, NeoConfig),
)
