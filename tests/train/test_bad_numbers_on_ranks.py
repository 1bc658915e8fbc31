"""A number that is not finite on two ranks: every way to share names the module that made it.

`python -m torch.distributed.run ... -m tests.train.test_bad_numbers_on_ranks FILE` writes what each run said.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.train import miniatures
from tests.train.test_every_kind_of_learning import launch

from bedplate.errors import UserError
from bedplate.train import ranks
from bedplate.train.loop import train
from bedplate.train.parallel import Parallel

WAYS = [{"strategy": "ddp"}, {"strategy": "fsdp"}, {"strategy": "tp"}, {"strategy": "fsdp", "checkpointing": True}]


def test_the_module_is_named_however_ranks_share(tmp_path: Path) -> None:
    launch("tests.train.test_bad_numbers_on_ranks", tmp_path / "said.json")
    said = json.loads((tmp_path / "said.json").read_text())
    assert len(said) == len(WAYS)
    for line in said:
        assert "the loss of step 1 is nan, first in blocks.1.mlp (log)" in line


def what_is_said(way: dict, folder: Path) -> str:
    """The error of a run whose second block makes a NaN."""
    model, source, objective = miniatures.make("gpt2")
    real = model.blocks[1].mlp.forward
    model.blocks[1].mlp.forward = lambda x: (-real(x).abs() - 1).log()
    settings = replace(miniatures.SETTINGS, parallel=Parallel(**way), average=0.0)
    try:
        train(model, source, objective, settings=settings, folder=folder)
    except UserError as error:
        return str(error)
    return "nothing"


if __name__ == "__main__":
    with ranks.joined(), tempfile.TemporaryDirectory() as temporary:
        folder = Path(ranks.from_leader(temporary))
        said = [what_is_said(way, folder / str(number)) for number, way in enumerate(WAYS)]
        ranks.barrier()
        if ranks.rank() == 0:
            Path(sys.argv[1]).write_text(json.dumps(said))
