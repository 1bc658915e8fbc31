"""T5's pre-training on text with hidden spans, and text-to-text tasks from pairs of files."""

from dataclasses import replace

from bedplate.models.t5 import Config
from bedplate.objectives.sequence_to_sequence import SequenceToSequence
from bedplate.recipes.pairs import Pairs
from bedplate.recipes.recipe import Recipe
from bedplate.recipes.spans import HiddenSpans
from bedplate.train.optimizer import AdamW
from bedplate.train.schedule import InverseSquareRoot

SMALL = {"dim": 96, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "head_dim": 24, "mlp_dim": 192}


def pydocs() -> Recipe:
    """Three minutes on two cores: Python's documentation with hidden spans, 0.7 million parameters."""
    return Recipe(
        name="t5.pydocs",
        model=Config(
            **SMALL, vocab_size=1100, start_id=1024, context_length=128, mlp="gated gelu", tied=False,
            scale_output=False, dropout=0.0,
        ),
        data=HiddenSpans(),
        objective=SequenceToSequence(),
        optimizer=AdamW(lr=5e-3, betas=(0.9, 0.98), weight_decay=0.0),  # for Adafactor
        schedule=InverseSquareRoot(warmup_steps=100),  # section 3.1.2
        steps=800,
        batch_size=32,
        micro_batch_size=32,
    )  # fmt: skip


def pairs() -> Recipe:
    """Two minutes on two cores: a text-to-text task, by default translation of the built-in sentences."""
    recipe = pydocs()
    model = replace(recipe.model, vocab_size=513, start_id=512)
    return replace(recipe, name="t5.pairs", model=model, data=Pairs(), batch_size=64, micro_batch_size=64, steps=600)
