"""From a recipe to a run: its tokenizer, data and model are made, trained in a run folder, and opened again."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bedplate.adapt.start_from import start_from
from bedplate.data.labeled import PACKAGES_TASK
from bedplate.data.mixture import Share, read_shares
from bedplate.data.prefetch import Prefetched
from bedplate.data.text import BUILT_IN
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.evaluate.language import Likelihood, likelihood
from bedplate.files import write_json
from bedplate.models import build
from bedplate.recipes.prepare import Prepared, load_run, open_start, prepare
from bedplate.recipes.recipe import Labeled, Recipe, Text, find_recipe, settings_of
from bedplate.train import ranks
from bedplate.train.loop import Outcome, Settings, train
from bedplate.train.memory import forget_peak, memory_now, memory_peak
from bedplate.train.parallel import Parallel
from bedplate.train.report import HELD_OUT, RESULT, USAGE
from bedplate.train.run import check_no_run, held, new_run, read_run
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
    recipe = replace(recipe, data=_absolute(recipe.data), start=_whole(recipe.start))
    prepared = ranks.leader_first(lambda: _begin(recipe, folder, skip_spikes=execution.get("skip_spikes", False)))
    if prepared is None:
        prepared = prepare(recipe, tokenizer=ByteBPE.from_folder(folder / "tokenizer"))
    return _train(recipe, prepared, folder, watch=watch, track=track, resume=False, **execution)


def _begin(recipe: Recipe, folder: Path, *, skip_spikes: bool) -> Prepared:
    check_no_run(folder)
    prepared = prepare(recipe)
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
    prepared = prepare(recipe, tokenizer=ByteBPE.from_folder(folder / "tokenizer"))
    if record["data"]["corpus"]["sha256"] != prepared.record()["corpus"]["sha256"]:
        cause = f"the text {recipe.data.corpus!r} has changed since {folder} began"
        raise UserError(cause, fix="restore the text (or the Python version of a built-in one), or start a new run")
    begun = ranks.decided(lambda: any((folder / "checkpoints").glob("step-*")))
    execution["skip_spikes"] = execution.get("skip_spikes", False) or record.get("skip_spikes", False)
    return _train(recipe, prepared, folder, watch=watch, track=track, resume=begun, **execution)


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
    if recipe.start and not resume:
        start_from(model, open_start(recipe.start)[0])
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
        best=HELD_OUT,
        **execution,
    )

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {HELD_OUT: likelihood(model, prepared.probe_windows()).bits_per_byte} | prepared.measures(model)

    with ExitStack() as stack:
        ranks.leader_first(lambda: stack.enter_context(held(folder)))
        if ranks.rank() == 0:
            watch = stack.enter_context(tracked(folder, track, settings_of(recipe), watch=watch))
        source = stack.enter_context(Prefetched(prepared.source))
        outcome = train(
            model, source, recipe.objective,
            settings=settings, folder=folder, evaluate=evaluate, watch=watch, resume=resume,
        )  # fmt: skip
        if not outcome.interrupted and ranks.rank() == 0:
            used = {"memory_before": before, "memory_peak": memory_peak(), "execution": _spread(settings)}
            write_json(folder / USAGE, used)
            del model  # the one that is measured needs its room
            _measure_whole(folder, prepared, outcome.step)
    ranks.barrier()
    return outcome


def _measure_whole(folder: Path, prepared: Prepared, step: int) -> None:
    """Measure all held-out text at the end, of a mixture also that of each part, and write the result."""
    trained, _ = load_run(folder)
    model = trained.to(ranks.device())
    measured = {str(part.share): likelihood(model, part.held_out_windows()) for part in prepared.parts}
    whole = Likelihood.total(measured.values())
    result = {"bits_per_byte": whole.bits_per_byte, "perplexity_per_token": whole.perplexity_per_token}
    result |= {"tokens": whole.tokens, "bytes": whole.bytes, **prepared.measures(model)}
    by_part = {"parts": {name: {"bits_per_byte": part.bits_per_byte} for name, part in measured.items()}}
    write_json(folder / RESULT, {"step": step, **result} | (by_part if len(measured) > 1 else {}))


def _spread(settings: Settings) -> dict[str, Any]:
    """How the work was spread, as plans name it."""
    parallel = settings.parallel
    return {"gpus": ranks.world_size(), "strategy": parallel.strategy, "checkpointing": parallel.checkpointing}


def _whole(name: str) -> str:
    return name if name in ("", *BUILT_IN) else str(Path(name).expanduser().resolve())


def _absolute(data: Text | Labeled) -> Text | Labeled:
    """The same files, from whatever folder the run is resumed or repeated."""
    if isinstance(data, Labeled):
        return data if data.corpus == PACKAGES_TASK else replace(data, corpus=_whole(data.corpus))
    shares = [replace(share, corpus=_whole(share.corpus)) for share in read_shares(data.corpus)]
    plain = len(shares) == 1 and shares[0] == Share(shares[0].corpus)
    corpus = shares[0].corpus if plain else ",".join(map(str, shares))
    return replace(data, corpus=corpus, tokenizer=_whole(data.tokenizer))
