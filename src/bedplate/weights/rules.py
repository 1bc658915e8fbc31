"""How tensors in published checkpoints correspond to ours. Each rule has `load` and its inverse `save`.

In a name, `*` stands for a layer number and `{a,b}` for several names at once: `h.*.ln_1.{weight,bias}`.
Tensors are taken out of the mapping given, so that what is left over at the end belongs to no rule.
"""

import re
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from bedplate.errors import UserError

Taken = MutableMapping[str, Tensor]  # a rule takes out what it covers
Named = Iterator[tuple[str, Tensor]]  # one by one, so that a model is never held twice


@runtime_checkable
class Rule(Protocol):
    """One line of a checkpoint table."""

    @property
    def theirs(self) -> str:
        """The pattern of their names."""
        ...

    def load(self, tensors: Taken) -> Named:
        """Take this rule's tensors out of theirs; gives ours."""
        ...

    def save(self, tensors: Taken) -> Named:
        """Take this rule's tensors out of ours; gives theirs."""
        ...


@dataclass(frozen=True)
class Rename:
    """The same tensor under another name."""

    theirs: str
    ours: str

    def load(self, tensors: Taken) -> Named:
        return _renamed(tensors, self.theirs, self.ours)

    def save(self, tensors: Taken) -> Named:
        return _renamed(tensors, self.ours, self.theirs)


@dataclass(frozen=True)
class Split:
    """One of theirs holds several of ours, stacked along the first axis in equal parts."""

    theirs: str
    ours: str

    def load(self, tensors: Taken) -> Named:
        names = expand(self.ours)
        for name, number in _matches(tensors, self.theirs):
            for part_name, part in zip(names, tensors.pop(name).chunk(len(names)), strict=True):
                yield _fill(part_name, number), part

    def save(self, tensors: Taken) -> Named:
        first, *rest = expand(self.ours)
        for name, number in _matches(tensors, first):
            parts = [tensors.pop(name), *(tensors.pop(_fill(part, number)) for part in rest)]
            yield _fill(self.theirs, number), torch.cat(parts)


@dataclass(frozen=True)
class SplitPerHead:
    """One of theirs holds several of ours, which take turns for each head: rows (heads, parts, head_dim)."""

    theirs: str
    ours: str
    heads: str  # the field of the configuration that counts them
    number: int = 0  # of heads, once a configuration is known

    def of(self, config: Any) -> "SplitPerHead":
        """The rule for models of this configuration."""
        return replace(self, number=getattr(config, self.heads))

    def load(self, tensors: Taken) -> Named:
        names = expand(self.ours)
        for name, number in _matches(tensors, self.theirs):
            rows = tensors.pop(name).unflatten(0, (self.number, len(names), -1))
            for place, part_name in enumerate(names):
                yield _fill(part_name, number), rows[:, place].flatten(0, 1)

    def save(self, tensors: Taken) -> Named:
        first, *rest = expand(self.ours)
        for name, number in _matches(tensors, first):
            parts = [tensors.pop(name), *(tensors.pop(_fill(part, number)) for part in rest)]
            rows = torch.stack([part.unflatten(0, (self.number, -1)) for part in parts], dim=1)
            yield _fill(self.theirs, number), rows.flatten(0, 2)


@dataclass(frozen=True)
class Transpose:
    """Theirs is stored (in, out), as by TensorFlow and transformers' Conv1D; ours is (out, in)."""

    rule: Rename | Split

    @property
    def theirs(self) -> str:
        """The pattern of the rule inside."""
        return self.rule.theirs

    def load(self, tensors: Taken) -> Named:
        for name in [name for pattern in expand(self.theirs) for name, _ in _matches(tensors, pattern)]:
            yield from self.rule.load({name: tensors.pop(name).T})

    def save(self, tensors: Taken) -> Named:
        return ((name, tensor.T) for name, tensor in self.rule.save(tensors))


@dataclass(frozen=True)
class Where:
    """A rule for some configurations only."""

    rule: "Rename | Split | SplitPerHead"
    holds: Callable[[Any], bool]  # of a configuration

    @property
    def theirs(self) -> str:
        """The pattern of the rule inside."""
        return self.rule.theirs

    def load(self, tensors: Taken) -> Named:
        return self.rule.load(tensors)

    def save(self, tensors: Taken) -> Named:
        return self.rule.save(tensors)


@dataclass(frozen=True)
class Drop:
    """Theirs only: buffers that can be recomputed."""

    theirs: str

    def load(self, tensors: Taken) -> Named:
        for name, _ in _matches(tensors, self.theirs):
            del tensors[name]
        return iter(())

    def save(self, tensors: Taken) -> Named:
        return iter(())


@dataclass(frozen=True, eq=False)
class Computed:
    """Theirs only: a buffer that a configuration decides. It is written; a file that holds another one is refused."""

    theirs: str
    compute: Callable[[Any], Tensor]
    value: Tensor | None = None  # once a configuration is known

    def of(self, config: Any) -> "Computed":
        """The rule for models of this configuration."""
        return replace(self, value=self.compute(config))

    def load(self, tensors: Taken) -> Named:
        found, expected = tensors.pop(self.theirs).double(), self._value.double()
        if not torch.allclose(found, expected, rtol=1e-2, atol=1e-6):  # files in half precision round it
            raise UserError(f"{self.theirs} is not what config.json says", fix="correct config.json")
        return iter(())

    def save(self, tensors: Taken) -> Named:
        yield self.theirs, self._value

    @property
    def _value(self) -> Tensor:
        if self.value is None:
            raise ValueError(f"{self.theirs} depends on a configuration")
        return self.value


def expand(pattern: str) -> list[str]:
    """The names that a pattern with one `{a,b}` stands for."""
    match = re.search(r"\{(.*?)\}", pattern)
    return [pattern.replace(match[0], word) for word in match[1].split(",")] if match else [pattern]


def _matches(tensors: Taken, pattern: str) -> list[tuple[str, str]]:
    """Names that fit the pattern, each with its layer number ("" when the pattern has none)."""
    regex = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)"))
    found = ((name, regex.fullmatch(name)) for name in tensors)
    return [(name, match[1] if regex.groups else "") for name, match in found if match]


def _fill(pattern: str, number: str) -> str:
    return pattern.replace("*", number)


def _renamed(tensors: Taken, source: str, target: str) -> Named:
    for old, new in zip(expand(source), expand(target), strict=True):
        for name, number in _matches(tensors, old):
            yield _fill(new, number), tensors.pop(name)
