"""Rotary positions in config.json: `rope_theta` and `rope_scaling` (transformers 4), or `rope_parameters` (5)."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from bedplate.errors import UserError, nearest
from bedplate.nn.rotary import Dynamic, Linear, Smooth, Stretch, YaRN
from bedplate.weights.checkpoint import Setting

FORMULAS: Mapping[str, type] = {"linear": Linear, "dynamic": Dynamic, "yarn": YaRN, "llama3": Smooth}
NAMES = {  # theirs, where ours are others
    "original_max_position_embeddings": "context", "beta_fast": "fast", "beta_slow": "slow",
    "low_freq_factor": "low", "high_freq_factor": "high",
}  # fmt: skip


@dataclass(frozen=True)
class StretchSetting(Setting):
    """`rope_scaling`: a dictionary in which `rope_type` names the formula, and the rest are its numbers."""

    def load(self, value: Any) -> Stretch | None:
        """Their dictionary as ours; null and "default" stretch nothing."""
        if value is None:
            return None
        given = {key: number for key, number in value.items() if number is not None}
        word = given.pop("rope_type", given.pop("type", "default"))
        if given.get("partial_rotary_factor") == 1:
            del given["partial_rotary_factor"]
        if word != "default" and word not in FORMULAS:
            raise UserError(f"config.json: rope_type {word!r} is not supported", fix=nearest(str(word), FORMULAS))
        known = {field.name: field for field in fields(FORMULAS[word])} if word in FORMULAS else {}
        numbers = {NAMES.get(key, key): number for key, number in given.items()}
        for key, number in given.items():
            ours = NAMES.get(key, key)
            if ours not in known or key in NAMES.values():
                raise UserError(f"config.json: {key!r} of rope_type {word!r} is not supported", fix="leave it out")
            fits = isinstance(number, bool) if known[ours].type is bool else _is_positive(number)
            if not fits:
                raise UserError(f"config.json: {key} of rope_type {word!r} is {number!r}", fix="give a number above 0")
        for name, field in known.items():
            if field.default is MISSING and name not in numbers:
                raise UserError(f"config.json: rope_type {word!r} lacks {_theirs(name)}", fix="add it")
        return FORMULAS[word](**numbers) if known else None

    def save(self, value: Stretch | None) -> dict[str, Any] | None:
        """Our formula as their dictionary, without what is as usual."""
        if value is None:
            return None
        (word,) = (word for word, formula in FORMULAS.items() if type(value) is formula)
        numbers = {_theirs(field.name): getattr(value, field.name) for field in fields(value)}
        usual = {_theirs(field.name): field.default for field in fields(value)}
        return {"rope_type": word} | {key: number for key, number in numbers.items() if number != usual[key]}


def one_spelling(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json with `rope_theta` and `rope_scaling`, whichever way it was written."""
    values = dict(values)
    new, old = values.pop("rope_parameters", None), values.get("rope_scaling")
    for name, value in (("rope_parameters", new), ("rope_scaling", old)):
        if value is not None and not isinstance(value, dict):
            raise UserError(f"config.json: {name} is {value!r}", fix="it must be a dictionary or null")
    stretch = dict(old or new or {})
    base = stretch.pop("rope_theta", values.get("rope_theta"))
    if base is not None:
        values["rope_theta"] = base
    if stretch.get("rope_type", stretch.get("type")) in ("yarn", "llama3"):
        stretch.setdefault("original_max_position_embeddings", values.get("max_position_embeddings"))
    return values | {"rope_scaling": stretch or None}


def _theirs(name: str) -> str:
    return next((theirs for theirs, ours in NAMES.items() if ours == name), name)


def _is_positive(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and number > 0
