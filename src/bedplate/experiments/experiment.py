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
from pathlib import Path
from types import ModuleType

from torch import nn

import bedplate.experiments as experiments
from bedplate.errors import UserError, nearest
from bedplate.objectives.objective import Objective
from bedplate.train.loop import Settings, Source, train


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


def train_to_end(model: nn.Module, source: Source, objective: Objective, settings: Settings, folder: Path) -> None:
    """Train. A signal to stop ends the experiment: half a training is no measurement."""
    if train(model, source, objective, settings=settings, folder=folder).interrupted:
        raise KeyboardInterrupt
