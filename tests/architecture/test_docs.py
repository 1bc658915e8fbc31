"""The equations of a model file and of its page are the same ones."""

import io
import re
import tokenize

import pytest
from tests.architecture.tree import ROOT, SOURCE, name_of

from bedplate.papers import PAPERS

TAG = r"(?:eq\. \d+|section \d+(?:\.\d+)*)"


def tags_in_code(text):
    """Tags such as `# eq. 5` or `# section 2.3`, in comments only."""
    comments = [
        token.string for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.COMMENT
    ]
    return {tag for comment in comments for tag in re.findall(TAG, comment)}


def equation_rows(page):
    """The rows of the table under `## Equations`: tag, formula, code."""
    _, _, section = page.partition("\n## Equations\n")
    section, _, _ = section.partition("\n## ")
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line.startswith("|")
    ]
    return rows[2:]


@pytest.mark.parametrize("paper", [paper for paper in PAPERS if paper.model], ids=lambda paper: paper.row)
def test_equations_of_code_and_page_agree(paper):
    page = (ROOT / "docs" / paper.page).read_text(encoding="utf-8")
    files = [SOURCE / f"{name.replace('.', '/')}.py" for name in (paper.model, paper.layout) if name]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    rows = equation_rows(page)
    cited = {tag for row in rows for tag in re.findall(TAG, row[0])}
    assert cited == set().union(*(tags_in_code(path.read_text(encoding="utf-8")) for path in files))
    for row in rows:
        for line in re.findall(r"`([^`]+)`", row[-1]):
            assert line in code, f"the page cites {line!r}, which {[name_of(path) for path in files]} do not hold"


def test_tags_are_found():
    assert tags_in_code("x = 1  # why (section 2.3)\ny = '# eq. 7'\n# eq. 12 once more\n") == {"section 2.3", "eq. 12"}
    table = "| tag | formula | code |\n| --- | --- | --- |\n| `eq. 1` | x | `a = b` |"
    page = f"\n## Equations\n\n{table}\n\n## Next\n| no | no |"
    assert equation_rows(page) == [["`eq. 1`", "x", "`a = b`"]]
