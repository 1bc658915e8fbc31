"""GPT-2 on text, from seconds on a laptop to the published size."""

from bedplate.models.gpt2 import Config
from bedplate.recipes.recipe import Recipe
from bedplate.recipes.text import Text
from bedplate.train.optimizer import AdamW
from bedplate.train.schedule import WarmupCosine


def quickstart() -> Recipe:
    """A minute and a half on two cores: Python's documentation, 0.7 million parameters."""
    return Recipe(
        name="gpt2.quickstart",
        model=Config(vocab_size=1024, context_length=128, dim=128, num_layers=3, num_heads=4, dropout=0.0),
        optimizer=AdamW(lr=3e-3),  # small models take large steps
        schedule=WarmupCosine(warmup_steps=30),
        steps=1000,
        batch_size=16,
        micro_batch_size=16,
        evaluate_every=100,
    )


def pydocs() -> Recipe:
    """Ten minutes on two cores: Python's documentation, 3 million parameters."""
    return Recipe(
        name="gpt2.pydocs",
        model=Config(vocab_size=2048, context_length=256, dim=192, num_layers=6, num_heads=6, dropout=0.0),
        optimizer=AdamW(lr=2e-3),
        steps=1000,
        batch_size=16,
        micro_batch_size=16,
    )


def stdlib() -> Recipe:
    """The same model on the source code of Python's standard library."""
    recipe = pydocs()
    return Recipe(
        name="gpt2.stdlib",
        model=recipe.model,
        data=Text(corpus="stdlib"),
        optimizer=recipe.optimizer,
        steps=2000,
        batch_size=16,
        micro_batch_size=16,
    )


def tiny() -> Recipe:
    """The checkpoint that ships with bedplate: ten minutes on two cores, under 2 MB in bfloat16."""
    return Recipe(
        name="gpt2.tiny",
        model=Config(vocab_size=1024, context_length=256, dim=128, num_layers=4, num_heads=4, dropout=0.0),
        optimizer=AdamW(lr=3e-3),
        steps=2500,  # with 4,000 the held-out text gets worse after 2,500
        batch_size=16,
        micro_batch_size=16,
        evaluate_every=250,
        checkpoint_every=250,
    )


def small() -> Recipe:
    """The published 124M model with the settings of its best-known reproduction; for a GPU and a corpus of your own."""
    return Recipe(
        name="gpt2.small",
        model=Config(dropout=0.0),
        data=Text(isolate=False),  # as published: documents in a window see each other
        schedule=WarmupCosine(warmup_steps=2000),
        steps=600_000,
        batch_size=480,
        micro_batch_size=12,
        precision="bf16",
        evaluate_every=1000,
        checkpoint_every=1000,
    )
