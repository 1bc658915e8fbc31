"""The benchmark of models compares equal work: both sides have the same weights, so the same outputs and losses."""

from typing import Any

import pytest
import torch

from bedplate.bench import model as benchmark
from bedplate.bench.model import Cell, UnbiasedBLOOM, UnbiasedT5, bench
from bedplate.cli import main
from bedplate.models import bert, bloom, t5

TINY: dict[str, Any] = {
    "bert": bert.PooledConfig(vocab_size=60, context_length=16, dim=16, num_layers=2, num_heads=2, mlp_dim=32),
    "t5": t5.Config(vocab_size=60, dim=16, num_layers=2, num_decoder_layers=2, num_heads=2, head_dim=8, mlp_dim=32),
    "bloom": bloom.Config(vocab_size=60, context_length=64, dim=24, num_layers=2, num_heads=3),
}
ROWS = {"bert": ["transformers"] * 2, "t5": ["transformers", "transformers", "no bias", "no bias"]}


@pytest.mark.parametrize("name", TINY)
def test_both_sides_do_the_same_work(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    given: list[tuple[Any, Any]] = []

    def once(ours: Any, peer: Any, *, repeats: int) -> tuple[float, float]:
        given.append((ours(), peer()))
        return 1.0, 2.0

    monkeypatch.setattr(benchmark, "published_sizes", lambda: TINY)
    monkeypatch.setattr(benchmark, "take_turns", once)
    rows = bench(Cell(size=name, batch=4, length=16), repeats=1, watch=lambda line: None)
    assert [row["peer name"] for row in rows] == ROWS.get(name, ROWS["t5"])
    assert [row["ratio"] for row in rows] == [2.0] * len(rows)
    (ours, theirs), losses = given[:2]
    theirs = theirs.last_hidden_state if name == "bert" else theirs.logits
    length = 4 if name == "bert" else None  # of the first row, the rest of which is padding
    torch.testing.assert_close(ours[0, :length], theirs[0, :length], rtol=1e-4, atol=1e-5)
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_without_biases_the_order_does_not_matter_to_the_last_token() -> None:
    torch.manual_seed(0)
    ids = torch.randint(60, (1, 9))
    turned = torch.cat((ids[:, :8].flip(1), ids[:, 8:]), dim=1)
    config = bloom.Config(**vars(TINY["bloom"]) | {"num_layers": 1})
    for kind, moves in ((bloom.BLOOM, True), (UnbiasedBLOOM, False)):
        model = kind(config).double()
        assert bool((model(ids)[0, -1] - model(turned)[0, -1]).abs().max() > 1e-9) == moves
    for other, moves in ((t5.T5, True), (UnbiasedT5, False)):
        model = other(TINY["t5"]).double().eval()
        read, again = model.encode(ids)[0, -1], model.encode(turned)[0, -1]
        assert bool((read - again).abs().max() > 1e-9) == moves


def test_a_size_that_is_not_measured_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "model", "--size", "gpt2"]) == 2
    assert "gpt2 is not measured" in capsys.readouterr().err
