"""Two ranks give what one gives, whatever they share; their checkpoints open on any number of ranks."""

import shutil
from pathlib import Path

import pytest
import torch
from tests.train import miniatures
from tests.train.test_every_kind_of_learning import LOGGED, two_ranks

from bedplate.errors import UserError
from bedplate.models.gpt2 import GPT2
from bedplate.train.checkpoint import SHARDS, WEIGHTS, load_weights, newest_checkpoint
from bedplate.train.parallel import Parallel
from bedplate.train.run import read_metrics

WAYS = {
    "ddp": {"strategy": "ddp"},
    "ddp, checkpointing": {"strategy": "ddp", "checkpointing": True},
    "fsdp": {"strategy": "fsdp"},
    "fsdp, checkpointing": {"strategy": "fsdp", "checkpointing": True},
    "tp": {"strategy": "tp"},
    "compile": {"strategy": "ddp", "compile": True},
}
pytestmark = pytest.mark.xdist_group("ranks")  # one worker makes what these tests share, once


def weights_of(run: Path, *, averaged: bool = False) -> dict[str, torch.Tensor]:
    """As a single process opens them, from either form of checkpoint."""
    model, _, _ = miniatures.make("gpt2")
    load_weights(newest_checkpoint(run), model, averaged=averaged)
    return model.state_dict()


def assert_same_run(run: Path, other: Path) -> None:
    mine, theirs = ([[line[name] for name in LOGGED if name in line] for line in read_metrics(r)] for r in (run, other))
    assert mine == [pytest.approx(line, rel=1e-10, abs=1e-10) for line in theirs]
    for averaged in (False, True):
        torch.testing.assert_close(
            weights_of(run, averaged=averaged), weights_of(other, averaged=averaged), rtol=0, atol=1e-10
        )


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "gpt2"
    miniatures.run("gpt2", folder)
    return folder


@pytest.fixture(scope="module")
def jobs(straight: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that two ranks do in these tests, in one job of two processes: starting them takes the most time."""
    folder = tmp_path_factory.mktemp("jobs")
    new = [{"folder": str(folder / way), "parallel": parallel, "micro_batch_size": 3} for way, parallel in WAYS.items()]
    for way in ("fsdp", "tp"):
        back_to_six(straight, folder / "resumed" / way / "gpt2")
    resumed = [
        {"folder": str(folder / "resumed" / way), "parallel": WAYS[way], "resume": True} for way in ("fsdp", "tp")
    ]
    two_ranks(*({"kinds": ["gpt2"]} | job for job in [*new, *resumed]))
    return folder


@pytest.fixture(params=WAYS)
def shared(request: pytest.FixtureRequest, jobs: Path) -> Path:
    run = jobs / request.param / "gpt2"
    sharded = WAYS[request.param]["strategy"] != "ddp"
    newest = newest_checkpoint(run)
    assert ((newest / SHARDS).exists(), (newest / WEIGHTS).exists()) == (sharded, not sharded)
    return run


def test_two_ranks_learn_what_one_learns(shared: Path, straight: Path) -> None:
    assert_same_run(shared, straight)


def test_one_rank_goes_on_where_two_stopped(shared: Path, straight: Path, tmp_path: Path) -> None:
    back_to_six(shared, tmp_path / "gpt2")
    miniatures.run("gpt2", tmp_path / "gpt2", resume=True)
    assert_same_run(tmp_path / "gpt2", straight)


@pytest.mark.parametrize("way", ["fsdp", "tp"])
def test_two_ranks_go_on_where_one_stopped(way: str, straight: Path, jobs: Path) -> None:
    assert_same_run(jobs / "resumed" / way / "gpt2", straight)


def back_to_six(run: Path, copy: Path) -> None:
    shutil.copytree(run, copy)
    shutil.rmtree(newest_checkpoint(copy))
    assert newest_checkpoint(copy).name == "step-00000006"


def test_what_cannot_be_shared_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'fsdp'"):
        Parallel(strategy="fsdp2")
    with pytest.raises(UserError, match="use fsdp with offload"):
        Parallel(offload=True)


def test_models_know_nothing_of_ranks() -> None:
    source = Path(GPT2.__init__.__code__.co_filename).parent
    assert not [path for path in source.glob("*.py") if "distributed" in path.read_text()]
