"""One file per architecture. `MODEL_TYPES` is the only list of what can be opened from a folder."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bedplate.errors import UserError, nearest
from bedplate.files import read_json_object
from bedplate.weights.checkpoint import Checkpoint
from bedplate.weights.gguf import write_gguf

MODEL_TYPES = {  # model_type in config.json -> module with its checkpoint table, `HF`
    "gpt2": "bedplate.models.gpt2",
}


def checkpoint_table(model_type: str) -> Checkpoint:
    """The table of a Hugging Face model type."""
    if model_type not in MODEL_TYPES:
        raise UserError(f"model type {model_type!r} is not supported", fix=nearest(model_type, MODEL_TYPES))
    return importlib.import_module(MODEL_TYPES[model_type]).HF


def table_of(model: nn.Module) -> Checkpoint:
    """The table that saves this model."""
    tables = [checkpoint_table(model_type) for model_type in MODEL_TYPES]
    return next(table for table in tables if isinstance(model, table.model))


def from_pretrained(folder: Path, *, dtype: torch.dtype = torch.float32, allow_pickle: bool = False) -> nn.Module:
    """The model in a folder in Hugging Face layout, in evaluation mode."""
    model_type = read_json_object(folder / "config.json").get("model_type", "")
    return checkpoint_table(str(model_type)).load(folder, dtype=dtype, allow_pickle=allow_pickle)


def save_pretrained(model: nn.Module, folder: Path, *, end_id: int | None = None) -> None:
    """Write config.json and model.safetensors into an existing folder; `end_id` marks begin and end of text."""
    extra = {} if end_id is None else {"bos_token_id": end_id, "eos_token_id": end_id}
    table_of(model).save(model, folder, extra=extra)


def save_gguf(model: Any, tokenizer: Any, path: Path, *, name: str, encoding: str) -> None:
    """One GGUF file for llama.cpp; `encoding` is one of `weights.gguf.ENCODINGS`."""
    table = table_of(model)
    tensors = table.to_theirs({key: tensor.detach() for key, tensor in model.state_dict().items()})
    write_gguf(path, tensors, table.config_to(model.config), tokenizer, name=name, encoding=encoding)


def build(config: object) -> nn.Module:
    """A newly initialized model of the architecture that this configuration belongs to."""
    tables = [checkpoint_table(model_type) for model_type in MODEL_TYPES]
    return next(table.model(config) for table in tables if isinstance(config, table.config))


def published_sizes() -> dict[str, object]:
    """The configurations that papers published, by name."""
    modules = [importlib.import_module(path) for path in MODEL_TYPES.values()]
    return {name: config for module in modules for name, config in module.SIZES.items()}
