"""A sharded folder is read tensor by tensor: beside the model itself, never much more than its largest tensor."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bedplate.models import save_pretrained
from bedplate.models.bloom import BLOOM, Config
from bedplate.weights import files

# Loads a folder twice, in the way named first: once so that imports and pools do not count, then measured.
LOAD = """
import sys
from pathlib import Path
from safetensors.torch import load_file
from bedplate.models import build, from_pretrained
from bedplate.models.bloom import HF
from bedplate.files import read_json
from bedplate.nn.fast.memory import give_back
from bedplate.train.memory import forget_peak, memory_now, memory_peak

def at_once(folder):
    config = HF.config_from(read_json(folder / "config.json"))
    tensors = {name: each for path in folder.glob("*.safetensors") for name, each in load_file(path).items()}
    model = build(config)
    model.load_state_dict(HF.to_ours(dict(tensors), config))
    return model

load = {"by tensor": from_pretrained, "at once": at_once}[sys.argv[1]]
load(Path(sys.argv[2]))
give_back()
forget_peak()
model = load(Path(sys.argv[2]))
peak = memory_peak()
give_back()
print(peak - memory_now())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 MB, of which the embedding takes 32."""
    folder = tmp_path_factory.mktemp("sharded")
    save_pretrained(BLOOM(Config(vocab_size=16_000, dim=512, num_layers=7, num_heads=8)), folder)
    tensors = dict(
        files.TensorsOnDemand({n: (n, e) for n, e in files.list_tensors(folder).items()}, dtype=torch.float32)
    )
    (folder / files.WHOLE).unlink()
    files.write_tensors(tensors, folder, shard_bytes=40 * 10**6)
    assert len(list(folder.glob("*.safetensors"))) >= 3
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("way", "fits"), [("by tensor", True), ("at once", False)])
def test_extra_memory(folder: Path, way: str, fits: bool) -> None:
    result = subprocess.run([sys.executable, "-c", LOAD, way, str(folder)], capture_output=True, text=True, check=True)
    largest = 16_000 * 512 * 4 / 1e9
    assert (float(result.stdout) < 2.5 * largest) == fits, result.stdout
