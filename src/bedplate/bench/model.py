"""`bedplate bench model`: forward passes and training steps of one model beside transformers on equal weights, and
beside the same model without the biases that tell positions, where it has any.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from bedplate.bench.measure import Row, take_turns
from bedplate.errors import UserError, require
from bedplate.models import bert, bloom, build, published_sizes, save_pretrained, t5, table_of
from bedplate.nn.attend import Bias
from bedplate.nn.fast.linear_cross_entropy import IGNORE
from bedplate.nn.position import CAUSAL, within_documents
from bedplate.objectives.masked import Masked, inputs_of
from bedplate.objectives.next_token import NextToken
from bedplate.objectives.objective import Batch, Objective
from bedplate.objectives.sequence_to_sequence import SequenceToSequence
from bedplate.train import ranks
from bedplate.train.loop import Settings, accumulate
from bedplate.train.optimizer import AdamW, clip_gradients
from bedplate.train.parallel import Work
from bedplate.train.precision import autocast

LAYERS, VOCAB = 6, 32_768  # that are left of a BLOOM: 250,880 tokens would hide what its blocks take
HIDDEN = 0.15  # of BERT's tokens


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is measured."""

    size: str = "bert-base"
    precision: str = "fp32"
    batch: int = 8
    length: int = 128


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of one file are measured."""

    cut: Callable[[Any], Any]  # a published configuration to the one that is measured
    batch: Callable[[Any, Cell], Batch]
    objective: Objective
    forward: Callable[[Any, Batch], Any]  # our model's
    inputs: Callable[[Batch], dict[str, Tensor]]  # of their model
    labels: Callable[[Batch], dict[str, Tensor]]  # with which it gives a loss
    part: str = ""  # of either model that is called for a forward pass; all of it
    unbiased: Callable[[Any], nn.Module] | None = None  # our model without biases of position


def bench(cell: Cell, *, repeats: int, watch: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """A row for each comparison: forward pass and training step beside transformers, and beside no biases."""
    config = published_sizes()[cell.size]
    family = next((family for kind, family in FAMILIES.items() if isinstance(config, kind)), None)
    if family is None:
        raise UserError(f"{cell.size} is not measured", fix="name a size of BERT, T5 or BLOOM; train measures decoders")
    torch.manual_seed(0)
    model = build(family.cut(config)).to(ranks.device())
    batch = {name: value.to(ranks.device()) for name, value in family.batch(model.config, cell).items()}
    peers: dict[str, Ours] = {"transformers": Theirs(_reference(model), family, batch, cell)}
    if family.unbiased is not None:
        twin = family.unbiased(model.config).to(ranks.device())
        twin.load_state_dict(model.state_dict())
        peers["no bias"] = Ours(twin, family, batch, cell)
    rows = []
    for name, peer in peers.items():
        ours = Ours(model, family, batch, cell)
        sides = {"forward": (ours.forward, peer.forward), "training": (ours.step, peer.step)}
        for what, pair in sides.items():
            watch(f"{what} of {cell.size} beside {name} ...")
            rows.append(_row(f"{what} {cell.size} {cell.precision} {cell.batch}x{cell.length}", batch, pair, repeats))
            rows[-1]["peer name"] = name
    return rows


def _row(name: str, batch: Batch, sides: tuple[Callable[[], object], ...], repeats: int) -> dict[str, Any]:
    tokens = batch["ids"].numel() + (batch["source"].numel() if "source" in batch else 0)
    ours, peer = (tokens / seconds for seconds in take_turns(*sides, repeats=repeats))
    return Row(name=name, ours=ours, peer=peer, unit="tokens/s", higher_is_better=True).line()


class Ours:
    """Our model, with a step as the training loop makes it."""

    def __init__(self, model: nn.Module, family: Family, batch: Batch, cell: Cell) -> None:
        self.model, self.family, self.batch, self.cell = model, family, batch, cell
        self.work = Work(model, precision=cell.precision)
        self.optimizer = AdamW(lr=1e-5).build(model)

    def forward(self) -> Any:
        """What the model gives for the batch."""
        self.model.eval()
        with torch.inference_mode(), autocast(self.cell.precision, ranks.device()):
            return self.call(self.model.get_submodule(self.family.part))

    def call(self, model: Any) -> Any:
        """The output of the model or its part."""
        return self.family.forward(model, self.batch)

    def step(self) -> float:
        """One update; returns the loss before it."""
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.gradients()
        clip_gradients(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss

    def gradients(self) -> float:
        """Put them beside the parameters; returns the loss."""
        settings = Settings(steps=1, micro_batch_size=self.cell.batch, precision=self.cell.precision)
        sums = accumulate(self.work, self.family.objective, self.batch, 0, settings)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(sums["count"].item())
        return sums["loss"].item() / sums["count"].item()


class Theirs(Ours):
    """transformers' model, with a step as its documentation shows it."""

    def call(self, model: Any) -> Any:
        """The output of the model or its part."""
        return model(**self.family.inputs(self.batch))

    def gradients(self) -> float:
        """Put them beside the parameters; returns the loss."""
        with autocast(self.cell.precision, ranks.device()):
            loss = self.model(**self.family.inputs(self.batch), **self.family.labels(self.batch)).loss
        loss.backward()
        return loss.item()


def _reference(model: Any) -> nn.Module:
    """transformers' model with the same weights."""
    transformers = require("transformers", extra="dev")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, Path(folder))
        theirs = getattr(transformers, table_of(model).architecture)
        return theirs.from_pretrained(folder).to(ranks.device())


def _pairs(config: t5.Config, cell: Cell) -> Batch:
    """Sources of all lengths from a quarter up, filled up; targets half as long as rows."""
    chance = torch.Generator().manual_seed(0)
    source = torch.randint(config.vocab_size, (cell.batch, cell.length), generator=chance)
    targets = torch.randint(config.vocab_size, (cell.batch, cell.length // 2), generator=chance)
    ids = torch.cat((torch.full_like(targets[:, :1], config.start_id), targets[:, :-1]), dim=1)
    return {"source": source, "mask": _mask(cell), "ids": ids, "targets": targets}


def _hidden(config: bert.Config, cell: Cell) -> Batch:
    """Two spans of random tokens in each row, of which some are hidden."""
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (cell.batch, cell.length), generator=chance)
    mask = _mask(cell)
    hidden = (torch.rand(ids.shape, generator=chance) < HIDDEN) & mask
    return {
        "ids": ids, "mask": mask, "segments": ((torch.arange(cell.length) >= cell.length // 2) & mask).long(),
        "targets": torch.where(hidden, ids, IGNORE), "next_sentence": torch.arange(cell.batch) % 2,
        "hidden_per_row": (hidden.sum().double() / cell.batch).repeat(cell.batch),
    }  # fmt: skip


def _mask(cell: Cell) -> Bool[Tensor, "batch length"]:
    """Rows from a quarter of the length up to all of it."""
    lengths = (torch.linspace(0.25, 1, cell.batch) * cell.length).round()
    return torch.arange(cell.length) < lengths[:, None]


def _texts(config: bloom.Config, cell: Cell) -> Batch:
    chance = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (cell.batch, cell.length + 1), generator=chance)
    return {"ids": tokens[:, :-1].contiguous(), "targets": tokens[:, 1:].contiguous()}


class UnbiasedBLOOM(bloom.BLOOM):
    """To which all earlier tokens are equally near."""

    def bias(self, documents: Int[Tensor, "batch length"] | None) -> Bias:
        """Only what a token may see."""
        return CAUSAL if documents is None else within_documents(documents)


class UnbiasedT5(t5.T5):
    """To which all tokens are equally near."""

    def source_bias(self, length: int, *, mask: Bool[Tensor, "batch source"] | None) -> Bias:
        """Only what a token may see."""
        return None if mask is None else mask[:, None, None]

    def own_bias(self, queries: Int[Tensor, "#batch query"], keys: Int[Tensor, " key"]) -> Bias:
        """Only what a token may see."""
        return CAUSAL


FAMILIES: dict[type, Family] = {
    bert.Config: Family(
        cut=lambda config: bert.PretrainingConfig(**vars(config) | {"dropout": 0.0, "attention_dropout": 0.0}),
        batch=_hidden,
        objective=Masked(),
        forward=lambda model, batch: model(batch["ids"], **inputs_of(batch)),
        part="bert",
        inputs=lambda batch: {
            "input_ids": batch["ids"], "token_type_ids": batch["segments"], "attention_mask": batch["mask"],
        },
        labels=lambda batch: {"labels": batch["targets"], "next_sentence_label": batch["next_sentence"]},
    ),
    t5.Config: Family(
        cut=lambda config: replace(config, dropout=0.0),
        batch=_pairs,
        objective=SequenceToSequence(),
        forward=lambda model, batch: model(batch["source"], batch["ids"], mask=batch["mask"]),
        inputs=lambda batch: {
            "input_ids": batch["source"], "attention_mask": batch["mask"].long(), "decoder_input_ids": batch["ids"],
        },
        labels=lambda batch: {"labels": batch["targets"]},
        unbiased=UnbiasedT5,
    ),
    bloom.Config: Family(
        cut=lambda config: replace(
            config, num_layers=min(LAYERS, config.num_layers), vocab_size=min(VOCAB, config.vocab_size)
        ),
        batch=_texts,
        objective=NextToken(),
        forward=lambda model, batch: model(batch["ids"]),
        inputs=lambda batch: {"input_ids": batch["ids"]},
        labels=lambda batch: {"labels": batch["ids"], "shift_labels": batch["targets"]},
        unbiased=UnbiasedBLOOM,
    ),
}  # fmt: skip
