"""PaLM and the Llama layout on text, minutes on a laptop."""

from bedplate.models import llama
from bedplate.models.palm import Config
from bedplate.objectives.next_token import NextToken
from bedplate.recipes.recipe import Recipe
from bedplate.train.optimizer import AdamW
from bedplate.train.schedule import InverseSquareRoot


def quickstart() -> Recipe:
    """Two minutes on two cores: Python's documentation, 0.8 million parameters."""
    return Recipe(
        name="palm.quickstart",
        model=Config(vocab_size=1024, context_length=128, dim=128, num_layers=3, num_heads=4, head_dim=32),
        objective=NextToken(z_loss=1e-4),  # section 5
        # The paper's Adafactor takes steps in proportion to the size of a matrix, of 1e-2 falling as 1 / sqrt(step);
        # AdamW's are the same for all: 1e-2 suits embeddings of variance 1, and these matrices of about 0.1 still.
        optimizer=AdamW(lr=1e-2),
        schedule=InverseSquareRoot(warmup_steps=100),
        steps=1000,
        batch_size=16,
        micro_batch_size=16,
        evaluate_every=100,
    )


def pydocs() -> Recipe:
    """Twelve minutes on two cores: Python's documentation, 3 million parameters."""
    recipe = quickstart()
    return Recipe(
        name="palm.pydocs",
        model=Config(vocab_size=2048, context_length=256, dim=192, num_layers=5, num_heads=6, head_dim=32),
        objective=recipe.objective,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        steps=1000,
        batch_size=16,
        micro_batch_size=16,
    )


def llama_pydocs() -> Recipe:
    """The same text and size in Llama's layout: serial blocks, RMS norms, three heads that share keys."""
    return Recipe(
        name="palm.llama_pydocs",
        model=llama.Config(
            vocab_size=2048, context_length=256, dim=192, num_layers=6, num_heads=6, num_kv_heads=2, mlp_dim=512,
            tied=True,
        ),
        optimizer=AdamW(lr=2e-3),  # as gpt2.pydocs
        steps=1000,
        batch_size=16,
        micro_batch_size=16,
    )  # fmt: skip
