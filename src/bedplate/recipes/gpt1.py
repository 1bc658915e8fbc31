"""GPT-1: pre-training on text, then fine-tuning on a task."""

from dataclasses import replace

from bedplate.models.gpt1 import ClassifierConfig, Config
from bedplate.objectives.fine_tuning import FineTuning
from bedplate.recipes.labeled import Labeled
from bedplate.recipes.recipe import Recipe
from bedplate.recipes.text import Text
from bedplate.train.optimizer import AdamW
from bedplate.train.schedule import WarmupCosine, WarmupTimesLinear

SIZE = {"context_length": 128, "dim": 128, "num_layers": 4, "num_heads": 4}


def pydocs() -> Recipe:
    """Minutes on two cores: Python's documentation, 1 million parameters."""
    return Recipe(
        name="gpt1.pydocs",
        model=Config(vocab_size=2045, dropout=0.0, **SIZE),  # which underfits
        optimizer=AdamW(lr=1.5e-3, betas=(0.9, 0.999), weight_decay=0.01),  # section 4.1, but a small model's rate
        schedule=WarmupCosine(warmup_steps=200, final_fraction=0.0),  # post-norm needs its warm-up
        steps=1200,
        batch_size=16,
        micro_batch_size=16,
    )


def stdlib() -> Recipe:
    """The same on the source code of Python's standard library, to be fine-tuned."""
    return replace(pydocs(), name="gpt1.stdlib", data=Text(corpus="stdlib"))


def finetune() -> Recipe:
    """From which of five packages is a snippet? 200 labels; data.start=RUN names a run of gpt1.stdlib to begin from."""
    return Recipe(
        name="gpt1.finetune",
        model=ClassifierConfig(vocab_size=2048, num_classes=5, **SIZE),  # 2,045 and three marks
        data=Labeled(labels=200, longest_text=126),
        objective=FineTuning(),
        optimizer=AdamW(lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01),
        schedule=WarmupTimesLinear(warmup_steps=10),  # as in the released code
        steps=100,
        batch_size=20,
        micro_batch_size=20,
    )
