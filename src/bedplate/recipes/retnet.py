"""RetNet on text, minutes on a laptop."""

from bedplate.models.retnet import Config
from bedplate.recipes.recipe import Recipe
from bedplate.train.optimizer import AdamW
from bedplate.train.schedule import WarmupLinear


def pydocs() -> Recipe:
    """A minute on two cores: Python's documentation in windows of 64 tokens, 0.2 million parameters."""
    return Recipe(
        name="retnet.pydocs",
        model=Config(
            vocab_size=1024, context_length=64, dim=64, num_layers=3, num_heads=2, value_dim=128, mlp_dim=128,
            decay="spread",
        ),
        # The paper: betas 0.9 and 0.98, decay 0.05, clipping at 2 and a rate of 6e-4; small models take large steps.
        optimizer=AdamW(lr=4e-3, betas=(0.9, 0.98), weight_decay=0.05, clip=2.0),
        schedule=WarmupLinear(warmup_steps=50),
        steps=600,
        batch_size=24,
        micro_batch_size=24,
    )  # fmt: skip
