"""BLOOM on text: minutes on a laptop, and the settings of a published size."""

from bedplate.models.bloom import SIZES, Config
from bedplate.recipes.recipe import Recipe
from bedplate.recipes.text import Text
from bedplate.train.optimizer import AdamW
from bedplate.train.schedule import WarmupCosine


def pydocs() -> Recipe:
    """Half a minute on two cores: Python's documentation in windows of 64 tokens, 0.2 million parameters."""
    return Recipe(
        name="bloom.pydocs",
        model=Config(vocab_size=1024, context_length=64, dim=64, num_layers=3, num_heads=4),
        data=Text(isolate=False),  # as published: documents in a window see each other
        optimizer=AdamW(lr=3e-3),  # small models take large steps
        schedule=WarmupCosine(warmup_steps=50),
        steps=600,
        batch_size=24,
        micro_batch_size=24,
    )


def small() -> Recipe:
    """The published 560M model with its launch script's settings; for GPUs and a corpus of your own."""
    return Recipe(
        name="bloom.small",
        model=SIZES["bloom-560m"],
        data=Text(isolate=False),
        optimizer=AdamW(lr=3e-4),  # with betas 0.9 and 0.95, decay 0.1 and clipping at 1, which are the defaults
        schedule=WarmupCosine(warmup_steps=715, final_fraction=1 / 30),  # 375M tokens; the script stops at 1e-5
        steps=650_000,  # 341B tokens
        batch_size=256,
        micro_batch_size=4,
        precision="bf16",  # the script: fp16, which needs a loss scale and gains nothing on newer GPUs
        evaluate_every=1000,
        checkpoint_every=1000,
    )
