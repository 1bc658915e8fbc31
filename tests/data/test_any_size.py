"""Training holds no corpus in memory and reaches any step at once, however large the shards are."""

from pathlib import Path

import numpy as np
import pytest

from any_size import DOCUMENT, generate, measured, write_generated


def check(figures: dict[str, float], *, growth: float) -> None:
    assert figures["growth, MB"] < growth and figures["growth of peak, MB"] < growth, figures
    assert figures["growth of mapped files, MB"] < growth, figures
    assert figures["open and read step 1000000, cold, median of 5, ms"] < 50, figures
    assert figures["wait for batch 480x1024, cold, made ahead, ms"] < 10, figures
    assert figures["check again, ms"] < min(50, figures["check all hashes, ms"] / 3), figures


def test_generated_shards_are_as_described(tmp_path: Path) -> None:
    shards = write_generated(tmp_path / "large", num_tokens=5_000_000, shard_tokens=2**20).check()
    assert shards.num_tokens == 5_000_000
    ids = np.concatenate(list(generate(5_000_000)))
    assert shards.read(0, shards.num_tokens).tolist() == ids.tolist()
    assert shards.manifest["num_documents"] == pytest.approx(5_000_000 / DOCUMENT, rel=0.01)


@pytest.mark.slow
def test_memory_stays_and_far_steps_are_near(tmp_path: Path) -> None:
    """200 MB, nearly every page of which is read: mapped files would count as that much."""
    figures = measured(tmp_path, num_tokens=10**8, shard_tokens=2**24)
    assert figures["GB"] > 0.2
    check(figures, growth=64)


@pytest.mark.long
def test_ten_gigabytes(tmp_path: Path) -> None:
    figures = measured(tmp_path, num_tokens=5 * 10**9)
    assert figures["GB"] > 10
    check(figures, growth=300)
