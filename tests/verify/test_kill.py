"""Killed training processes, for real but few; `bedplate verify --kill 100` is the long form."""

from pathlib import Path

import pytest
import torch

from bedplate.verify import kill


def test_a_killed_run_ends_as_if_it_never_was() -> None:
    said: list[str] = []
    row = kill.verify_kills(2, watch=said.append)
    assert row.verdict == "pass" and row.error == 0.0, row
    assert len(said) == 2 and said[0].startswith("kill 1 of 2")


def test_a_run_that_ends_differently_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    real, ends = kill._end_of, []

    def end_of(folder: Path) -> dict[str, object]:
        ends.append(folder)
        end = real(folder)
        return end if len(ends) == 1 else end | {"final_norm.weight": torch.zeros(32)}

    monkeypatch.setattr(kill, "_end_of", end_of)
    row = kill.verify_kills(1)
    assert row.verdict == "fail" and "final_norm.weight" in row.detail
