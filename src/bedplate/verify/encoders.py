"""The numeric contracts of encoders, which see both sides, have no cache and write nothing."""

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bedplate.models import save_pretrained, table_of
from bedplate.nn.fast.linear_cross_entropy import IGNORE
from bedplate.objectives.masked import Masked, inputs_of
from bedplate.objectives.objective import Batch, Loss, Objective
from bedplate.verify.contracts import (
    EQUAL_BITS,
    ROUNDING,
    Contract,
    accumulated_as_whole,
    loaded_equals_saved,
    resumed_as_uninterrupted,
)
from bedplate.verify.inputs import NotApplicable, context_of, double, random_ids
from bedplate.verify.trace import Pairs, recording


def padded_equals_alone(model: Any) -> Pairs:
    """Rows of different lengths, filled up and masked = each row alone."""
    model, batch = double(model), _padded(model)
    together = outputs(model, batch)
    pairs: Pairs = []
    for row, length in enumerate(batch["mask"].sum(dim=1).tolist()):
        alone = {name: value[row : row + 1, :length] for name, value in batch.items() if name != "mask"}
        for name, value in outputs(model, alone).items():
            whole = together[name][row : row + 1]
            pairs.append((f"{name} of row {row}", whole[:, :length] if whole.ndim == 3 else whole, value))
    return pairs


def packed_equals_unpacked(model: Any) -> Pairs:
    """Texts packed into one row = each in a row of its own."""
    model = double(model)
    encoder = getattr(model, "bert", model)
    if context_of(model) < 3:
        raise NotApplicable("three packed texts need a context of 3 tokens")
    lengths = [min(length, context_of(model) // 3) for length in (9, 1, 5)]
    ids = random_ids(model, (1, sum(lengths)))
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    with torch.no_grad(), recording(encoder) as packed:
        encoder(ids, documents=documents)
    pairs: Pairs = []
    for number, part in enumerate(ids.split(lengths, dim=1)):
        with torch.no_grad(), recording(encoder) as alone:
            encoder(part)
        start = sum(lengths[:number])
        row = {name: value[:, start : start + lengths[number]] for name, value in packed.joined().items()}
        pairs += [(f"{name} of text {number}", row[name], value) for name, value in alone.joined().items()]
    return pairs


def accumulated_equals_whole(model: nn.Module) -> Pairs:
    """Gradients of a batch computed row by row = at once, also when rows hide different numbers of tokens."""
    return accumulated_as_whole(model, _objective_of(model), _learned(model))


def resumed_equals_uninterrupted(model: nn.Module) -> Pairs:
    """Training stopped and resumed from its checkpoint = never stopped: weights and optimizer, bit for bit."""
    return resumed_as_uninterrupted(model, _objective_of(model), _learned(model), dims=0)


def equals_reference(model: Any) -> Pairs:
    """What the exported folder gives in transformers = ours, and so the gradient of the embedding."""
    if importlib.util.find_spec("transformers") is None:
        raise NotApplicable("transformers is not installed")
    import transformers
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model, batch = double(model), _padded(model)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, Path(folder))
        kind = getattr(transformers, table_of(model).architecture)
        reference = kind.from_pretrained(folder, dtype=torch.float64).eval()
    theirs = reference(batch["ids"], attention_mask=batch["mask"].long(), token_type_ids=batch["segments"])
    found, expected = list(outputs(model, batch).values()), list(theirs.values())
    if expected[0].ndim < found[0].ndim:  # begin and end of a span, which are two columns of ours
        expected = [torch.stack(expected, dim=-1)]
    expected = expected[: len(found)]  # theirs makes up a pooler where the folder has none
    real = [each[batch["mask"]] if each.ndim == 3 else each for each in (*found, *expected)]
    for each in real:
        each.square().sum().backward(retain_graph=True)
    gradient = getattr(model, "bert", model).token_embedding.weight.grad
    halves = zip(real[: len(found)], real[len(found) :], strict=True)
    pairs: Pairs = [(f"output {place}", *both) for place, both in enumerate(halves)]
    return [*pairs, ("embedding gradient", gradient, reference.get_input_embeddings().weight.grad)]


ENCODER_CONTRACTS = (
    Contract(name="padded = alone", bound=ROUNDING, pairs=padded_equals_alone),
    Contract(name="packed = unpacked", bound=ROUNDING, pairs=packed_equals_unpacked),
    Contract(name="accumulated = whole batch", bound=ROUNDING, pairs=accumulated_equals_whole),
    Contract(name="loaded = saved", bound=EQUAL_BITS, pairs=loaded_equals_saved),
    Contract(name="resumed = uninterrupted", bound=EQUAL_BITS, pairs=resumed_equals_uninterrupted),
    Contract(name="reference", bound=ROUNDING, pairs=equals_reference),
)


def outputs(model: Any, batch: Batch) -> dict[str, Tensor]:
    """What a model gives, by name."""
    found = model(batch["ids"], **inputs_of(batch))
    return {"output": found} if isinstance(found, Tensor) else dict(vars(found))


@dataclass(frozen=True)
class Squares:
    """The sum of all outputs' squares, a row at a time: it reaches every parameter of a model without pre-training."""

    def loss(self, model: Any, batch: Batch, companion: nn.Module | None, step: int) -> Loss:
        """A sum over rows."""
        total = torch.stack([each.square().sum() for each in outputs(model, {"ids": batch["ids"]}).values()]).sum()
        return Loss(total=total, count=torch.tensor(len(batch["ids"])))


def _objective_of(model: nn.Module) -> Objective:
    return Masked() if hasattr(model, "masked_head") else Squares()


def _padded(model: Any) -> dict[str, Tensor]:
    """Rows of different lengths. Id 0 fills up, and nothing else, for transformers takes no gradient from it."""
    width = min(13, context_of(model))
    lengths = torch.tensor([[width], [max(1, width // 2)], [1]])
    mask = torch.arange(width) < lengths
    ids = random_ids(model, (3, width)).clamp(min=min(1, model.config.vocab_size - 1)) * mask
    segments = (torch.arange(width) >= lengths // 2) & mask & (model.config.num_segments > 1)
    return {"ids": ids, "segments": segments.long(), "mask": mask}


def _learned(model: Any) -> dict[str, Tensor]:
    """Four rows, of which some tokens are hidden, not equally many in each."""
    ids = random_ids(model, (4, min(16, context_of(model))))
    hidden = torch.arange(ids.shape[1]) % 5 < torch.arange(1, 5)[:, None]
    batch = {"ids": ids, "targets": torch.where(hidden, ids, IGNORE), "mask": torch.ones_like(hidden)}
    if not hasattr(model, "next_sentence"):
        return batch
    return batch | {"next_sentence": torch.arange(4) % 2, "hidden_per_row": (hidden.sum() / 4).double().repeat(4)}
