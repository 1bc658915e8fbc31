"""The Transformer of 2017 on pairs of texts, from a minute on a laptop to the published size."""

from dataclasses import replace

from bedplate.models.transformer import Config
from bedplate.objectives.sequence_to_sequence import SequenceToSequence
from bedplate.recipes.pairs import Pairs
from bedplate.recipes.recipe import Recipe
from bedplate.train.optimizer import AdamW
from bedplate.train.schedule import InverseSquareRoot


def quickstart() -> Recipe:
    """Two minutes on two cores: the built-in German and English sentences, 0.7 million parameters."""
    return Recipe(
        name="transformer.quickstart",
        model=Config(
            vocab_size=513, start_id=512, context_length=96, dim=96, num_layers=2, num_decoder_layers=2, num_heads=4,
            mlp_dim=384,
        ),
        data=Pairs(),
        objective=SequenceToSequence(label_smoothing=0.1),  # section 5.4
        # Section 5.3, with Noam's peak at 4.4e-3 for this width and warm-up; no decay and, nearly, no clipping.
        optimizer=AdamW(lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0, clip=10.0),
        schedule=InverseSquareRoot(warmup_steps=200),
        steps=900,
        batch_size=64,
        micro_batch_size=64,
        evaluate_every=100,
    )  # fmt: skip


def multi30k() -> Recipe:
    """Half an hour on two cores: captions of images, such as Multi30k's; name your files with data.corpus=DE,EN."""
    recipe = quickstart()
    model = replace(
        recipe.model, vocab_size=4001, start_id=4000, dim=128, num_layers=3, num_decoder_layers=3, mlp_dim=512
    )
    data = Pairs(corpus="train.de,train.en")
    schedule = InverseSquareRoot(warmup_steps=400)
    return replace(recipe, name="transformer.multi30k", model=model, data=data, schedule=schedule, steps=1362)


def base() -> Recipe:
    """The published base model and its settings; for a GPU and a parallel corpus of your own."""
    return replace(
        quickstart(),
        name="transformer.base",
        model=Config(start_id=36999),
        data=Pairs(corpus="train.de,train.en"),
        optimizer=AdamW(lr=7e-4, betas=(0.9, 0.98), weight_decay=0.0, clip=10.0),  # 512^-0.5 * 4000^-0.5
        schedule=InverseSquareRoot(warmup_steps=4000),
        steps=100_000,
        batch_size=1024,  # about 25,000 tokens on each side
        precision="bf16",
        evaluate_every=1000,
        checkpoint_every=1000,
    )
