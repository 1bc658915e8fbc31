"""What every test stands on: two workers that share two cores, no network, a cache of their own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported. Workers share the cores: each gets one thread, and so do the processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("BEDPLATE_SHARED_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tokenized text of this test session, shared by its workers; the user's own cache is neither read nor written."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "bedplate-cache"
    before = os.environ.get("BEDPLATE_CACHE")
    os.environ["BEDPLATE_CACHE"] = str(folder)
    yield folder
    os.environ.pop("BEDPLATE_CACHE")
    if before is not None:
        os.environ["BEDPLATE_CACHE"] = before


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `shared` compare with published files that do not travel with the project."""
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason=f"no shared data in {SHARED} (set BEDPLATE_SHARED_DATA)"))
