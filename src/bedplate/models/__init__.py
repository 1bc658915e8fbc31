"""One file per architecture. `MODEL_TYPES` is the only list of what can be opened from a folder."""

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bedplate.errors import UserError, nearest
from bedplate.files import read_json_object
from bedplate.weights.checkpoint import Checkpoint
from bedplate.weights.files import tensor_names
from bedplate.weights.gguf import write_gguf

MODEL_TYPES = {  # model_type in config.json -> module with its checkpoint tables, `HF`: one, or one for each head
    "bloom": "bedplate.models.bloom",
    "gpt2": "bedplate.models.gpt2",
    "gpt3": "bedplate.models.gpt3",
    "gpt_neo": "bedplate.models.gpt3",
    "openai-gpt": "bedplate.models.gpt1",
    "bert": "bedplate.models.bert",
    "llama": "bedplate.models.llama",
    "marian": "bedplate.models.transformer",
    "mistral": "bedplate.models.llama",
    "mt5": "bedplate.models.t5",
    "retnet": "bedplate.models.retnet",
    "palm": "bedplate.models.palm",
    "qwen2": "bedplate.models.llama",
    "t5": "bedplate.models.t5",
}


def checkpoint_tables(model_type: str) -> tuple[Checkpoint, ...]:
    """The tables of a Hugging Face model type, the usual one first."""
    if model_type not in MODEL_TYPES:
        raise UserError(f"model type {model_type!r} is not supported", fix=nearest(model_type, MODEL_TYPES))
    tables = importlib.import_module(MODEL_TYPES[model_type]).HF
    tables = tables if isinstance(tables, tuple) else (tables,)
    return tuple(table for table in tables if table.model_type == model_type)


def checkpoint_table(model_type: str, architectures: Any = None, names: Collection[str] = ()) -> Checkpoint:
    """The table that reads a folder whose config.json names these architectures and whose files hold these tensors."""
    tables = checkpoint_tables(model_type)
    named = architectures if isinstance(architectures, list) else []
    fitting = [table for table in tables if table.architecture in named] or [tables[0]]
    return next((table for table in fitting if table.mark in names), fitting[-1])


def _all_tables() -> list[Checkpoint]:
    return [table for model_type in MODEL_TYPES for table in checkpoint_tables(model_type)]


def table_of(model: nn.Module) -> Checkpoint:
    """The table that saves this model: the one of its nearest class, for a class may be a special case of another."""
    fitting = [table for table in _all_tables() if isinstance(model, table.model)]
    return max(fitting, key=lambda table: len(table.model.__mro__))


def from_pretrained(folder: Path, *, dtype: torch.dtype = torch.float32, allow_pickle: bool = False) -> nn.Module:
    """The model in a folder in Hugging Face layout, in evaluation mode."""
    config = read_json_object(folder / "config.json")
    table = checkpoint_table(str(config.get("model_type", "")), config.get("architectures"), tensor_names(folder))
    return table.load(folder, dtype=dtype, allow_pickle=allow_pickle)


def save_pretrained(model: nn.Module, folder: Path, *, end_id: int | None = None) -> None:
    """Write config.json and model.safetensors into an existing folder; `end_id` marks begin and end of text."""
    extra = {} if end_id is None else {"bos_token_id": end_id, "eos_token_id": end_id}
    table_of(model).save(model, folder, extra=extra)


def save_gguf(model: Any, tokenizer: Any, path: Path, *, name: str, encoding: str) -> None:
    """One GGUF file for llama.cpp; `encoding` is one of `weights.gguf.ENCODINGS`."""
    table = table_of(model)
    if table.model_type != "gpt2":
        raise UserError(f"{table.architecture} is not written as GGUF yet", fix="use --format hf, or a GPT-2")
    tensors = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    tensors = table.to_theirs(tensors, model.config)
    write_gguf(path, tensors, table.config_to(model.config), tokenizer, name=name, encoding=encoding)


def build(config: object) -> nn.Module:
    """A newly initialized model of the architecture that this configuration belongs to."""
    fitting = [table for table in _all_tables() if isinstance(config, table.config)]
    return max(fitting, key=lambda table: len(table.config.__mro__)).model(config)


def config_of(name: str) -> type:
    """The `Config` of the model file of this name."""
    return importlib.import_module(f"bedplate.models.{name}").Config


def published_sizes() -> dict[str, object]:
    """The configurations that papers published, by name."""
    modules = [importlib.import_module(path) for path in dict.fromkeys(MODEL_TYPES.values())]
    return {name: config for module in modules for name, config in module.SIZES.items()}
