"""What ALiBi costs: every row is there, and sides that compute different things are not compared."""

import pytest
import torch

from bedplate.bench import bias
from bedplate.bench.bias import Unbiased, run
from bedplate.errors import UserError
from bedplate.models import bloom
from bedplate.models.bloom import BLOOM, Config

MINI = Config(vocab_size=50, context_length=64, dim=24, num_layers=2, num_heads=3)


def test_rows_beside_no_bias_and_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bloom, "SIZES", {"mini": MINI})
    rows = run("mini", batch=2, length=16, repeats=1, watch=lambda line: None)
    assert [row["peer name"] for row in rows] == ["no bias"] * 3 + ["transformers"] * 2
    assert all(row["ratio"] == row["ours"] / row["peer"] > 0 for row in rows)
    with pytest.raises(UserError, match="gpt2 has no linear biases"):
        run("gpt2", batch=1, length=8)


def test_the_twin_differs_in_nothing_but_positions() -> None:
    """Without them the order of what came before does not matter to the last token, with them it does."""
    torch.manual_seed(0)
    ours, ids = BLOOM(Config(**vars(MINI) | {"num_layers": 1})).double(), torch.randint(50, (1, 9))
    other = bias._unbiased(ours).double()
    assert isinstance(other, Unbiased)
    turned = torch.cat((ids[:, :8].flip(1), ids[:, 8:]), dim=1)
    for model, moves in ((ours, True), (other, False)):
        assert bool((model(ids)[0, -1] - model(turned)[0, -1]).abs().max() > 1e-9) == moves
