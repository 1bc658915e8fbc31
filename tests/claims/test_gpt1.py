"""The claims of GPT-1 at smoke scale, and checks that the check can fail."""

from dataclasses import replace
from pathlib import Path

import pytest

from bedplate.data.labeled import open_task
from bedplate.data.text import open_corpus
from bedplate.experiments import gpt1


@pytest.mark.slow
def test_the_claims_hold_at_smoke_scale(tmp_path: Path) -> None:
    result = gpt1.run("smoke", watch=lambda line: None)
    verdict = gpt1.check(result)
    assert verdict.holds, verdict.sentence
    gpt1.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


GOOD = gpt1.Result(
    scale="small",
    items=335,
    accuracies={
        "pre-trained, lambda 0.5": (0.6, 0.64),
        "new, lambda 0.5": (0.4, 0.44),
        "pre-trained, lambda 0.0": (0.6, 0.6),
        "new, lambda 0.0": (0.7, 0.7),
    },
    losses={"norms before": (4.4,), "norms after": (5.3,), "norms after, warm-up": (3.8,)},
)


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"accuracies": GOOD.accuracies | {"new, lambda 0.5": (0.53, 0.53)}}, False),
        ({"losses": GOOD.losses | {"norms before": (5.1,)}}, False),
        ({"losses": GOOD.losses | {"norms after, warm-up": (5.1,)}}, False),
    ],
)
def test_the_check_is_red_for_small_gains_and_gaps(changes: dict[str, object], holds: bool) -> None:
    assert gpt1.check(replace(GOOD, **changes)).holds is holds


@pytest.mark.parametrize("corpus", sorted({settings.corpus for settings in gpt1.SCALES.values()}))
def test_the_reader_never_reads_a_file_that_is_measured_on(corpus: str) -> None:
    read = {document.name for document in open_corpus(corpus).train}
    measured = {record.name for record in open_task("packages", labels=0, seed=0).held_out}
    assert measured and not read & measured
