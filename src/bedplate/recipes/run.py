"""From a recipe to a run: its tokenizer, data and model are made, trained in a run folder, and opened again."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bedplate.adapt.start_from import start_from
from bedplate.data.prefetch import Prefetched
from bedplate.data.tokenize import Tokenizer, load_tokenizer
from bedplate.errors import UserError
from bedplate.files import write_json
from bedplate.models import build, from_pretrained
from bedplate.recipes.recipe import Prepared, Recipe, find_recipe, settings_of
from bedplate.train import ranks
from bedplate.train.checkpoint import load_weights, newest_checkpoint
from bedplate.train.loop import Outcome, Settings, train
from bedplate.train.memory import forget_peak, memory_now, memory_peak
from bedplate.train.parallel import Parallel
from bedplate.train.report import RESULT, USAGE
from bedplate.train.run import RECORD, check_no_run, held, new_run, read_run
from bedplate.train.track import check_trackers, tracked

RESUMABLE = ("micro_batch_size", "checkpoint_every", "evaluate_every")


def start(
    recipe: Recipe,
    folder: Path,
    *,
    watch: Callable[[dict[str, Any]], None],
    track: Sequence[str] = (),
    **execution: Any,
) -> Outcome:
    """Train a recipe in a new run folder.

    `track`: where it is to be watched besides TensorBoard, such as ("wandb",). `execution`: what of
    `train.loop.Settings` changes nothing that is learned (parallel, keep) or only by choice (skip_spikes). With
    several ranks, the first reads and tokenizes the text, and the others open what it left.
    """
    check_trackers(track)
    recipe = replace(recipe, data=recipe.data.resolved())
    prepared = ranks.leader_first(lambda: _begin(recipe, folder, skip_spikes=execution.get("skip_spikes", False)))
    if prepared is None:
        prepared = recipe.data.prepare(recipe, tokenizer=load_tokenizer(folder / "tokenizer"))
    return _train(recipe, prepared, folder, watch=watch, track=track, resume=False, **execution)


def _begin(recipe: Recipe, folder: Path, *, skip_spikes: bool) -> Prepared:
    check_no_run(folder)
    prepared = recipe.data.prepare(recipe)
    record = {"recipe": recipe.name, "settings": settings_of(recipe), "data": prepared.record()}
    with new_run(folder, record | ({"skip_spikes": True} if skip_spikes else {})):
        prepared.tokenizer.save(folder / "tokenizer")
    return prepared


def resume(
    folder: Path,
    *,
    watch: Callable[[dict[str, Any]], None],
    settings: Mapping[str, Any] | None = None,
    track: Sequence[str] = (),
    **execution: Any,
) -> Outcome:
    """Go on with a run from its newest good checkpoint, or from its start when it has none yet.

    Of its settings only those that change nothing that is learned may be others (`RESUMABLE`).
    """
    check_trackers(track)
    record = read_run(folder)
    if changed := sorted(set(settings or {}) - set(RESUMABLE)):
        fix = f"leave it out (only {', '.join(RESUMABLE)} may change), or start a new run with --from {folder}"
        raise UserError(f"a resumed run keeps its {changed[0]}", fix=fix)
    recipe = find_recipe(record["recipe"], record["settings"] | dict(settings or {}))
    prepared = recipe.data.prepare(recipe, tokenizer=load_tokenizer(folder / "tokenizer"))
    if record["data"]["corpus"]["sha256"] != prepared.record()["corpus"]["sha256"]:
        cause = f"the text {recipe.data.corpus!r} has changed since {folder} began"
        raise UserError(cause, fix="restore the text (or the Python version of a built-in one), or start a new run")
    begun = ranks.decided(lambda: any((folder / "checkpoints").glob("step-*")))
    execution["skip_spikes"] = execution.get("skip_spikes", False) or record.get("skip_spikes", False)
    return _train(recipe, prepared, folder, watch=watch, track=track, resume=begun, **execution)


def load_run(folder: Path) -> tuple[nn.Module, Tokenizer]:
    """The model at a run's newest good checkpoint (its averaged weights, where it kept them), and its tokenizer."""
    record = read_run(folder)
    checkpoint = newest_checkpoint(folder)
    recipe = find_recipe(record["recipe"], record["settings"])
    model = build(recipe.model)
    load_weights(checkpoint, model, averaged=recipe.average > 0)
    return model.eval(), load_tokenizer(folder / "tokenizer")


def open_start(start: str) -> tuple[nn.Module, Tokenizer]:
    """The model that training begins from, and its tokenizer: of a run, or of a folder in Hugging Face layout."""
    folder = Path(start).expanduser()
    if (folder / RECORD).exists():
        return load_run(folder)
    if not (folder / "config.json").exists():
        raise UserError(f"{start} is neither a run nor a model", fix="name the folder of one, with data.start=FOLDER")
    return from_pretrained(folder), load_tokenizer(folder)


def _train(
    recipe: Recipe,
    prepared: Prepared,
    folder: Path,
    *,
    watch: Callable[[dict[str, Any]], None],
    track: Sequence[str],
    resume: bool,
    **execution: Any,
) -> Outcome:
    before = memory_now()
    forget_peak()
    torch.manual_seed(recipe.seed)
    model = build(recipe.model)
    if not resume and getattr(recipe.data, "start", ""):
        start_from(model, open_start(recipe.data.start)[0])
    if not (ranks.world_size() > 1 and execution.get("parallel", Parallel()).strategy == "fsdp"):
        model.to(ranks.device())  # otherwise each block goes there as it is sharded: the whole may not fit
    settings = Settings(
        steps=recipe.steps,
        micro_batch_size=recipe.micro_batch_size,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        average=recipe.average,
        precision=recipe.precision,
        seed=recipe.seed,
        evaluate_every=recipe.evaluate_every,
        checkpoint_every=recipe.checkpoint_every,
        best=prepared.best,
        **execution,
    )

    with ExitStack() as stack:
        ranks.leader_first(lambda: stack.enter_context(held(folder)))
        if ranks.rank() == 0:
            watch = stack.enter_context(tracked(folder, track, settings_of(recipe), watch=watch))
        source = stack.enter_context(Prefetched(prepared.source))
        outcome = train(
            model, source, recipe.objective,
            settings=settings, folder=folder, evaluate=prepared.probe, watch=watch, resume=resume,
        )  # fmt: skip
        if not outcome.interrupted and ranks.rank() == 0:
            used = {"memory_before": before, "memory_peak": memory_peak(), "execution": _spread(settings)}
            write_json(folder / USAGE, used)
            del model  # the one that is measured needs its room
            trained, _ = load_run(folder)
            write_json(folder / RESULT, {"step": outcome.step, **prepared.measure(trained.to(ranks.device()))})
    ranks.barrier()
    return outcome


def _spread(settings: Settings) -> dict[str, Any]:
    """How the work was spread, as plans name it."""
    parallel = settings.parallel
    return {"gpus": ranks.world_size(), "strategy": parallel.strategy, "checkpointing": parallel.checkpointing}
