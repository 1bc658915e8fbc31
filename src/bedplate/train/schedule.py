"""Learning-rate schedules, as factors of the peak rate."""

import math
from dataclasses import dataclass

from bedplate.errors import UserError


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Linear warm-up from 0, then half a cosine down to `final_fraction` (GPT-1, section 4.1; GPT-3, appendix B)."""

    warmup_steps: int = 100
    final_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise UserError(f"schedule.warmup_steps is {self.warmup_steps}", fix="give a number of steps from 0 up")
        if not 0 <= self.final_fraction <= 1:
            raise UserError(f"schedule.final_fraction is {self.final_fraction}", fix="give a share from 0 to 1")

    def factor(self, step: int, *, steps: int) -> float:
        """Factor for the update made in `step`, counted from 0, of `steps`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        return self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * done))
