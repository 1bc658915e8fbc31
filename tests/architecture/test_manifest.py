"""The manifest is whole, and says `working` of exactly what is there."""

import pytest
from tests.architecture.tree import ROOT, SOURCE

from bedplate.papers import PAPERS, find_paper

ROWS = {"A": 6, "B": 5, "C": 4, "D": 12, "E": 8, "F": 2, "G": 5, "H": 4, "I": 6, "J": 2, "K": 2, "L": 2}
PARTS = ("model", "layout", "objective", "recipes", "experiment", "page", "checkpoints")
WORKING = [paper for paper in PAPERS if paper.state == "working"]
PLANNED = [paper for paper in PAPERS if paper.state == "not yet"]


def row(paper):
    return paper.row


def module_file(module):
    return SOURCE / f"{module.replace('.', '/')}.py"


def test_every_system_has_one_row():
    assert [paper.row for paper in PAPERS] == [
        f"{letter}{i + 1}" for letter, count in ROWS.items() for i in range(count)
    ]
    assert len(WORKING) + len(PLANNED) == len(PAPERS)
    assert find_paper("D5").system == "GPT-2"


@pytest.mark.parametrize("paper", WORKING, ids=row)
def test_working_papers_are_complete(paper):
    assert paper.recipes and paper.experiment and paper.page and paper.sources
    for module in filter(None, (paper.model, paper.layout, paper.objective, paper.recipes, paper.experiment)):
        assert module_file(module).is_file(), module
    assert (ROOT / "docs" / paper.page).is_file()
    for model in filter(None, (paper.model, paper.layout)):
        assert (ROOT / "tests" / "parity" / f"test_{model.rpartition('.')[2]}.py").is_file()
    for checkpoint in paper.checkpoints:
        assert (SOURCE / "checkpoints" / checkpoint / "config.json").is_file()


@pytest.mark.parametrize("paper", PLANNED, ids=row)
def test_planned_papers_claim_nothing(paper):
    assert not [part for part in PARTS if getattr(paper, part)]


@pytest.mark.parametrize(
    ("folder", "part", "machinery"),
    [
        ("models", "model", set()),
        ("experiments", "experiment", {"experiment"}),
        ("recipes", "recipes", {"recipe", "run", "text", "pairs", "labeled", "spans", "masked_text", "encoder_task"}),
    ],
)
def test_what_is_there_belongs_to_a_working_paper(folder, part, machinery):
    found = {path.stem for path in (SOURCE / folder).glob("*.py")} - {"__init__"} - machinery
    layouts = {paper.layout for paper in WORKING if part == "model"}
    named = {getattr(paper, part) for paper in WORKING} | layouts
    assert found == {name.rpartition(".")[2] for name in named} - {""}


def test_every_page_belongs_to_a_working_paper():
    pages = {f"papers/{path.name}" for path in (ROOT / "docs" / "papers").glob("*.md")} - {"papers/index.md"}
    assert pages == {paper.page for paper in WORKING}
