"""`bedplate.load`: from a name or a folder to a model that can be used."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.files import atomic_folder
from bedplate.generate.engine import Generation, generate, stream
from bedplate.generate.sample import Sampling
from bedplate.models import from_pretrained, published_sizes, save_pretrained
from bedplate.nn.fast.packed_linear import pack
from bedplate.train.run import RECORD

CHECKPOINTS = Path(str(resources.files("bedplate") / "checkpoints"))
HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "merges.txt")


@dataclass(frozen=True)
class LanguageModel:
    """A model with the tokenizer it was trained with."""

    model: nn.Module
    tokenizer: ByteBPE

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

        Options: max_new_tokens, temperature, top_k, top_p, repetition_penalty, stop, seed, seeds, truncate; see
        `generate.engine.generate` and `generate.sample.Sampling`. On a CPU the first call packs the weights for
        decoding, after which this model cannot be trained (see `nn.fast.packed_linear`).
        """
        pack(self.model)
        several = [prompts] if isinstance(prompts, str) else list(prompts)
        results = generate(self.model, self.tokenizer, several, **_split(options))
        return results[0] if isinstance(prompts, str) else results

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """Continue one prompt, piece by piece, with the options of `generate`."""
        pack(self.model)
        return stream(self.model, self.tokenizer, prompt, **_split(options))

    def save(self, folder: str | Path) -> None:
        """Write a folder that `bedplate.load` and transformers open. An existing folder must be a model's, or empty."""
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").exists():
            raise UserError(f"{folder} holds other files", fix="name a new folder")
        try:
            with atomic_folder(folder) as temporary:
                save_pretrained(self.model, temporary, end_id=self.tokenizer.end_id)
                self.tokenizer.save(temporary)
        except OSError as error:
            raise UserError(
                f"cannot write {folder} ({error.strerror or error})", fix="choose another folder"
            ) from error


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
        folder = shipped if shipped.is_dir() else _from_hub(str(target))
    if not folder.is_dir():
        raise UserError(f"{folder} is a file", fix="name the folder that holds config.json and model.safetensors")
    model = from_pretrained(folder, dtype=dtype, allow_pickle=allow_pickle)
    return _checked(model, ByteBPE.from_folder(folder), folder)


def shipped_checkpoints() -> list[str]:
    """Names of the trained models that travel with the package."""
    return sorted(path.name for path in CHECKPOINTS.iterdir() if (path / "config.json").exists())


def _checked(model: Any, tokenizer: ByteBPE, folder: Path) -> LanguageModel:
    if tokenizer.vocab_size > model.config.vocab_size:
        cause = f"{folder}: the vocabulary has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}"
        raise UserError(cause, fix="put the tokenizer that the model was trained with into the folder")
    return LanguageModel(model, tokenizer)


def _from_hub(name: str) -> Path:
    """Download (or find in the cache) a model of the Hugging Face hub."""
    if name in published_sizes():
        name = f"openai-community/{name}"
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        known = ", ".join(shipped_checkpoints())
        raise UserError(
            f"there is no folder or checkpoint {name!r}", fix=f"name a folder, a run, a hub id, or: {known}"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        cause = f"{name} is no folder here and could not be fetched from the hub ({reason})"
        raise UserError(cause, fix="check the name and the network, or name a local folder") from error


def _split(options: dict[str, Any]) -> dict[str, Any]:
    """Gather the fields of `Sampling` into one."""
    fields = Sampling.__dataclass_fields__
    chosen = {name: value for name, value in options.items() if name in fields}
    return {name: value for name, value in options.items() if name not in fields} | {"sampling": Sampling(**chosen)}
