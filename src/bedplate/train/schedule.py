"""Learning-rate schedules, as factors of the peak rate."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Linear warm-up from 0, then half a cosine down to `final_fraction` (GPT-1, section 4.1; GPT-3, appendix B)."""

    warmup_steps: int = 100
    final_fraction: float = 0.1

    def factor(self, step: int, *, steps: int) -> float:
        """Factor for the update made in `step`, counted from 0, of `steps`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        return self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + math.cos(math.pi * done))
