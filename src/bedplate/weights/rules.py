"""How tensors in published checkpoints correspond to ours. Each rule has `load` and its inverse `save`.

In a name, `*` stands for a layer number and `{a,b}` for several names at once: `h.*.ln_1.{weight,bias}`.
Tensors are taken out of the dictionary given, so that what is left over at the end belongs to no rule.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Rule(Protocol):
    """One line of a checkpoint table."""

    theirs: str

    def load(self, tensors: Tensors) -> Tensors:
        """Take this rule's tensors out of theirs; return ours."""
        ...

    def save(self, tensors: Tensors) -> Tensors:
        """Take this rule's tensors out of ours; return theirs."""
        ...


@dataclass(frozen=True)
class Rename:
    """The same tensor under another name."""

    theirs: str
    ours: str

    def load(self, tensors: Tensors) -> Tensors:
        return _renamed(tensors, self.theirs, self.ours)

    def save(self, tensors: Tensors) -> Tensors:
        return _renamed(tensors, self.ours, self.theirs)


@dataclass(frozen=True)
class Split:
    """One of theirs holds several of ours, stacked along the first axis in equal parts."""

    theirs: str
    ours: str

    def load(self, tensors: Tensors) -> Tensors:
        names = expand(self.ours)
        taken = [(number, tensors.pop(name)) for name, number in _matches(tensors, self.theirs)]
        return {
            _fill(name, number): part.contiguous()
            for number, tensor in taken
            for name, part in zip(names, tensor.chunk(len(names)), strict=True)
        }

    def save(self, tensors: Tensors) -> Tensors:
        first, *rest = expand(self.ours)
        found = list(_matches(tensors, first))
        return {
            _fill(self.theirs, number): torch.cat([tensors.pop(name), *(tensors.pop(_fill(r, number)) for r in rest)])
            for name, number in found
        }


@dataclass(frozen=True)
class Transpose:
    """Theirs is stored (in, out), as by TensorFlow and transformers' Conv1D; ours is (out, in)."""

    rule: Rename | Split

    @property
    def theirs(self) -> str:
        """The pattern of the rule inside."""
        return self.rule.theirs

    def load(self, tensors: Tensors) -> Tensors:
        names = [name for pattern in expand(self.theirs) for name, _ in _matches(tensors, pattern)]
        return self.rule.load({name: tensors.pop(name).T.contiguous() for name in names})

    def save(self, tensors: Tensors) -> Tensors:
        return {name: tensor.T.contiguous() for name, tensor in self.rule.save(tensors).items()}


@dataclass(frozen=True)
class Drop:
    """Theirs only: buffers that can be recomputed."""

    theirs: str

    def load(self, tensors: Tensors) -> Tensors:
        for name, _ in list(_matches(tensors, self.theirs)):
            del tensors[name]
        return {}

    def save(self, tensors: Tensors) -> Tensors:
        return {}


def expand(pattern: str) -> list[str]:
    """The names that a pattern with one `{a,b}` stands for."""
    match = re.search(r"\{(.*?)\}", pattern)
    return [pattern.replace(match[0], word) for word in match[1].split(",")] if match else [pattern]


def _matches(tensors: Tensors, pattern: str) -> Iterator[tuple[str, str]]:
    """Names that fit the pattern, each with its layer number ("" when the pattern has none)."""
    regex = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)"))
    for name in list(tensors):
        if match := regex.fullmatch(name):
            yield name, match[1] if regex.groups else ""


def _fill(pattern: str, number: str) -> str:
    return pattern.replace("*", number)


def _renamed(tensors: Tensors, source: str, target: str) -> Tensors:
    pairs = zip(expand(source), expand(target), strict=True)
    found = [(name, _fill(new, number)) for old, new in pairs for name, number in _matches(tensors, old)]
    return {new: tensors.pop(name) for name, new in found}
