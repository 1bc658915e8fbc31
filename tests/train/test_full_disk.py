"""A disk that takes no more, for real: the process may write files of a few kilobytes only."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bedplate.errors import UserError
from bedplate.train import checkpoint
from bedplate.train.checkpoint import list_checkpoints, newest_checkpoint

SOURCE = Path(__file__).resolve().parents[2] / "src"
SCRIPT = """
import resource, sys
from pathlib import Path
import torch
from bedplate.errors import UserError
from bedplate.models.gpt2 import GPT2, Config
from bedplate.objectives.next_token import NextToken
from bedplate.train.loop import Settings, train
class Source:
    def batch(self, step):
        ids = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(step))
        return {"ids": ids[:, :-1], "targets": ids[:, 1:]}
def run(name, limit=resource.RLIM_INFINITY, resume=False):
    torch.manual_seed(0)
    model = GPT2(Config(vocab_size=50, context_length=8, dim=16, num_layers=1, num_heads=2))
    def watch(metrics):
        if metrics["step"] == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    settings = Settings(steps=8, micro_batch_size=2, checkpoint_every=2)
    train(model, Source(), NextToken(), settings=settings, folder=folder / name, watch=watch, resume=resume)
folder = Path(sys.argv[1])
try:
    run("run", limit=8_000)
except UserError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(sorted(path.name for path in (folder / "run" / "checkpoints").iterdir()))
run("run", resume=True)
run("straight")
"""


def test_a_disk_that_fills_up_costs_nothing_saved(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    message, left = done.stdout.splitlines()
    assert "step 6 could not be written" in message and "checkpoints/step-00000004; free space" in message
    assert message.endswith(f"bedplate train --resume {tmp_path / 'run'}")
    assert left == "['step-00000002', 'step-00000004']"
    for name in (checkpoint.WEIGHTS, checkpoint.TRAINING):
        ends = [(newest_checkpoint(tmp_path / run) / name).read_bytes() for run in ("run", "straight")]
        assert ends[0] == ends[1]


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    state = checkpoint.State(model=model, optimizer=optimizer)
    options = {"sharded": False, "kept": set(), "keep": 2}
    checkpoint.save_checkpoint(tmp_path, 3, state, **options)

    def read_only(path: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint, "atomic_folder", read_only)
    with pytest.raises(UserError, match=r"step 4 .*Permission denied.*step-00000003; .*fix permissions.*--resume"):
        checkpoint.save_checkpoint(tmp_path, 4, state, **options)
    monkeypatch.undo()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoints").write_text("a file in the way")
    with pytest.raises(UserError, match="there is no checkpoint yet"):
        checkpoint.save_checkpoint(tmp_path / "other", 4, state, **options)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003"]


def test_a_folder_that_vanishes_ends_the_run_cleanly(tmp_path: Path) -> None:
    """Renamed away under a training process; put back, the run goes on to the same end."""
    sizes = [
        "model.dim=16",
        "model.num_layers=1",
        "model.num_heads=2",
        "model.vocab_size=300",
        "model.context_length=32",
    ]
    every = ["steps=300", "batch_size=2", "micro_batch_size=2", "evaluate_every=300", "checkpoint_every=20"]
    (tmp_path / "text.txt").write_text(
        "".join(f"Day {n} was like day {n + 1}, and it rained again.\n" for n in range(400))
    )
    bedplate = [sys.executable, "-m", "bedplate", "train"]
    new = [*bedplate, "gpt2.quickstart", *sizes, *every, f"data.corpus={tmp_path / 'text.txt'}", "--out"]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    process = subprocess.Popen([*new, str(tmp_path / "run")], env=environment, stderr=subprocess.PIPE, text=True)
    while not list_checkpoints(tmp_path / "run") and process.poll() is None:
        time.sleep(0.01)
    (tmp_path / "run").rename(tmp_path / "away")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and said.count("\n") == 1 and said.startswith("error: ") and "run" in said, said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    newest_checkpoint(tmp_path / "away")  # intact
    for words in ([*bedplate, "--resume", str(tmp_path / "away")], [*new, str(tmp_path / "straight")]):
        assert subprocess.run(words, env=environment, capture_output=True).returncode == 0
    for name in (checkpoint.WEIGHTS, checkpoint.TRAINING):
        ends = [(newest_checkpoint(tmp_path / run) / name).read_bytes() for run in ("away", "straight")]
        assert ends[0] == ends[1]
