"""The Transformer's claim at smoke scale, and a check that the check can fail."""

from dataclasses import replace
from pathlib import Path

import pytest

from bedplate.experiments import transformer
from bedplate.experiments.transformer import BASE, SHARP, Result, Row
from bedplate.models.transformer import Transformer
from bedplate.recipes.transformer import quickstart


@pytest.mark.slow
def test_the_claim_holds_at_smoke_scale(tmp_path: Path) -> None:
    result = transformer.run("smoke", watch=lambda line: None)
    verdict = transformer.check(result)
    assert verdict.holds, verdict.sentence
    transformer.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", transformer.ROWS)
def test_every_row_of_the_table_can_be_built(name: str) -> None:
    recipe = transformer._changed(quickstart(), transformer.ROWS[name])
    assert (recipe != quickstart()) == bool(transformer.ROWS[name])
    assert Transformer(recipe.model).config == recipe.model


def test_the_check_is_red_for_each_part_of_the_claim() -> None:
    base = Row(perplexity=1.2, averaged_perplexity=1.1, bleu=95.0, parameters=1)
    sharp = replace(base, perplexity=1.1, bleu=95.2)

    def holds(one: Row, other: Row) -> bool:
        result = Result(scale="small", rows={BASE: (one, one), SHARP: (other, other)}, signature="")
        return transformer.check(result).holds

    assert holds(base, sharp)
    assert not holds(replace(base, bleu=70.0), replace(sharp, bleu=70.0))  # does not translate
    assert not holds(base, replace(sharp, bleu=96.0))  # smoothing costs BLEU
    assert not holds(base, replace(sharp, perplexity=1.19))  # smoothing does not hurt perplexity
    assert not holds(replace(base, averaged_perplexity=1.21), sharp)  # averaging does not help
