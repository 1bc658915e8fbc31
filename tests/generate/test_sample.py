"""Choosing tokens: the filters against transformers' processors, and the draws against their probabilities."""

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from bedplate.errors import UserError
from bedplate.generate.sample import Sampling, choose, keep_top_k, keep_top_p, penalize


def logits(batch: int = 4, vocab: int = 50) -> torch.Tensor:
    return torch.randn(batch, vocab, generator=torch.Generator().manual_seed(0)) * 3


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("k", [1, 2, 7, 49, 50, 99])
def test_top_k_equals_transformers(k: int) -> None:
    x = logits()
    torch.testing.assert_close(keep_top_k(x, k), TopKLogitsWarper(k)(None, x), rtol=0, atol=0)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.8, 0.9, 0.999])
def test_top_p_equals_transformers(p: float) -> None:
    x = logits()
    torch.testing.assert_close(keep_top_p(x, p), TopPLogitsWarper(p)(None, x), rtol=0, atol=0)


@pytest.mark.parametrize(("p", "kept"), [(0.8, 3), (0.9, 3), (0.95, 4), (0.97, 5)])
def test_top_p_keeps_the_token_that_crosses_the_border(p: float, kept: int) -> None:
    x = torch.tensor([[0.5, 0.25, 0.15, 0.06, 0.04]], dtype=torch.float64).log()
    if p == 0.9:
        p = 0.9 - 1e-9  # the third token reaches 0.9 exactly; rounding must not decide the test
    assert int(keep_top_p(x, p).isfinite().sum()) == kept


@pytest.mark.parametrize("penalty", [0.5, 1.3, 5.0])
def test_penalty_equals_transformers(penalty: float) -> None:
    x, history = logits(), [[1, 2, 2, 3], [4, 4, 4, 4], [0, 49, 7, 7], [9, 8, 7, 6]]
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(history), x.clone())
    torch.testing.assert_close(penalize(x, history, penalty=penalty), expected, rtol=0, atol=0)


def test_draws_follow_the_distribution() -> None:
    x = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    (generator,) = generators(0)
    draws = [choose(x, Sampling(), histories=[[0]], generators=[generator])[0] for _ in range(4000)]
    shares = torch.bincount(torch.tensor(draws), minlength=4) / 4000
    # Four standard errors of the largest share: 4 sqrt(0.25 / 4000).
    torch.testing.assert_close(shares, x.exp()[0], rtol=0, atol=0.032)


def test_filtered_tokens_are_never_drawn() -> None:
    x = logits(batch=1) / 2
    allowed = set(keep_top_p(keep_top_k(x / 2.0, 5), 0.7).isfinite().nonzero()[:, 1].tolist())
    (generator,) = generators(3)
    sampling = Sampling(temperature=2.0, top_k=5, top_p=0.7)
    drawn = {choose(x, sampling, histories=[[0]], generators=[generator])[0] for _ in range(300)}
    assert drawn == allowed and 1 < len(allowed) <= 5


def test_a_row_does_not_depend_on_its_neighbors() -> None:
    x = logits()
    together = choose(x, Sampling(), histories=[[0]] * 4, generators=generators(5, 6, 7, 8))
    alone = [choose(x[i : i + 1], Sampling(), histories=[[0]], generators=generators(5 + i))[0] for i in range(4)]
    assert together == alone


def test_zero_temperature_takes_the_first_of_the_likeliest() -> None:
    x = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    assert choose(x, Sampling(temperature=0), histories=[[0]], generators=generators(0)) == [1]


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5},
     {"repetition_penalty": 0.0}],
)  # fmt: skip
def test_senseless_settings_are_user_errors(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        Sampling(**settings)  # type: ignore[arg-type]
