"""Guessing hidden tokens: the loss against its formula, transformers' own, and any split of a batch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from tests.data.encoder_text import make_shards
from tests.train.test_any_split import largest_error
from torch import Tensor
from torch.nn.functional import cross_entropy

from bedplate.data.sentence_pairs import SentencePairs
from bedplate.models import build, save_pretrained
from bedplate.models.bert import MaskedConfig, PretrainingConfig
from bedplate.nn.fast.linear_cross_entropy import IGNORE
from bedplate.objectives.masked import Masked, inputs_of
from bedplate.train.loop import Settings, accumulate
from bedplate.train.parallel import Work

SIZE = {"vocab_size": 258, "context_length": 24, "dim": 16, "num_layers": 2, "num_heads": 2, "mlp_dim": 24}
SIZE |= {"dropout": 0.0, "attention_dropout": 0.0}


@pytest.fixture
def batch(tmp_path: Path) -> dict[str, Tensor]:
    shards, marks = make_shards(tmp_path / "shards")
    return SentencePairs(shards, marks, length=24, batch_size=12, seed=0).batch(0)


def make(config: type = PretrainingConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(config(**SIZE)).double()


def test_both_means_are_those_of_transformers(batch: dict[str, Tensor], tmp_path: Path) -> None:
    model = make()
    save_pretrained(model, tmp_path)
    reference = transformers.BertForPreTraining.from_pretrained(tmp_path, dtype=torch.float64).eval()
    loss = Masked().loss(model, batch, None, 0)
    expected = reference(
        batch["ids"], token_type_ids=batch["segments"], attention_mask=batch["mask"].long(), labels=batch["targets"],
        next_sentence_label=batch["next_sentence"],
    ).loss  # fmt: skip
    assert (loss.total / loss.count).item() == pytest.approx(expected.item(), abs=1e-6)  # theirs is rounded to float32


def test_the_parts_of_the_loss(batch: dict[str, Tensor]) -> None:
    model = make()
    loss = Masked().loss(model, batch, None, 0)
    guesses = model(batch["ids"], **inputs_of(batch))
    hidden = batch["targets"] != IGNORE
    tokens = cross_entropy(guesses.tokens[hidden], batch["targets"][hidden])
    follows = cross_entropy(guesses.next_sentence, batch["next_sentence"])
    right = (guesses.next_sentence.argmax(1) == batch["next_sentence"]).double().mean()
    for name, expected in {
        "masked_loss": tokens,
        "next_sentence_loss": follows,
        "next_sentence_accuracy": right,
    }.items():
        torch.testing.assert_close(loss.sums[name] / loss.count, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(loss.total / loss.count, tokens + follows, rtol=0, atol=1e-10)


def gradient(model: torch.nn.Module, batch: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    sums = accumulate(Work(model), Masked(), batch, 0, Settings(steps=1, micro_batch_size=rows))
    found = {name: each.grad / sums["count"].item() for name, each in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("rows", [1, 2, 5, 12])
def test_any_split_gives_the_gradient_of_both_means(batch: dict[str, Tensor], rows: int) -> None:
    model = make()
    guesses = model(batch["ids"], **inputs_of(batch))
    expected = cross_entropy(guesses.tokens.flatten(0, 1), batch["targets"].flatten())
    (expected + cross_entropy(guesses.next_sentence, batch["next_sentence"])).backward()
    whole = {name: each.grad.clone() for name, each in model.named_parameters()}
    model.zero_grad()
    assert largest_error(gradient(model, batch, rows), whole) < 1e-12


def test_a_mean_of_means_would_be_found_out(batch: dict[str, Tensor]) -> None:
    """The halves hide different numbers of tokens: dividing each by its own is another gradient."""
    model = make()
    whole = gradient(model, batch, 12)
    halves = [
        gradient(model, {name: value[part] for name, value in batch.items()}, 12) for part in (slice(4), slice(4, 12))
    ]
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in whole}
    assert largest_error(mean, whole) > 0.01


def test_without_second_spans_only_tokens_are_guessed(batch: dict[str, Tensor]) -> None:
    both, alone = make(), make(MaskedConfig)
    alone.load_state_dict(both.state_dict(), strict=False)
    tokens = {name: value for name, value in batch.items() if name != "next_sentence"}
    loss = Masked().loss(alone, tokens, None, 0)
    assert loss.total.item() == pytest.approx(Masked().loss(both, batch, None, 0).sums["masked_loss"].item(), abs=1e-10)


def test_packed_documents_learn_as_if_alone() -> None:
    model, ids = make(MaskedConfig), torch.randint(258, (1, 15))
    targets = torch.full_like(ids, IGNORE)
    targets[0, [1, 4, 9, 14]] = ids[0, [1, 4, 9, 14]]
    documents = torch.tensor([[0] * 6 + [1] * 9])
    packed = Masked().loss(model, {"ids": ids, "targets": targets, "documents": documents}, None, 0)
    parts = [{"ids": ids[:, part], "targets": targets[:, part]} for part in (slice(6), slice(6, 15))]
    alone = sum(Masked().loss(model, part, None, 0).total for part in parts)
    torch.testing.assert_close(packed.total, alone, rtol=0, atol=1e-10)


def test_dropout_leaves_the_count_alone(batch: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    model = build(replace(PretrainingConfig(**SIZE), dropout=0.5)).train()
    assert Masked().loss(model, batch, None, 0).count == (batch["targets"] != IGNORE).sum()
