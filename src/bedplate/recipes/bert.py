"""BERT: pre-training on text, then fine-tuning on a task."""

from dataclasses import replace

from bedplate.models.bert import ClassifierConfig, PretrainingConfig, SpanConfig, TaggerConfig
from bedplate.objectives.classification import Classification, SpanAnswer
from bedplate.objectives.masked import Masked
from bedplate.recipes.encoder_task import LabeledTexts
from bedplate.recipes.masked_text import MaskedText
from bedplate.recipes.recipe import Recipe
from bedplate.train.optimizer import AdamW
from bedplate.train.schedule import WarmupLinear

SIZE = {"context_length": 128, "dim": 128, "num_layers": 2, "num_heads": 4, "mlp_dim": 512}


def pydocs() -> Recipe:
    """Minutes on two cores: Python's documentation, 0.7 million parameters."""
    return Recipe(
        name="bert.pydocs",
        model=PretrainingConfig(vocab_size=2048, **SIZE),
        data=MaskedText(),
        objective=Masked(),
        optimizer=AdamW(lr=2e-3, betas=(0.9, 0.999), weight_decay=0.01),  # appendix A.2, but a small model's rate
        schedule=WarmupLinear(warmup_steps=100),
        steps=2000,
        batch_size=32,
        micro_batch_size=32,
    )


def base() -> Recipe:
    """The published model with the settings of appendix A.2; for a GPU, a corpus and a vocabulary of your own."""
    return Recipe(
        name="bert.base",
        model=PretrainingConfig(),
        data=MaskedText(most_hidden=77),
        objective=Masked(),
        optimizer=AdamW(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01),
        schedule=WarmupLinear(warmup_steps=10_000),
        steps=1_000_000,
        batch_size=256,
        micro_batch_size=16,
        precision="bf16",
        evaluate_every=1000,
        checkpoint_every=1000,
    )


def classify() -> Recipe:
    """Classes of texts or pairs: data.corpus=FILE with text, or first and second, and label; data.start=RUN."""
    return Recipe(
        name="bert.classify",
        model=ClassifierConfig(vocab_size=2048, **SIZE),
        data=LabeledTexts(),
        objective=Classification(),
        optimizer=AdamW(lr=5e-4, betas=(0.9, 0.999), weight_decay=0.01),  # the paper's 5e-5 to 2e-5 are for 110M
        schedule=WarmupLinear(warmup_steps=20),  # 10 % (appendix A.3)
        steps=200,
        batch_size=32,
        micro_batch_size=32,
        evaluate_every=50,
    )


def tag() -> Recipe:
    """Classes of words, such as names: data.corpus=FILE with words and tags; data.start=RUN."""
    return replace(
        classify(),
        name="bert.tag",
        model=TaggerConfig(vocab_size=2048, **SIZE, num_classes=3),
        data=LabeledTexts(corpus="generated-tags"),
    )


def answer() -> Recipe:
    """Answers that are spans: data.corpus=FILE with question, context, answer and start; data.start=RUN."""
    return replace(
        classify(),
        name="bert.answer",
        model=SpanConfig(vocab_size=2048, **SIZE),
        data=LabeledTexts(corpus="generated-spans"),
        objective=SpanAnswer(),
    )
