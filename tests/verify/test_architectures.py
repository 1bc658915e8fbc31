"""Every architecture by name passes the contracts, with random weights."""

import pytest

from bedplate.models import MODEL_TYPES
from bedplate.verify.contracts import verify
from bedplate.verify.target import find_target


@pytest.mark.slow
@pytest.mark.parametrize("name", MODEL_TYPES)
def test_contracts(name: str) -> None:
    model, _ = find_target(name)
    rows = verify(model)
    assert not [row for row in rows if row.verdict == "fail"], rows
    assert sum(row.verdict == "pass" for row in rows) >= 6, rows
