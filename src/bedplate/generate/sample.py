"""From logits to the next token."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from bedplate.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen, applied in this order: penalties, bias, temperature, top-k, top-p.

    top_p keeps the token that crosses the border, as Holtzman et al. (2020) and transformers do; the code released with
    GPT-2 drops it. A temperature of 0 takes the likeliest token, the lowest id among equals.
    """

    temperature: float = 1.0
    top_k: int = 0  # 0 = off
    top_p: float = 1.0  # 1 = off
    repetition_penalty: float = 1.0  # Keskar et al. 2019 (CTRL), section 4.1; over prompt and text so far
    presence_penalty: float = 0.0  # taken from the logit of every token written so far (the prompt does not count)
    frequency_penalty: float = 0.0  # taken once for each time that the token was written
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # added to the logits of these ids; -inf forbids

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}", fix="give 0 (likeliest token) or more")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}", fix="give a number of tokens, or 0 to switch it off")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}", fix="give a probability above 0 and up to 1")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(f"repetition_penalty is {self.repetition_penalty}", fix="give a factor above 0; 1 is none")
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a number; 0 is none")
        for token, bias in self.logit_bias.items():
            if math.isnan(bias) or bias == math.inf:
                raise UserError(f"the logit bias of token {token} is {bias}", fix="give a number, or -inf to forbid it")

    @property
    def plain(self) -> bool:
        """Whether the logits stay as they are until temperature and filters."""
        penalties = self.repetition_penalty, self.presence_penalty, self.frequency_penalty
        return penalties == (1, 0, 0) and not self.logit_bias


def choose(
    logits: Float[Tensor, "batch vocab"],
    sampling: Sampling,
    *,
    histories: Sequence[Sequence[int]],
    generators: Sequence[torch.Generator],
    starts: Sequence[int] | None = None,
) -> list[int]:
    """One token for each row; each row draws from its own generator, so that it does not depend on its neighbors.

    `histories` are the ids so far, of which the first `starts[row]` (by default all) are the prompt. A row gets -1 when
    nothing can be chosen: penalties and biases have forbidden every token, or led beyond all numbers.
    """
    if not sampling.plain:
        starts = [len(history) for history in histories] if starts is None else starts
        logits = adjust(logits, sampling, histories=histories, starts=starts)
    best, likeliest = logits.max(dim=-1, keepdim=True)
    if sampling.temperature == 0:
        return likeliest.where(best.isfinite(), -1).squeeze(1).tolist()
    # In float64, so that rounding hardly matters, and with the likeliest at 0, so that no temperature overflows.
    logits = logits.double()
    logits = (logits - best.double()) / sampling.temperature
    logits = keep_top_p(keep_top_k(logits, sampling.top_k), sampling.top_p)
    # One uniform number a row, looked up in the cumulative distribution.
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    draws = torch.cat([torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators])
    total = cumulative[:, -1:]
    targets = (draws[:, None].to(logits.device) * total).minimum(total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, targets, right=True).where(best.isfinite(), -1).squeeze(1).tolist()


def keep_top_k(logits: Float[Tensor, "batch vocab"], k: int) -> Float[Tensor, "batch vocab"]:
    """Only the k likeliest tokens and those equal to the last of them; 0 keeps all."""
    if not 0 < k < logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    """The smallest set of likeliest tokens that reaches p, and tokens equal to the last of them; 1 keeps all."""
    if p >= 1:
        return logits
    probabilities = logits.softmax(dim=-1)
    # Tokens below this share do not reach 1 - p even together, so the set lies among the others: few need sorting.
    share = (1 - p) / logits.shape[-1]
    candidates = max(1, int((probabilities >= share).sum(dim=-1).max()))
    ordered = probabilities.topk(candidates, dim=-1).values
    before = ordered.cumsum(dim=-1) - ordered
    least = ordered.masked_fill(before >= p, torch.inf).amin(dim=-1, keepdim=True)
    return logits.masked_fill(probabilities < least, -torch.inf)


def adjust(
    logits: Float[Tensor, "batch vocab"],
    sampling: Sampling,
    *,
    histories: Sequence[Sequence[int]],
    starts: Sequence[int],
) -> Float[Tensor, "batch vocab"]:
    """Penalties and bias. Biases of ids that the vocabulary lacks are without effect."""
    logits = penalize(logits, histories, penalty=sampling.repetition_penalty)
    vocab = logits.shape[-1]
    if sampling.presence_penalty or sampling.frequency_penalty:
        for row, (history, start) in enumerate(zip(histories, starts, strict=True)):
            counts = torch.bincount(torch.tensor(history[start:], dtype=torch.long), minlength=vocab).to(logits.device)
            logits[row] -= sampling.presence_penalty * (counts > 0) + sampling.frequency_penalty * counts
    biases = {token: bias for token, bias in sampling.logit_bias.items() if 0 <= token < vocab}
    if biases:
        logits[:, list(biases)] += torch.tensor(list(biases.values()), dtype=logits.dtype, device=logits.device)
    return logits


def penalize(
    logits: Float[Tensor, "batch vocab"], histories: Sequence[Sequence[int]], *, penalty: float
) -> Float[Tensor, "batch vocab"]:
    """Divide positive, multiply negative logits of tokens that occurred, once however often they did."""
    logits = logits.clone()
    for row, history in enumerate(histories):
        seen = torch.tensor(history, device=logits.device)  # repeats write the same value again
        scores = logits[row, seen]
        logits[row, seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits
