"""The settings of a run: one frozen dataclass, every leaf of which is a key on the command line."""

import ast
import dataclasses
import importlib
import itertools
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, get_args, get_origin, runtime_checkable

import bedplate.recipes as recipes
from bedplate.errors import UserError, kind_in_words, nearest
from bedplate.objectives.next_token import NextToken
from bedplate.objectives.objective import Objective
from bedplate.recipes.text import Text
from bedplate.train.optimizer import AdamW
from bedplate.train.precision import PRECISIONS
from bedplate.train.schedule import Constant, WarmupCosine

# Given by the paper; a model with other values is another paper's.
FIXED = (
    "model.norm_eps", "model.scale_by_head_dim", "model.scale_by_layer", "model.activation", "model.mlp_dim",
    "model.tied", "model.num_segments", "model.attention_dropout", "model.task_dropout", "model.residual_after_norm",
    "model.mlp", "model.num_buckets", "model.max_distance", "model.scale_output", "model.scale_embedding",
    "model.window", "model.pattern", "model.head_dim", "model.value_dim", "model.decay", "model.rotary_base",
    "model.stretch", "model.attention_bias", "model.mlp_bias", "optimizer.layer_decay", "data.density",
    "data.mean_span",
)  # fmt: skip
EXAMPLES = {int: ", such as 200", float: ", such as 1e-3"}


@runtime_checkable
class Prepared(Protocol):
    """What the data of a recipe stands for once it is read: what is trained on, and how it is measured."""

    tokenizer: Any
    source: Any  # of batches, see `train.loop.Source`
    best: str  # the one of the measures whose lowest value marks the best checkpoint

    def record(self) -> dict[str, Any]:
        """What the run learns from, by counts and hashes, for `run.json`; with `corpus` and its `sha256`."""
        ...

    def probe(self, model: Any) -> dict[str, float]:
        """Measures on a beginning of the held-out data, while training."""
        ...

    def measure(self, model: Any) -> dict[str, Any]:
        """Measures on all held-out data, at the end."""
        ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run."""

    name: str
    model: Any  # the Config of a model file
    data: Any = field(default_factory=Text)  # settings with `title`, `prepare(recipe, tokenizer=)`, `resolved()`
    objective: Objective = field(default_factory=NextToken)
    optimizer: AdamW = field(default_factory=AdamW)
    schedule: Constant = field(default_factory=WarmupCosine)
    steps: int = 1000
    batch_size: int = 32  # windows per update, over all ranks and micro-batches
    micro_batch_size: int = 32  # windows in memory at a time
    average: float = 0.0  # decay of the moving average of weights, such as 0.999; 0 keeps none
    precision: str = "fp32"
    seed: int = 0
    evaluate_every: int = 100
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "micro_batch_size", "evaluate_every", "checkpoint_every"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)} makes no run", fix="give a number from 1 up")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed} is out of range", fix="give a number from 0 to 2**63 - 1")
        if not 0 <= self.average < 1:
            raise UserError(f"average={self.average} is no decay", fix="give a number from 0 to below 1, such as 0.999")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision!r} is unknown", fix=nearest(self.precision, PRECISIONS))


def list_recipes() -> dict[str, str]:
    """Every recipe as `module.function`, with the first line of its docstring."""
    found = {}
    for module in pkgutil.iter_modules(recipes.__path__):
        functions = vars(importlib.import_module(f"bedplate.recipes.{module.name}"))
        for name, value in functions.items():
            if getattr(value, "__annotations__", None) == {"return": Recipe}:
                found[f"{module.name}.{name}"] = (value.__doc__ or "").partition("\n")[0]
    return found


def find_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of this name with these keys changed; unknown names and keys suggest the nearest known one."""
    known = list_recipes()
    if name not in known:
        raise UserError(f"there is no recipe {name!r}", fix=nearest(name, known))
    module, function = name.split(".")
    recipe = getattr(importlib.import_module(f"bedplate.recipes.{module}"), function)()
    return with_settings(recipe, overrides or {})


def parse_overrides(words: list[str]) -> dict[str, str]:
    """`key=value` words of the command line as a dictionary; of a key given twice the last counts."""
    for word in words:
        if "=" not in word:
            raise UserError(f"{word!r} is not a setting", fix="write key=value, for instance steps=200")
    return dict(word.split("=", 1) for word in words)


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Every open key of a recipe with its value, in order: `steps`, `optimizer.lr` and so on."""
    flat: dict[str, Any] = {}
    for part in dataclasses.fields(recipe):
        value = getattr(recipe, part.name)
        if dataclasses.is_dataclass(value):
            flat |= {f"{part.name}.{leaf.name}": getattr(value, leaf.name) for leaf in dataclasses.fields(value)}
        elif part.name != "name":
            flat[part.name] = value
    return {key: value for key, value in flat.items() if key not in FIXED}


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with keys changed; values may be text, as from a command line, or what `settings_of` gave."""
    known = settings_of(recipe)
    changes: dict[str, Any] = {}
    for key, value in settings.items():
        if key in FIXED:
            raise UserError(f"{key} is fixed by the paper", fix="write a recipe of your own to change it")
        if key not in known:
            raise UserError(f"the recipe {recipe.name} has no key {key!r}", fix=nearest(key, known))
        outer, _, inner = key.rpartition(".")
        owner = getattr(recipe, outer) if outer else recipe
        kind = next(part.type for part in dataclasses.fields(owner) if part.name == inner)
        parsed = _parse(key, value, kind)
        changes.setdefault(outer, {})[inner] = parsed
    own = changes.pop("", {})
    return replace(
        recipe, **own, **{outer: replace(getattr(recipe, outer), **inner) for outer, inner in changes.items()}
    )


def _parse(key: str, value: Any, kind: Any) -> Any:
    """A value of the type that the field declares, from text or from JSON."""
    if isinstance(value, str) and kind is not str:
        try:
            value = ast.literal_eval(value.capitalize() if value in ("true", "false", "none") else value)
        except (ValueError, SyntaxError):
            raise _wrong(key, value, kind) from None
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if not isinstance(value, (tuple, list)) or len(value) != len(kinds):
            raise _wrong(key, value, kind)
        return tuple(_parse(key, part, want) for part, want in zip(value, kinds, strict=True))
    if kind is float and type(value) is int:
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(key, value, kind)
    return value


def _wrong(key: str, value: Any, kind: Any) -> UserError:
    example = ", such as 0.9,0.95" if get_origin(kind) is tuple else EXAMPLES.get(kind, "")
    return UserError(f"{key}={value} has the wrong type", fix=f"give {kind_in_words(kind)}{example}")


def folder_of(recipe: Recipe, *, last: bool = False) -> Path:
    """Where a run goes unless told otherwise: `runs/gpt2.pydocs`, or `runs/gpt2.pydocs-2` when that is taken.

    `last`: where the last such run went, if there was one.
    """
    taken = free = Path("runs") / recipe.name
    for number in itertools.count(2):
        if not free.exists():
            break
        taken, free = free, taken.with_name(f"{recipe.name}-{number}")
    return taken if last else free
