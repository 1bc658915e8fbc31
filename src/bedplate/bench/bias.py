"""`bedplate bench bias`: what ALiBi costs BLOOM, beside the same weights without positions and beside transformers.

The published size is cut to a few blocks and a small vocabulary: 250,880 tokens would hide what attention takes.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bedplate.bench.measure import Row, take_turns
from bedplate.errors import UserError, require
from bedplate.models import bloom
from bedplate.models.bloom import BLOOM, HF
from bedplate.nn.attend import Bias
from bedplate.nn.position import CAUSAL, within_documents
from bedplate.objectives.next_token import NextToken
from bedplate.train import ranks
from bedplate.train.loop import Settings, accumulate
from bedplate.train.optimizer import AdamW, clip_gradients
from bedplate.train.parallel import Work

LAYERS, VOCAB = 6, 32_768  # that are left of a published size
DOCUMENTS = 4  # packed into a row
Side = Callable[[], object]


class Unbiased(BLOOM):
    """The same model, to which all earlier tokens are equally near."""

    def bias(self, documents: Int[Tensor, "batch length"] | None) -> Bias:
        """Only what a token may see."""
        return CAUSAL if documents is None else within_documents(documents)


def run(
    size: str, *, batch: int, length: int, repeats: int = 5, watch: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Forward pass and training step: beside no bias, on packed documents too, and beside transformers."""
    if size not in bloom.SIZES:
        raise UserError(f"{size} has no linear biases", fix=f"use one of {', '.join(bloom.SIZES)}")
    config = bloom.SIZES[size]
    config = replace(config, num_layers=min(LAYERS, config.num_layers), vocab_size=min(VOCAB, config.vocab_size))
    tokens = torch.randint(config.vocab_size, (batch, length + 1), generator=torch.Generator().manual_seed(0))
    data = {"ids": tokens[:, :-1].to(ranks.device()), "targets": tokens[:, 1:].to(ranks.device())}
    documents = torch.arange(length, device=ranks.device()).expand(batch, -1) * DOCUMENTS // length
    packed = data | {"documents": documents}
    torch.manual_seed(0)
    ours = BLOOM(config).to(ranks.device()).train()
    rows = []
    name = f"{size}, {config.num_layers} blocks, {config.vocab_size:,} tokens, {batch}x{length}"
    for against, peer in (("no bias", _unbiased), ("transformers", _reference)):
        other = peer(ours)
        cases = {
            "forward": (forward(ours, data), forward(other, data)),
            "training": (step(ours, data), step(other, data)),
        }
        if against == "no bias":
            cases["training, packed"] = step(ours, packed), step(other, packed)
        for what, sides in cases.items():
            watch(f"{what} beside {against} ...")
            speeds = [batch * length / seconds for seconds in take_turns(*sides, repeats=repeats)]
            row = Row(name=f"{what} {name}", ours=speeds[0], peer=speeds[1], unit="tokens/s", higher_is_better=True)
            rows.append(row.line() | {"peer name": against})
    return rows


def forward(model: nn.Module, data: dict[str, Tensor]) -> Side:
    """Logits of a batch."""

    def side() -> None:
        with torch.inference_mode():
            model(data["ids"])

    return side


def step(model: Any, data: dict[str, Tensor]) -> Side:
    """One step: as the training loop makes it, and for transformers' model as its documentation shows."""
    optimizer = AdamW().build(model)

    def ours() -> None:
        sums = accumulate(Work(model), NextToken(), data, 0, Settings(steps=1, micro_batch_size=len(data["ids"])))
        for parameter in model.parameters():
            parameter.grad.div_(sums["count"].item())
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def theirs() -> None:
        model(input_ids=data["ids"], labels=data["ids"], shift_labels=data["targets"].contiguous()).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return ours if isinstance(model, BLOOM) else theirs


def _unbiased(model: BLOOM) -> BLOOM:
    other = Unbiased(model.config).to(ranks.device()).train()
    other.load_state_dict(model.state_dict())
    return other


def _reference(model: BLOOM) -> nn.Module:
    """transformers' model with the same weights, which give the same logits."""
    transformers = require("transformers", extra="dev")
    transformers.utils.logging.set_verbosity_error()
    reference = transformers.BloomForCausalLM(transformers.BloomConfig(**HF.config_to(model.config)))
    reference.load_state_dict(HF.to_theirs(dict(model.state_dict()), model.config), strict=False)
    reference.tie_weights()
    reference.to(ranks.device()).train()
    ids = torch.arange(32, device=ranks.device())[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids), reference(ids).logits, rtol=1e-3, atol=1e-3)
    return reference
