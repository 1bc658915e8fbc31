"""What is shown of a head is what its layer computed, under every bias; and a layer that cheats is found out."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bedplate.cli import main
from bedplate.errors import UserError
from bedplate.evaluate.attention import explain_head
from bedplate.generate.text import IdsOnly
from bedplate.models import build, gpt1, gpt2
from bedplate.nn import attention
from bedplate.nn.attention import Attention
from bedplate.nn.position import CAUSAL, Alibi, Causal, rotary

SIZES = {"vocab_size": 300, "context_length": 40, "dim": 32, "num_layers": 3, "num_heads": 4}
POSITIONS = torch.arange(9)[None]
BIASES = {
    "everything": None,
    "causal": CAUSAL,
    "window": Causal(window=3),
    "linear": Alibi(torch.tensor([0.5, 0.25, 0.1, 0.0])),
    "allowed": torch.ones(1, 1, 9, 9, dtype=torch.bool).tril(),
    "by head": torch.randn(1, 4, 9, 9, generator=torch.Generator().manual_seed(0)),
}


class Words(IdsOnly):
    """Every character is a token."""

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Any) -> str:
        return "".join(map(chr, ids))


class OneLayer(nn.Module):
    """Attention under a given bias, with rotated and shared keys."""

    def __init__(self, bias: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(context_length=20)
        self.embedding = nn.Embedding(300, 16)
        self.layer = Attention(16, 4, num_kv_heads=2, scale=0.7)
        self.bias = bias

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.layer(self.embedding(ids), bias=self.bias, rotary=rotary(POSITIONS, 4))


@pytest.mark.parametrize("bias", BIASES.values(), ids=BIASES)
@pytest.mark.parametrize("head", range(4))
def test_every_bias_and_shared_keys(bias: Any, head: int) -> None:
    torch.manual_seed(0)
    found = explain_head(OneLayer(bias), Words(300), "nine long", layer=0, head=head)
    assert found.error < 1e-6 and found.query.shape == (9, 4) and found.weights.shape == (9, 9)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(9).double())
    torch.testing.assert_close(found.weights @ found.value, found.mixed)


@pytest.mark.parametrize("config", [gpt2.Config(**SIZES), gpt1.Config(**SIZES)], ids=["gpt2", "gpt1"])
def test_models_of_ours(config: Any) -> None:
    torch.manual_seed(0)
    model = build(config)
    found = explain_head(model, Words(300), "a text", layer=2, head=3)
    assert model.training and found.tokens == list("a text")
    assert not found.weights.triu(1).any() and found.scores.triu(1).isneginf().sum() == 15
    rows = found.row(4)
    assert len(rows) == 7 and rows[-1]["softmax"] == pytest.approx(1) and rows[5]["softmax"] == 0
    mixed = sum(torch.tensor(row["value"]) * row["softmax"] for row in rows[:-1])
    torch.testing.assert_close(mixed, torch.tensor(rows[-1]["value"]))


def test_a_layer_that_computes_otherwise_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *parts, **options: real(*parts, **options) * 1.0001)
    with pytest.raises(UserError, match="another output than layer 1"):
        explain_head(build(gpt2.Config(**SIZES)), Words(300), "a text", layer=1, head=0)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"layer": 3, "head": 0}, "no layer 3; choose one from 0 to 2"),
        ({"layer": 0, "head": -1}, "no head -1"),
        ({"layer": 0, "head": 0, "text": ""}, "0 tokens"),
        ({"layer": 0, "head": 0, "text": "x" * 41}, "41 tokens"),
    ],
)
def test_mistakes_are_said(options: dict[str, Any], problem: str) -> None:
    model = build(gpt2.Config(**SIZES))
    with pytest.raises(UserError, match=problem):
        explain_head(model, Words(300), **{"text": "a text"} | options)
    with pytest.raises(UserError, match="no attention"):
        explain_head(nn.Linear(2, 2), Words(300), "a", layer=0, head=0)


def test_the_command_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, table = tmp_path / "heads.png", tmp_path / "rows.json"
    words = ["explain", "attention", "gpt2-tiny", "The $open$ function", "--layer", "1", "--head", "2"]
    assert main([*words, "--out", str(picture), "--json", str(table)]) == 0
    printed = capsys.readouterr().out
    assert "softmax" in printed and "sum" in printed and picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(table.read_text())
    assert found["error"] < 1e-6 and len(found["rows"]) == len(found["weights"]) + 1
    assert main([*words, "--token", "99"]) == 2 and "choose --token from 0" in capsys.readouterr().err
