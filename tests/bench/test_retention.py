"""What RetNet's forms give is measured on equal models: both sides of reading give the same features."""

from typing import Any

import pytest
import torch

from bedplate.bench import retention
from bedplate.models.retnet import SIZES, Config

TINY = Config(vocab_size=50, context_length=32, dim=24, num_layers=2, num_heads=3, value_dim=48, mlp_dim=48)


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)
    found: list[Any] = []
    features = retention.RetNet.features
    monkeypatch.setattr(retention.RetNet, "features", lambda *a, **k: found.append(features(*a, **k)) or found[-1])
    rows = retention.bench("tiny", repeats=1, read=200, far=300, watch=lambda line: None)
    assert [row["peer name"] for row in rows] == ["parallel form", "at position 64"]
    assert all(row["ratio"] > 0 for row in rows)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert not torch.equal(found[0], found[1])  # not by the same form
