"""Plans of RetNets: parameters of the model, torch's own count of operations, and what autograd keeps."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bedplate.bench.devices import DEVICES
from bedplate.bench.plan import Job, activations, memory, plan
from bedplate.bench.shape import shape_of
from bedplate.cli import main
from bedplate.models import build
from bedplate.models.retnet import SIZES, Config
from bedplate.nn.retention import break_even

SMALL = Config(vocab_size=100, context_length=64, dim=128, num_layers=4, num_heads=2, value_dim=192, mlp_dim=160)
PARALLEL, CHUNKWISE = 64, 384  # tokens; the forms cost the same at 138


@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_those_of_the_model(name: str) -> None:
    with torch.device("meta"):
        model = build(SIZES[name])
    assert shape_of(SIZES[name]).parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("length", [PARALLEL, CHUNKWISE])
@pytest.mark.parametrize("mlp", ["gelu", "gated silu"])
def test_torch_counts_the_same_operations(mlp: str, length: int) -> None:
    assert PARALLEL < break_even(64, 96) < CHUNKWISE
    config = replace(SMALL, mlp=mlp)
    counter = FlopCounterMode(display=False)
    with counter:
        build(config)(torch.zeros(2, length, dtype=torch.long)).sum().backward()
    assert counter.get_total_flops() == pytest.approx(2 * length * shape_of(config).operations(length), rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("length", [PARALLEL, CHUNKWISE])
@pytest.mark.parametrize("mlp", ["gelu", "gated silu"])
def test_saved_bytes_are_those_of_the_formula(mlp: str, length: int, precision: str) -> None:
    """All that autograd keeps inside the blocks, counted once each."""
    config = replace(SMALL, mlp=mlp)
    model = build(config).train()
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (pointer := tensor.untyped_storage().data_ptr()) not in owned:
            kept[pointer] = tensor
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        model.features(torch.randint(100, (4, length)))
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    job = Job(shape=shape_of(config), device=DEVICES["a100"], batch=4, length=length, precision=precision)
    copies = memory(job)["copies of weights"] * 1e9
    assert activations(job) + copies == pytest.approx(measured, rel=0.05)


def test_what_is_held_does_not_grow() -> None:
    """6.7B: 32 x 4096 x 512 numbers, as many bytes in float32 as for one token or for 100,000."""
    shape = shape_of(SIZES["retnet-6.7b"])
    assert shape.held(2, 1) == shape.held(4, 100_000) == 4 * 32 * 4096 * 512
    model = build(SMALL)
    assert shape_of(SMALL).held(4, 1) == sum(layer.nbytes for layer in model.new_state(1))
    rows = plan(Job(shape=shape, device=DEVICES["a100"]))["work"]
    (held,) = [row["value"] for row in rows if row["what"] == "held of 2048 tokens when generating"]
    assert held == pytest.approx(0.268, abs=0.001)


def test_the_command_plans_a_size_and_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    for target in ("retnet-1.3b", "retnet.pydocs"):
        assert main(["plan", target, "--device", "a100"]) == 0
        assert "held of" in capsys.readouterr().out
