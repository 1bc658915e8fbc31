"""`bedplate.load`: from a name or a folder to a model that can be used."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any, overload

import torch
from safetensors import SafetensorError
from torch import nn

from bedplate.data.tokenize import Tokenizer, load_tokenizer
from bedplate.errors import UserError
from bedplate.evaluate.quantization import Cost, quantize_measured
from bedplate.files import atomic_folder, write_text
from bedplate.generate import contrastive
from bedplate.generate.beam import Beams, search_text
from bedplate.generate.chat import TEMPLATE, stored_template
from bedplate.generate.complete import generate, stream
from bedplate.generate.embed import embed
from bedplate.generate.sample import Sampling
from bedplate.generate.speculative import Speculation, speculate_text
from bedplate.generate.text import Generation
from bedplate.models import from_pretrained, published_sizes, save_pretrained
from bedplate.nn.quantize import Quantized
from bedplate.train.run import RECORD

CHECKPOINTS = Path(str(resources.files("bedplate") / "checkpoints"))
HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "merges.txt", "vocab.txt", "spiece.model", TEMPLATE)
HUB_NAMES = {  # of published sizes that are not OpenAI's
    "bert-base": "google-bert/bert-base-uncased", "bert-large": "google-bert/bert-large-uncased",
    "bert-tiny": "google/bert_uncased_L-2_H-128_A-2", "bert-mini": "google/bert_uncased_L-4_H-256_A-4",
    "bert-small": "google/bert_uncased_L-4_H-512_A-8", "bert-medium": "google/bert_uncased_L-8_H-512_A-8",
    **{f"bloom{size}": f"bigscience/bloom{size}" for size in ("", "-560m", "-1b1", "-1b7", "-3b", "-7b1")},
}  # fmt: skip
MODEL_FILES = (  # what `save` may replace
    "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer*.json",
    "vocab.json", "merges.txt", "vocab.txt", "special_tokens_map.json", "added_tokens.json", "golden.json", TEMPLATE,
)  # fmt: skip


@dataclass(frozen=True)
class LanguageModel:
    """A model with the tokenizer it was trained with."""

    model: nn.Module
    tokenizer: Tokenizer
    chat_template: str | None = None  # Jinja, as stored with the model

    @property
    def config(self) -> Any:
        """The configuration of the model."""
        return self.model.config

    @overload
    def generate(self, prompts: str, **options: Any) -> Generation: ...
    @overload
    def generate(self, prompts: Sequence[str], **options: Any) -> list[Generation]: ...

    def generate(self, prompts: str | Sequence[str], **options: Any) -> Generation | list[Generation]:
        """Continue one prompt or several; a string in, one Generation out.

        Options: max_new_tokens, temperature, top_k, top_p, repetition_penalty (or sampling, which holds these four),
        stop, seed, seeds, truncate; schema (JSON Schema) or regex, which the text then matches. See
        `generate.complete.generate`, `generate.sample.Sampling` and `generate.constrain`.
        """
        several = [prompts] if isinstance(prompts, str) else list(prompts)
        results = generate(self.model, self.tokenizer, several, **self._constrained(_split(options)))
        return results[0] if isinstance(prompts, str) else results

    @overload
    def search(self, prompts: str, **options: Any) -> Generation: ...
    @overload
    def search(self, prompts: Sequence[str], **options: Any) -> list[Generation]: ...

    def search(self, prompts: str | Sequence[str], **options: Any) -> Generation | list[Generation]:
        """The likeliest continuation of one prompt or several that a beam search finds; nothing is drawn.

        Options: max_new_tokens, truncate, width, length_penalty, early_stopping; see `generate.beam`.
        """
        several = [prompts] if isinstance(prompts, str) else list(prompts)
        fields = {name: options.pop(name) for name in Beams.__dataclass_fields__ if name in options}
        results = search_text(self.model, self.tokenizer, several, beams=Beams(**fields), **options)
        return results[0] if isinstance(prompts, str) else results

    @overload
    def speculate(self, prompts: str, *, draft: "LanguageModel | None" = None, **options: Any) -> Speculation: ...
    @overload
    def speculate(
        self, prompts: Sequence[str], *, draft: "LanguageModel | None" = None, **options: Any
    ) -> list[Speculation]: ...

    def speculate(
        self, prompts: str | Sequence[str], *, draft: "LanguageModel | None" = None, **options: Any
    ) -> Speculation | list[Speculation]:
        """Continue prompts, one after the other, in fewer passes: tokens that `draft`, or without one the text itself,
        proposes are judged together. What is drawn has the distribution that `generate` draws from.

        Options: those of `generate` except `seeds`, and `count`, the most tokens proposed a pass; see
        `generate.speculative`. `draft` must have the same vocabulary.
        """
        if draft is not None:
            self._check_vocabulary(draft)
        several = [prompts] if isinstance(prompts, str) else list(prompts)
        results = speculate_text(self.model, self.tokenizer, several, draft=draft and draft.model, **_split(options))
        return results[0] if isinstance(prompts, str) else results

    @overload
    def contrast(self, prompts: str, *, amateur: "LanguageModel", **options: Any) -> Generation: ...
    @overload
    def contrast(self, prompts: Sequence[str], *, amateur: "LanguageModel", **options: Any) -> list[Generation]: ...

    def contrast(
        self, prompts: str | Sequence[str], *, amateur: "LanguageModel", **options: Any
    ) -> Generation | list[Generation]:
        """Continue prompts with what this model likes much better than a smaller one of the same vocabulary does.

        Options: max_new_tokens, alpha, amateur_temperature, width, stop, truncate; see `generate.contrastive`.
        """
        self._check_vocabulary(amateur)
        several = [prompts] if isinstance(prompts, str) else list(prompts)
        results = contrastive.contrast(self.model, amateur.model, self.tokenizer, several, **options)
        return results[0] if isinstance(prompts, str) else results

    @overload
    def contrastive_search(self, prompts: str, **options: Any) -> Generation: ...
    @overload
    def contrastive_search(self, prompts: Sequence[str], **options: Any) -> list[Generation]: ...

    def contrastive_search(self, prompts: str | Sequence[str], **options: Any) -> Generation | list[Generation]:
        """Continue prompts with likely tokens that say something new; nothing is drawn.

        Options: max_new_tokens, alpha, top_k, stop, truncate; see `generate.contrastive`.
        """
        several = [prompts] if isinstance(prompts, str) else list(prompts)
        results = contrastive.search(self.model, self.tokenizer, several, **options)
        return results[0] if isinstance(prompts, str) else results

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """Continue one prompt, piece by piece, with the options of `generate` except `seeds`."""
        return stream(self.model, self.tokenizer, prompt, **self._constrained(_split(options)))

    def embed(self, texts: str | Sequence[str], **options: Any) -> torch.Tensor:
        """A vector for each text and layer, [text, layer, dim], from an encoder; one string in, [layer, dim] out.

        Options: layers (-1,), pooling ("mean" or "cls"), truncate; see `generate.embed`.
        """
        several = [texts] if isinstance(texts, str) else texts
        vectors = embed(self.model, self.tokenizer, several, **options)
        return vectors[0] if isinstance(texts, str) else vectors

    def quantize(self, kind: str) -> Cost:
        """Store the weights in fewer bits, in place: "bf16", "int8" or "int4". Returns what it cost on held-out text.

        The model can then neither be trained nor saved. Raises UserError for sizes that a kind cannot hold.
        """
        return quantize_measured(self, kind)

    def save(self, folder: str | Path) -> None:
        """Write a folder that `bedplate.load` and transformers open, whole or not at all.

        An existing folder is replaced when it is empty or holds a model and nothing else; otherwise a UserError.
        """
        if any(isinstance(module, Quantized) for module in self.model.modules()):
            raise UserError("a quantized model cannot be saved", fix="load it again and save that")
        with replacing(Path(folder), owned=MODEL_FILES, mark="config.json") as temporary:
            end_id = self.tokenizer.end_id
            save_pretrained(self.model, temporary, end_id=end_id if end_id >= 0 else None)
            self.tokenizer.save(temporary)
            if self.chat_template is not None:
                write_text(temporary / TEMPLATE, self.chat_template)

    def _constrained(self, options: dict[str, Any]) -> dict[str, Any]:
        """With the grammar that `schema` or `regex` stands for."""
        schema, regex = options.pop("schema", None), options.pop("regex", None)
        if schema is None and regex is None:
            return options
        if schema is not None and regex is not None:
            raise UserError("a text cannot be held to a schema and an expression", fix="give one of them")
        from bedplate.generate.constrain import Grammar

        if schema is not None:
            return options | {"grammar": Grammar.from_schema(schema, self.tokenizer)}
        return options | {"grammar": Grammar.from_regex(str(regex), self.tokenizer)}

    def _check_vocabulary(self, other: "LanguageModel") -> None:
        if other.tokenizer.digest != self.tokenizer.digest:
            raise UserError("the two models have different vocabularies", fix="use two that share a tokenizer")


def load(target: str | Path, *, dtype: torch.dtype = torch.float32, allow_pickle: bool = False) -> LanguageModel:
    """Open a folder in Hugging Face layout, a run folder, a shipped checkpoint by name, or a hub id ("org/name").

    `allow_pickle` reads `pytorch_model.bin` (with weights_only) where a folder has no safetensors. Every problem with
    files, names or shapes is a UserError.
    """
    folder = Path(target)
    if (folder / RECORD).exists():
        from bedplate.recipes.run import load_run

        model, tokenizer = load_run(folder)
        return _checked(model.to(dtype), tokenizer, folder)
    if not folder.exists():
        shipped = CHECKPOINTS / str(target)
        folder = shipped if shipped.is_dir() else _from_hub(str(target), allow_pickle=allow_pickle)
    if not folder.is_dir():
        raise UserError(f"{folder} is a file", fix="name the folder that holds config.json and model.safetensors")
    model = from_pretrained(folder, dtype=dtype, allow_pickle=allow_pickle)
    return _checked(model, load_tokenizer(folder), folder)


def tokenizer_of(target: str | Path) -> Tokenizer:
    """The tokenizer alone of what `load` opens: a folder, a run, or a shipped checkpoint by name."""
    folder = Path(target)
    if not folder.exists() and (CHECKPOINTS / str(target)).is_dir():
        folder = CHECKPOINTS / str(target)
    return load_tokenizer(folder / "tokenizer" if (folder / RECORD).exists() else folder)


def shipped_checkpoints() -> list[str]:
    """Names of the trained models that travel with the package."""
    return sorted(path.parent.name for path in CHECKPOINTS.glob("*/config.json"))


def _checked(model: Any, tokenizer: Tokenizer, folder: Path) -> LanguageModel:
    if tokenizer.vocab_size > model.config.vocab_size:
        cause = f"{folder}: the vocabulary has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}"
        raise UserError(cause, fix="put the tokenizer that the model was trained with into the folder")
    return LanguageModel(model, tokenizer, stored_template(folder))


@contextmanager
def replacing(folder: Path, *, owned: Sequence[str], mark: str) -> Iterator[Path]:
    """Yields a temporary folder that takes the place of `folder`, whole or not at all.

    An existing folder must be empty, or hold a file called `mark` and nothing but `owned` files (patterns); a
    UserError says otherwise.
    """
    folder = folder.resolve()
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        foreign = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in owned)]
        if foreign or (names and mark not in names):
            cause = f"{folder} holds other files, such as {(foreign or names)[0]!r}, which saving would remove"
            raise UserError(cause, fix="name a new folder, or one that holds a model alone")
        with atomic_folder(folder) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {folder} ({reason})", fix="choose another folder") from error


def _from_hub(name: str, *, allow_pickle: bool) -> Path:
    """Download (or find in the cache) a model of the Hugging Face hub."""
    if name in published_sizes():
        name = HUB_NAMES.get(name, f"openai-community/{name}")
    if Path(name).parent != Path() and Path(name).parent.is_dir():
        raise UserError(f"there is no folder {name}", fix="check the name")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        known = ", ".join(shipped_checkpoints())
        raise UserError(
            f"there is no folder or checkpoint {name!r}", fix=f"name a folder, a run, a hub id, or: {known}"
        )
    from huggingface_hub import snapshot_download

    try:
        pickles = ("pytorch_model.bin",) if allow_pickle else ()
        return Path(snapshot_download(name, allow_patterns=[*HUB_FILES, *pickles]))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        cause = f"{name} is no folder here and could not be fetched from the hub ({reason})"
        raise UserError(cause, fix="check the name and the network, or name a local folder") from error


def _split(options: dict[str, Any]) -> dict[str, Any]:
    """Gather the fields of `Sampling` into one."""
    fields = Sampling.__dataclass_fields__
    chosen = {name: value for name, value in options.items() if name in fields}
    sampling = replace(options.get("sampling") or Sampling(), **chosen)
    return {name: value for name, value in options.items() if name not in fields} | {"sampling": sampling}
