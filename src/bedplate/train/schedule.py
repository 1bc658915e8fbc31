"""Learning-rate schedules, as factors of the peak rate: linear warm-up from 0, then what the class name says.

Updates are counted from 0. Every schedule has `factor(step, steps=...)`, the factor for the update made in `step`.
"""

import math
from dataclasses import dataclass

from bedplate.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The peak rate after the warm-up; the part that all schedules share."""

    warmup_steps: int = 100

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise UserError(f"schedule.warmup_steps is {self.warmup_steps}", fix="give a number of steps from 0 up")
        for name in ("final_fraction", "decay_fraction"):
            if not 0 <= getattr(self, name, 0.0) <= 1:
                raise UserError(f"schedule.{name} is {getattr(self, name)}", fix="give a share from 0 to 1")

    def factor(self, step: int, *, steps: int) -> float:
        """Factor for the update made in `step` of `steps`."""
        return (step + 1) / self.warmup_steps if step < self.warmup_steps else self.after_warmup(step, steps)

    def after_warmup(self, step: int, steps: int) -> float:
        """The same from `warmup_steps` on."""
        return 1.0

    def done(self, step: int, steps: int) -> float:
        """The share of the way from the end of the warm-up to the end of training, 0 to 1."""
        return min(1.0, (step - self.warmup_steps) / max(1, steps - self.warmup_steps))


@dataclass(frozen=True, kw_only=True)
class WarmupCosine(Constant):
    """Half a cosine down to `final_fraction` (GPT-1, section 4.1; GPT-3, appendix B)."""

    final_fraction: float = 0.1

    def after_warmup(self, step: int, steps: int) -> float:
        """Factor from `warmup_steps` on."""
        done = self.done(step, steps)
        return self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class WarmupLinear(Constant):
    """A straight line down to `final_fraction` (BERT, appendix A.2)."""

    final_fraction: float = 0.0

    def after_warmup(self, step: int, steps: int) -> float:
        """Factor from `warmup_steps` on."""
        return 1 - (1 - self.final_fraction) * self.done(step, steps)


@dataclass(frozen=True, kw_only=True)
class WarmupTimesLinear(Constant):
    """A straight line from the first step to 0 after the last, times the warm-up: fine-tuning in GPT-1's code."""

    def factor(self, step: int, *, steps: int) -> float:
        """Factor for the update made in `step` of `steps`."""
        return super().factor(step, steps=steps) * (1 - step / steps)


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot(Constant):
    """Falls as 1 / sqrt(step) (Vaswani et al. 2017, section 5.3, eq. 3, relative to its peak)."""

    def after_warmup(self, step: int, steps: int) -> float:
        """Factor from `warmup_steps` on."""
        return math.sqrt(max(1, self.warmup_steps) / (step + 1))


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Constant):
    """The peak rate, then a straight line to 0 over the last `decay_fraction` of all updates (Hu et al. 2024, WSD)."""

    decay_fraction: float = 0.1

    def after_warmup(self, step: int, steps: int) -> float:
        """Factor from `warmup_steps` on."""
        decay = max(1, round(self.decay_fraction * steps))
        return min(1.0, (steps - step) / decay)
