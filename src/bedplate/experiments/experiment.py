"""What an experiment is: a module with a claim of its paper, tried at several scales.

CLAIM                      one sentence, with its section
SCALES                     name -> settings: smoke (seconds), small (minutes on two cores)
run(scale, watch) -> Result    measures; deterministic given the scale
check(result) -> Verdict       compares with the bar, margin and seeds included
plot(result, path)             one picture that shows it
"""

import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType

import bedplate.experiments as experiments
from bedplate.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the claim held, and the sentence with the numbers."""

    holds: bool
    sentence: str


def list_experiments() -> list[str]:
    """The papers that can be reproduced."""
    return [module.name for module in pkgutil.iter_modules(experiments.__path__) if module.name != "experiment"]


def find_experiment(paper: str) -> ModuleType:
    """The experiment of a paper, by the name of its model file."""
    if paper not in list_experiments():
        raise UserError(f"there is no experiment for {paper!r}", fix=nearest(paper, list_experiments()))
    return importlib.import_module(f"bedplate.experiments.{paper}")
