"""A checkpoint table: one declaration that reads and writes a published layout, strict in both directions."""

import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bedplate.errors import UserError, kind_in_words, nearest
from bedplate.files import read_json_object, write_json
from bedplate.nn.fast.memory import give_back
from bedplate.weights.files import (
    FLOATING,
    INDEX,
    PICKLES,
    WHOLE,
    Entry,
    TensorsOnDemand,
    list_tensors,
    read_pickle,
    write_tensors,
)
from bedplate.weights.rules import Computed, Drop, Rule, SplitPerHead, Where, expand

# Keys of config.json that describe the file, the tokenizer or a run, and change nothing in what a model computes.
DESCRIPTIVE = (
    "model_type", "architectures", "auto_map", "transformers_version", "torch_dtype", "dtype", "_name_or_path",
    "tokenizer_class", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id",
    "n_special", "predict_special_tokens", "prefix", "use_cache", "output_attentions", "output_hidden_states",
    "output_past", "return_dict", "gradient_checkpointing", "torchscript", "tf_legacy_loss", "id2label", "label2id",
    "num_labels", "_num_labels", "problem_type", "finetuning_task", "task_specific_params", "chunk_size_feed_forward",
    "is_decoder", "tie_encoder_decoder",
    # of generation, which once stood here and not in generation_config.json
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores", "suppress_tokens",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "begin_suppress_tokens",
)  # fmt: skip
# Keys that would change the model, in the only value that is supported; older files hold them.
NEUTRAL: Mapping[str, Any] = {
    "is_encoder_decoder": False, "pruned_heads": {}, "use_bfloat16": False, "cross_attention_hidden_size": None,
}  # fmt: skip


ACTIVATION_WORDS: Mapping[str, str] = {  # their names of activations, of which the first spelling is written
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu": "gelu",
    "relu": "relu", "silu": "silu", "swish": "silu", "tanh": "tanh",
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A key of config.json and our name for it; `values` translates words, of which the first spelling is written."""

    theirs: str
    ours: str
    values: Mapping[str, str] | None = None
    written: bool = True  # False: a name that older files have

    def load(self, value: Any) -> Any:
        """Their value as ours."""
        if self.values is None:
            return value
        if not isinstance(value, str) or value not in self.values:
            raise UserError(
                f"config.json: {self.theirs} {value!r} is not supported", fix=nearest(str(value), self.values)
            )
        return self.values[value]

    def save(self, value: Any) -> Any:
        """Our value as theirs."""
        return value if self.values is None else next(key for key, ours in self.values.items() if ours == value)

    def of(self, config: Any) -> Any:
        """Their value for this configuration of ours."""
        return self.save(getattr(config, self.ours))


@dataclass(frozen=True)
class Labels(Setting):
    """Their table of class names, of which we keep the number."""

    def load(self, value: Any) -> Any:
        """How many classes there are."""
        return len(value) if isinstance(value, dict) else value

    def save(self, value: Any) -> Any:
        """The names that transformers gives where nobody chose others."""
        return {str(number): f"LABEL_{number}" for number in range(value)}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """How folders of one Hugging Face `model_type` map to one of our models."""

    model_type: str
    architecture: str
    model: type[nn.Module]
    config: type
    settings: tuple[Setting, ...]
    weights: tuple[Rule, ...]
    prefix: str = ""  # optional in files, always written
    require: Mapping[str, Any] = field(default_factory=dict)  # keys in the only value that is supported; written
    accept: Mapping[str, Any] = field(default_factory=dict)  # the same of keys that older files hold; not written
    absent: Callable[[Mapping[str, Any]], Mapping[str, Any]] = (
        lambda values: {}
    )  # what missing keys mean, of the others
    ignore: tuple[str, ...] = ()
    spelling: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict  # brings older and newer files to one form
    tied: Mapping[str, str] = field(default_factory=dict)  # may be in a file as a copy of the second name
    untie: str = ""  # their key that is taken for false when such a copy differs, whatever config.json says
    aliases: Mapping[str, str] = field(default_factory=dict)  # endings of names in old files, and today's
    mark: str = ""  # of two tables for one architecture: the tensor that files of this one hold

    def load(self, folder: Path, *, dtype: torch.dtype = torch.float32, allow_pickle: bool = False) -> nn.Module:
        """The model in a folder, in evaluation mode. Every mismatch of name, shape or type is a UserError."""
        values = read_json_object(folder / "config.json")
        values = {**self.absent(values), **values}
        if self.untie and self._copies_differ(folder):
            values = values | {self.untie: False}
        config = self.config_from(values, source=folder / "config.json")
        with torch.device("meta"):
            model = self.model(config)
        expected = self.to_theirs(dict(model.state_dict()), config)
        theirs: MutableMapping[str, Tensor]
        safe = (folder / WHOLE).exists() or (folder / INDEX).exists()
        if allow_pickle and not safe and (folder / PICKLES[0]).exists():
            tensors = read_pickle(folder, dtype=dtype)
            found = {
                name: Entry(folder, tuple(tensor.shape), "F32" if tensor.is_floating_point() else str(tensor.dtype))
                for name, tensor in tensors.items()
            }
            names = self._check(found, expected, folder)
            theirs = {names[name]: tensor for name, tensor in tensors.items() if name in names}
        else:
            found = list_tensors(folder)
            names = self._check(found, expected, folder)
            theirs = TensorsOnDemand({full: (name, found[name]) for name, full in names.items()}, dtype=dtype)
        self._untie(theirs, expected, folder)
        model.load_state_dict(self.to_ours(theirs, config), assign=True)
        return model.eval().requires_grad_(True)

    def save(self, model: nn.Module, folder: Path, *, extra: Mapping[str, Any] | None = None) -> None:
        """Write config.json (with the `extra` keys) and safetensors that the reference library opens."""
        values = self.config_to(model.config)
        if self.config_from(values) != model.config:
            cause = f"{self.architecture}, as which this model would be saved, cannot have its configuration"
            raise UserError(cause, fix="save a model that differs from the published ones in sizes alone")
        tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        tensors = self.to_theirs(tensors, model.config)
        dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
        write_tensors(tensors, folder)
        write_json(folder / "config.json", values | {"dtype": dtype} | dict(extra or {}))

    def to_ours(self, theirs: MutableMapping[str, Tensor], config: Any) -> dict[str, Tensor]:
        """Apply every rule's `load`, which takes tensors out of `theirs`, so that no two copies of a model are held."""
        ours: dict[str, Tensor] = {}
        for rule in self._rules(config):
            for name, tensor in rule.load(theirs):
                ours[name] = tensor.contiguous()
                give_back()
        return ours

    def to_theirs(self, ours: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
        """Apply every rule's `save`; a tensor of ours that no rule covers is a mistake in the table."""
        rest = dict(ours)
        theirs = {name: tensor.contiguous() for rule in self._rules(config) for name, tensor in rule.save(rest)}
        if rest:
            raise ValueError(f"no rule of the {self.model_type} table covers {sorted(rest)}")
        return theirs

    def _rules(self, config: Any) -> list[Rule]:
        """The rules for this configuration, those that depend on its values knowing them."""
        rules = [rule for rule in self.weights if not isinstance(rule, Where) or rule.holds(config)]
        return [rule.of(config) if isinstance(rule, SplitPerHead | Computed) else rule for rule in rules]

    def config_from(self, values: Mapping[str, Any], *, source: Path | str = "config.json") -> Any:
        """Our configuration from the content of config.json; unknown keys and unsupported switches are errors."""
        ours: dict[str, Any] = {}
        known = {setting.theirs: setting for setting in self.settings}
        required = {**NEUTRAL, **self.accept, **self.require}
        values = self.spelling(values)
        for key, value in {**self.absent(values), **values}.items():
            if key in known:
                setting = known[key]
                loaded = _typed(self.config, setting, value, source)
                if ours.setdefault(setting.ours, loaded) != loaded:
                    cause = (
                        f"{source}: {key} is {value!r}, another key for the same setting says {ours[setting.ours]!r}"
                    )
                    raise UserError(cause, fix="only models where these are equal are supported")
            elif key in required:
                if value != required[key]:
                    raise UserError(f"{source}: {key}={value!r} is not supported", fix=f"only {required[key]!r} is")
            elif not any(fnmatchcase(key, pattern) for pattern in (*DESCRIPTIVE, *self.ignore)):
                raise UserError(f"{source}: unknown key {key!r}", fix=nearest(key, [*known, *required]))
        return self.config(**ours)

    def config_to(self, config: Any) -> dict[str, Any]:
        """The content of config.json for our configuration."""
        head = {"model_type": self.model_type, "architectures": [self.architecture]}
        written = [setting for setting in self.settings if setting.written]
        settings = {setting.theirs: setting.of(config) for setting in written}
        return head | settings | dict(self.require)

    def _check(self, found: Mapping[str, Entry], expected: Mapping[str, Tensor], folder: Path) -> dict[str, str]:
        """Compare a file's tensors with the model's; returns file name -> full name of those to read."""
        names = {}
        dropped = {name: torch.empty(0) for name in map(self._full_name, found)}
        for rule in self.weights:
            if isinstance(rule, Drop):
                rule.load(dropped)
        for name, entry in found.items():
            full = self._full_name(name)
            if full in names.values():
                cause = f"{folder}: {full!r} is there twice, also as {full.removeprefix(self.prefix)!r}"
                raise UserError(cause, fix="remove one of them")
            if full in dropped:
                target = expected.get(full, expected.get(self.tied.get(full, "")))
                _check_entry(name, entry, target, folder, expected)
                names[name] = full
        for copy, original in self.tied.items():  # where a file holds one of the two, it may be either
            if original not in names.values() and copy in names.values() and copy not in expected:
                names = {name: original if full == copy else full for name, full in names.items()}
        if missing := sorted(set(expected) - set(names.values())):
            cause = f"{folder}: {len(missing)} tensor(s) missing, the first is {missing[0]!r}"
            raise UserError(cause, fix="the file does not belong to this config.json, or was cut; copy both again")
        return names

    def _full_name(self, name: str) -> str:
        old = next((ending for ending in self.aliases if name.endswith(ending)), "")
        name = name.removesuffix(old) + self.aliases.get(old, "")
        outside = {part for rule in self.weights for part in expand(rule.theirs)} | set(self.tied)
        return name if name.startswith(self.prefix) or name in outside else self.prefix + name

    def _copies_differ(self, folder: Path) -> bool:
        """Whether what may be a copy is a weight of its own: its file's bytes tell, not what config.json says."""
        if not (folder / WHOLE).exists() and not (folder / INDEX).exists():
            return False
        found = list_tensors(folder)
        tensors = TensorsOnDemand({name: (name, entry) for name, entry in found.items()}, dtype=torch.float32)
        pairs = [(copy, original) for copy, original in self.tied.items() if copy in found and original in found]
        return any(
            found[copy].shape == found[original].shape and not torch.equal(tensors[copy], tensors[original])
            for copy, original in pairs
        )

    def _untie(self, theirs: MutableMapping[str, Tensor], expected: Mapping[str, Tensor], folder: Path) -> None:
        for copy, original in self.tied.items():
            if copy in theirs and copy not in expected:
                if not torch.equal(theirs.pop(copy), theirs[original]):
                    cause = f"{folder}: {copy} differs from {original}, but config.json ties them"
                    key = next((each.theirs for each in self.settings if each.ours == "tied"), "tie_word_embeddings")
                    raise UserError(cause, fix=f'set "{key}": false in config.json')


def _check_entry(name: str, entry: Entry, target: Tensor | None, folder: Path, expected: Mapping[str, Tensor]) -> None:
    if target is None:
        raise UserError(f"{folder}: unexpected tensor {name!r}", fix=nearest(name, expected))
    if entry.shape != tuple(target.shape):
        cause = f"{folder}: {name!r} has shape {list(entry.shape)}, config.json asks for {list(target.shape)}"
        raise UserError(cause, fix="use the config.json that was saved with these weights")
    if entry.dtype not in FLOATING:
        fix = f"only {', '.join(FLOATING)} weights are read; export the model unquantized"
        raise UserError(f"{folder}: {name!r} has type {entry.dtype}", fix=fix)


def _typed(config: type, setting: Setting, value: Any, source: Path | str) -> Any:
    """The value in our words, checked against the type of our field."""
    loaded = setting.load(value)
    expected: Any = next(field.type for field in dataclasses.fields(config) if field.name == setting.ours)
    fits = isinstance(loaded, (int, float)) if expected is float else isinstance(loaded, expected)
    if not fits or (isinstance(loaded, bool) and expected is not bool):
        raise UserError(f"{source}: {setting.theirs} is {value!r}", fix=f"it must be {kind_in_words(expected)}")
    return loaded
