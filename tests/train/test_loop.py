"""The loop by itself: golden losses, hooks, logging, pruning, and what stops it."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bedplate.errors import UserError
from bedplate.models.gpt2 import GPT2, Config
from bedplate.objectives.next_token import NextToken
from bedplate.objectives.objective import Loss
from bedplate.train.checkpoint import ABOUT, list_checkpoints, newest_checkpoint
from bedplate.train.loop import Settings, Source, to_device, train
from bedplate.train.optimizer import AdamW
from bedplate.train.run import log_metrics, new_run, read_metrics, read_run, rewind_metrics
from bedplate.train.schedule import WarmupCosine

SETTINGS = Settings(
    steps=20, micro_batch_size=2, optimizer=AdamW(lr=1e-2), schedule=WarmupCosine(warmup_steps=5), checkpoint_every=4
)
GOLDEN = [
    3.90817, 3.89646, 3.85837, 3.82793, 3.74986, 3.72486, 3.63403, 3.57524, 3.50162, 3.46984,
    3.39449, 3.34014, 3.31607, 3.27956, 3.24961, 3.24609, 3.23067, 3.24022, 3.22392, 3.23401,
]  # fmt: skip


class Counting:
    """Rows that count up in steps of 1, 2, 3 and 4."""

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        ids = (torch.arange(13)[None] * (1 + torch.arange(4)[:, None]) + step) % 50
        return {"ids": ids[:, :-1], "targets": ids[:, 1:]}


def new_model(seed: int = 0, **changes: Any) -> GPT2:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 50, "context_length": 16, "dim": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.0}
    return GPT2(Config(**sizes | changes))


def run(folder: Path, model: nn.Module | None = None, **options: Any) -> list[dict[str, Any]]:
    options = {"settings": SETTINGS, "objective": NextToken(), "source": Counting()} | options
    source, objective = options.pop("source"), options.pop("objective")
    train(model or new_model(), source, objective, folder=folder, **options)
    return read_metrics(folder)


def test_golden_losses(tmp_path: Path) -> None:
    """A refactoring changes no loss; these were measured once, and change for a written reason only."""
    assert [line["loss"] for line in run(tmp_path)] == pytest.approx(GOLDEN, abs=1e-4)


def test_bfloat16_learns_nearly_the_same(tmp_path: Path) -> None:
    losses = [line["loss"] for line in run(tmp_path, settings=replace(SETTINGS, precision="bf16"))]
    assert losses == pytest.approx(GOLDEN, abs=0.05) and losses != pytest.approx(GOLDEN, abs=1e-6)


def test_what_is_logged(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    modes: list[bool] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        modes.append(model.training)
        return {"held_out": 1.5}

    lines = run(tmp_path, settings=replace(SETTINGS, evaluate_every=8), evaluate=evaluate, watch=seen.append)
    assert lines == seen and [line["step"] for line in lines] == list(range(1, 21))
    assert [line["step"] for line in lines if "held_out" in line] == [8, 16, 20] and modes == [False] * 3
    for line in lines:
        factor = SETTINGS.schedule.factor(line["step"] - 1, steps=20)
        assert line["lr"] == pytest.approx(1e-2 * factor) and line["grad_norm"] > 0


def test_each_step_is_in_training_mode_with_a_seed_of_its_own(tmp_path: Path) -> None:
    """Dropout must neither stop after an evaluation nor drop the same units at every step."""
    seen: list[tuple[bool, int]] = []

    @dataclass(frozen=True)
    class Looking(NextToken):
        def loss(self, model: Any, batch: Any, companion: None, step: int) -> Any:
            seen.append((model.training, torch.initial_seed()))
            return super().loss(model, batch, companion, step)

    settings = replace(SETTINGS, steps=6, evaluate_every=2, micro_batch_size=4)
    model = new_model()
    run(tmp_path / "a", model, objective=Looking(), settings=settings, evaluate=lambda model: {})
    run(tmp_path / "b", objective=Looking(), settings=replace(settings, seed=1))
    assert all(training for training, _ in seen) and len({seed for _, seed in seen}) == 12
    assert not model.training


def test_checkpoints_are_pruned_and_left_at_every_multiple_and_the_end(tmp_path: Path) -> None:
    written: list[str] = []

    def watch(metrics: dict[str, Any]) -> None:
        written.extend(path.name for path in list_checkpoints(tmp_path) if path.name not in written)
        assert len(list_checkpoints(tmp_path)) <= 2

    run(tmp_path, settings=replace(SETTINGS, steps=18), watch=watch)
    assert written == [f"step-{step:08d}" for step in (4, 8, 12, 16)]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000016", "step-00000018"]
    assert not any(path.name.startswith(".") for path in (tmp_path / "checkpoints").iterdir())


def test_clipping_bounds_the_gradient_after_the_objective_saw_all_of_it(tmp_path: Path) -> None:
    calls: list[tuple[str, int, float]] = []

    @dataclass(frozen=True)
    class Watching(NextToken):
        calls: list[Any] = field(default_factory=list)

        def before_step(self, model: nn.Module, companion: None, step: int, sums: Any) -> None:
            calls.append(("before", step, norm(model)))

        def after_step(self, model: nn.Module, companion: None, step: int, sums: Any) -> None:
            assert all(p.grad is None for p in model.parameters())
            calls.append(("after", step, 0.0))

    def norm(model: nn.Module) -> float:
        return torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()

    lines = run(tmp_path, objective=Watching(), settings=replace(SETTINGS, steps=3))
    assert [(name, step) for name, step, _ in calls] == [(n, s) for s in range(3) for n in ("before", "after")]
    assert [value for name, _, value in calls if name == "before"] == pytest.approx([x["grad_norm"] for x in lines])


def test_the_split_changes_neither_losses_nor_rates(tmp_path: Path) -> None:
    one, four = (run(tmp_path / str(n), settings=replace(SETTINGS, micro_batch_size=n)) for n in (1, 4))
    for name in ("loss", "grad_norm", "lr"):
        assert [line[name] for line in one] == pytest.approx([line[name] for line in four], rel=1e-4)


def test_a_finished_run_resumed_stays_as_it_is(tmp_path: Path) -> None:
    lines, weights = run(tmp_path), (newest_checkpoint(tmp_path) / "weights.safetensors").read_bytes()
    assert run(tmp_path, new_model(7), resume=True) == lines
    assert (newest_checkpoint(tmp_path) / "weights.safetensors").read_bytes() == weights


def test_more_steps_go_on_from_the_end(tmp_path: Path) -> None:
    run(tmp_path, settings=replace(SETTINGS, steps=5))
    assert [line["step"] for line in run(tmp_path, new_model(7), resume=True)] == list(range(1, 21))


def test_resuming_without_a_checkpoint_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint yet"):
        run(tmp_path, resume=True)


def test_a_loss_that_is_not_finite_names_its_step_and_saves_nothing(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Breaking(NextToken):
        def loss(self, model: Any, batch: Any, companion: None, step: int) -> Any:
            loss = super().loss(model, batch, companion, step)
            return replace(loss, total=loss.total * (float("nan") if step == 9 else 1.0))

    model = new_model()
    with pytest.raises(UserError, match="the loss of step 10 is nan"):
        run(tmp_path, model, objective=Breaking())
    assert newest_checkpoint(tmp_path).name == "step-00000008"
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    lines = run(tmp_path, new_model(7), resume=True)
    assert [line["loss"] for line in lines] == pytest.approx(GOLDEN, abs=1e-4)


def damaged_files(checkpoint: Path) -> dict[str, Callable[[], object]]:
    weights, about = checkpoint / "weights.safetensors", checkpoint / ABOUT
    return {
        "cut": lambda: weights.write_bytes(weights.read_bytes()[:-1]),
        "empty": lambda: weights.write_bytes(b""),
        "gone": lambda: weights.unlink(),
        "no record": lambda: about.unlink(),
        "half a record": lambda: about.write_text(about.read_text()[:30]),
        "zeros": lambda: about.write_bytes(bytes(100)),
        "no hashes": lambda: about.write_text('{"step": 20}'),
        "empty hashes": lambda: about.write_text('{"step": 20, "optimizer": {}, "sha256": {}}'),
        "a list": lambda: about.write_text("[]"),
    }


@pytest.mark.parametrize("kind", damaged_files(Path()))
def test_a_damaged_newest_checkpoint_costs_a_few_steps_only(tmp_path: Path, kind: str) -> None:
    lines = run(tmp_path)
    damaged_files(list_checkpoints(tmp_path)[-1])[kind]()
    assert newest_checkpoint(tmp_path).name == "step-00000016"
    again = run(tmp_path, new_model(7), resume=True)
    assert [(line["step"], line["loss"]) for line in again] == [(line["step"], line["loss"]) for line in lines]
    for checkpoint in list_checkpoints(tmp_path):
        damaged_files(checkpoint)[kind]()
    with pytest.raises(UserError, match=r"every checkpoint .* is damaged .*start the run again"):
        run(tmp_path, resume=True)


def test_metrics_are_rewound_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    for step in range(1, 6):
        log_metrics(tmp_path, {"step": step, "loss": step / 2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    rewind_metrics(tmp_path, 3)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    rewind_metrics(tmp_path / ".", 0)
    assert read_metrics(tmp_path) == []


def test_a_run_folder_holds_one_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        read_run(tmp_path)
    content = {"recipe": "x", "settings": {}, "data": {}}
    with pytest.raises(KeyboardInterrupt), new_run(tmp_path / "run", content):
        raise KeyboardInterrupt  # no run is half begun
    with new_run(tmp_path / "run", content):
        assert not (tmp_path / "run" / "run.json").exists()
    record = read_run(tmp_path / "run")
    assert record["recipe"] == "x" and record["environment"]["torch"] == torch.__version__
    with pytest.raises(UserError, match="already holds a run"), new_run(tmp_path / "run", content):
        pass
    assert read_run(tmp_path / "run") == record
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        read_run(tmp_path / "run")


def test_a_damaged_line_in_the_middle_of_the_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2 of .* is damaged"):
        read_metrics(tmp_path)


@dataclass(frozen=True)
class Odd:
    """A loss that is finite while its gradient is not, or that counts nothing, from `step` on."""

    step: int
    kind: str

    def loss(self, model: Any, batch: Any, companion: Any, step: int) -> Loss:
        loss = NextToken().loss(model, batch, companion, step)
        if step < self.step:
            return loss
        if self.kind == "count":
            return replace(loss, count=torch.tensor(0))
        zero = model.token_embedding.weight.sum() * 0
        return replace(loss, total=loss.total + zero.sqrt())  # the root's slope at 0 is infinite


@pytest.mark.parametrize(("kind", "words"), [("gradient", "gradient norm of step 7 is"), ("count", "step 7 counts")])
@pytest.mark.parametrize("saved", [True, False])
def test_a_bad_step_changes_no_weight(tmp_path: Path, kind: str, words: str, saved: bool) -> None:
    model, states = new_model(), []
    settings = replace(SETTINGS, checkpoint_every=4 if saved else 100)
    with pytest.raises(UserError, match=words) as caught:
        run(
            tmp_path,
            model,
            settings=settings,
            objective=Odd(step=6, kind=kind),
            watch=lambda metrics: states.append(copy.deepcopy(model.state_dict())),
        )
    if kind == "gradient":
        assert ("step-00000004" if saved else "no checkpoint yet") in str(caught.value)
    assert len(states) == 6
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in states[-1].items())


def test_a_finished_run_is_not_written_again(tmp_path: Path) -> None:
    run(tmp_path)
    before = [path.stat().st_mtime_ns for path in list_checkpoints(tmp_path)]
    run(tmp_path, resume=True)
    assert [path.stat().st_mtime_ns for path in list_checkpoints(tmp_path)] == before


def test_batches_of_any_build_move() -> None:
    batch = {"a": torch.zeros(2), "b": [torch.zeros(1), "text"], "c": {"d": (torch.zeros(1),)}, "e": 3}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"].is_meta and moved["b"][0].is_meta and moved["c"]["d"][0].is_meta
    assert moved["b"][1] == "text" and moved["e"] == 3 and isinstance(Counting(), Source)
