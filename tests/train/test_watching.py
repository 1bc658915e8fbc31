"""What the loop notices and keeps: the origin of a NaN, spikes, the best checkpoint, averaged weights."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.test_loop import SETTINGS, Counting, new_model, run
from torch import Tensor, nn

from bedplate.console import training_progress
from bedplate.errors import UserError
from bedplate.objectives.next_token import NextToken
from bedplate.train.checkpoint import list_checkpoints, load_weights, newest_checkpoint
from bedplate.train.spikes import FACTOR, PATIENCE, WINDOW, Spikes


class Poisoned(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] / torch.zeros_like(gradients[0])


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("blocks.1.mlp.up", r"the loss of step 1 is nan, first in blocks.1.mlp.up \(log\)"),
        ("blocks.0", r"the loss of step 1 is nan, first in blocks.0 \(log\)"),
        ("final_norm", r"the loss of step 1 is nan, first in final_norm \(log\)"),
    ],
)
def test_a_number_that_is_not_finite_is_followed_to_its_module_and_operation(
    part: str, words: str, tmp_path: Path
) -> None:
    model = new_model()
    module = model.get_submodule(part)
    real = module.forward
    module.forward = lambda *args, **options: (-real(*args, **options).abs() - 1).log()
    with pytest.raises(UserError, match=words):
        run(tmp_path, model)


def test_a_gradient_that_is_not_finite_is_followed_too(tmp_path: Path) -> None:
    model = new_model()
    module = model.blocks[1].mlp
    real = module.forward
    module.forward = lambda x: Poisoned.apply(real(x))
    words = r"gradient norm of step 1 is (nan|inf), first in the backward pass of blocks.1.mlp \(div\)"
    with pytest.raises(UserError, match=words):
        run(tmp_path, model)


def test_spikes_stand_out_from_what_was_usual() -> None:
    losses = [3.0 + 0.01 * (n % 5) for n in range(WINDOW)]
    spikes = Spikes([{"loss": loss} for loss in losses])
    assert not spikes.judge(3.05)
    found = spikes.judge(9.0)
    assert found["spike"] > FACTOR
    assert spikes.judge(9.0) == found  # a spike does not become usual
    assert not Spikes([{"loss": loss} for loss in losses[1:]]).judge(9.0)  # too few to compare with
    logged = [{"loss": loss} for loss in losses] + [{"loss": 9.0, "spike": 9.0}]
    assert Spikes(logged).judge(9.0)["spike"] > FACTOR


def test_a_new_level_is_no_spike_for_ever() -> None:
    logged = [{"loss": 3.0 + 0.01 * (n % 5)} for n in range(WINDOW)]
    spikes = Spikes(logged)
    for _ in range(PATIENCE + 5):
        logged.append({"loss": 9.0} | spikes.judge(9.0))
    assert ["spike" in line for line in logged[WINDOW:]] == [True] * PATIENCE + [False] * 5
    again = Spikes(logged)  # as a resumed run sees it
    assert [again.judge(9.0), again.judge(9.0)] == [spikes.judge(9.0), spikes.judge(9.0)] == [{}, {}]


def test_a_spike_is_told_with_its_batch(capsys: pytest.CaptureFixture[str]) -> None:
    with training_progress(100) as watch:
        watch({"step": 7, "loss": 3.0, "items_per_second": 1.0})
        watch({"step": 55, "loss": 9.0, "items_per_second": 1.0, "spike": 120.0})
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "step 55: loss 9.000 stands out by 120 deviations; its batch: show-batch RECIPE --step 54"


@dataclass(frozen=True)
class Surprising(NextToken):
    """A loss a hundred times as large in one step."""

    def loss(self, model: Any, batch: Any, companion: Any, step: int) -> Any:
        loss = super().loss(model, batch, companion, step)
        return replace(loss, total=loss.total * 100) if step == 54 else loss


@pytest.mark.parametrize("skip", [False, True])
def test_a_spike_is_logged_and_skipped_on_request(skip: bool, tmp_path: Path) -> None:
    states: list[dict[str, Tensor]] = []
    model = new_model()
    settings = replace(SETTINGS, steps=56, checkpoint_every=50, skip_spikes=skip)
    watch = lambda metrics: states.append(copy.deepcopy(model.state_dict()))  # noqa: E731
    lines = run(tmp_path, model, settings=settings, objective=Surprising(), watch=watch)
    assert [line["step"] for line in lines if "spike" in line] == [55]
    unchanged = all(torch.equal(value, states[53][name]) for name, value in states[54].items())
    assert unchanged == skip
    again = run(tmp_path, new_model(7), settings=settings, objective=Surprising(), resume=True)
    assert [line["loss"] for line in again] == [line["loss"] for line in lines]


def test_the_best_checkpoint_stays(tmp_path: Path) -> None:
    values = iter([5.0, 3.0, 4.0, 4.5, 4.6])
    settings = replace(SETTINGS, evaluate_every=4, checkpoint_every=2, best="held_out", keep=1)
    run(tmp_path, settings=settings, evaluate=lambda model: {"held_out": next(values)})
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000008", "step-00000020"]


def test_averaged_weights_follow_and_are_measured(tmp_path: Path) -> None:
    model, states, seen = new_model(), [], []
    mean = {name: value.clone() for name, value in model.state_dict().items()}

    def watch(metrics: dict[str, Any]) -> None:
        for name, value in model.state_dict().items():
            mean[name].lerp_(value, 0.2)
        states.append({name: value.clone() for name, value in mean.items()})

    def evaluate(used: nn.Module) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in used.state_dict().items()})
        return {}

    settings = replace(SETTINGS, average=0.8, evaluate_every=10)
    run(tmp_path, model, settings=settings, watch=watch, evaluate=evaluate)
    torch.testing.assert_close(seen, [states[9], states[19]])
    loaded = new_model(7)
    load_weights(newest_checkpoint(tmp_path), loaded, averaged=True)
    torch.testing.assert_close(loaded.state_dict(), states[19])
    load_weights(newest_checkpoint(tmp_path), loaded)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_the_parts_of_a_step_add_up_to_it(tmp_path: Path) -> None:
    for line in run(tmp_path, source=Counting()):
        parts = [line[f"{part}_seconds"] for part in ("data", "forward", "backward", "optimizer")]
        assert min(parts) >= 0 and sum(parts) <= line["seconds"]
