"""The equations of a model file and of its page are the same ones."""

import io
import re
import tokenize

import pytest
from tests.architecture.tree import ROOT, SOURCE, name_of

MODELS = [path for path in sorted((SOURCE / "models").glob("*.py")) if path.stem != "__init__"]
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


@pytest.mark.parametrize("path", MODELS, ids=name_of)
def test_equations_of_code_and_page_agree(path):
    page = (ROOT / "docs" / "papers" / f"{path.stem}.md").read_text(encoding="utf-8")
    code = path.read_text(encoding="utf-8")
    rows = equation_rows(page)
    cited = {tag for row in rows for tag in re.findall(TAG, row[0])}
    assert cited == tags_in_code(code)
    for row in rows:
        for line in re.findall(r"`([^`]+)`", row[-1]):
            assert line in code, f"the page cites {line!r}, which {name_of(path)} does not hold"


def test_tags_are_found():
    assert tags_in_code("x = 1  # why (section 2.3)\ny = '# eq. 7'\n# eq. 12 once more\n") == {"section 2.3", "eq. 12"}
    table = "| tag | formula | code |\n| --- | --- | --- |\n| `eq. 1` | x | `a = b` |"
    page = f"\n## Equations\n\n{table}\n\n## Next\n| no | no |"
    assert equation_rows(page) == [["`eq. 1`", "x", "`a = b`"]]
