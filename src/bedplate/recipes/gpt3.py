"""GPT-3 on text, a minute on a laptop, and the settings of the smallest published size."""

from bedplate.models.gpt3 import SIZES, Config
from bedplate.recipes.recipe import Recipe
from bedplate.recipes.text import Text
from bedplate.train.optimizer import AdamW
from bedplate.train.schedule import WarmupCosine


def pydocs() -> Recipe:
    """A minute on two cores: Python's documentation in windows of 64 tokens, every other layer seeing 16 of them."""
    return Recipe(
        name="gpt3.pydocs",
        model=Config(vocab_size=512, context_length=64, dim=64, num_layers=3, num_heads=4, window=16),
        data=Text(isolate=False),  # as published: documents in a window see each other
        optimizer=AdamW(lr=4e-3),  # small models take large steps
        schedule=WarmupCosine(warmup_steps=50),
        steps=1000,
        batch_size=24,
        micro_batch_size=24,
    )


def small() -> Recipe:
    """The published 125M model with its settings (table 2.1 and appendix B); for GPUs and a corpus of your own."""
    return Recipe(
        name="gpt3.small",
        model=SIZES["gpt3-small"],
        data=Text(isolate=False),
        optimizer=AdamW(lr=6e-4),  # with betas 0.9 and 0.95, decay 0.1 and clipping at 1, which are the defaults
        schedule=WarmupCosine(warmup_steps=715),  # 375M tokens; the paper stays at a tenth from 260B tokens on
        steps=572_000,  # 300B tokens, of 0.5M each; the paper begins with smaller batches
        batch_size=256,
        micro_batch_size=8,
        precision="bf16",
        evaluate_every=1000,
        checkpoint_every=1000,
    )
