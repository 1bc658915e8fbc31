"""From a recipe to a run: its tokenizer, data and model are made, trained in a run folder, and opened again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bedplate.data.shards import TokenShards, cached
from bedplate.data.source import TokenWindows, sequential_windows
from bedplate.data.text import BUILT_IN, Corpus, open_corpus
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.evaluate.language import likelihood
from bedplate.files import write_json
from bedplate.models import build
from bedplate.recipes.recipe import Recipe, Text, find_recipe, settings_of
from bedplate.train import ranks
from bedplate.train.checkpoint import load_weights, newest_checkpoint
from bedplate.train.loop import Outcome, Settings, train
from bedplate.train.memory import forget_peak, memory_now, memory_peak
from bedplate.train.report import HELD_OUT, RESULT, USAGE
from bedplate.train.run import check_no_run, held, new_run, read_run
from bedplate.train.track import check_trackers, tracked

RESUMABLE = ("micro_batch_size", "checkpoint_every", "evaluate_every")
PROBE_TOKENS = 16_384  # held-out tokens measured while training; the whole held-out text is measured at the end


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a recipe stands for once its text is read."""

    corpus: Corpus
    tokenizer: ByteBPE
    source: TokenWindows
    held_out: TokenShards

    def held_out_windows(self) -> Iterator[dict[str, Tensor]]:
        """The held-out text, cut like the training text."""
        windows = self.source
        return sequential_windows(self.held_out, length=windows.length, batch_size=8, isolate=windows.isolate)


def prepare(recipe: Recipe, *, tokenizer: ByteBPE | None = None) -> Prepared:
    """Read the text, train or read the tokenizer, and cut windows."""
    corpus = open_corpus(recipe.data.corpus)
    if tokenizer is None:
        tokenizer = _tokenizer_for(recipe, corpus)
    train_shards, held_out = cached(corpus, tokenizer)
    length = recipe.model.context_length
    source = TokenWindows(
        train_shards, length=length, batch_size=recipe.batch_size, seed=recipe.seed, isolate=recipe.data.isolate
    )
    return Prepared(corpus=corpus, tokenizer=tokenizer, source=source, held_out=held_out)


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
    recipe = replace(recipe, data=_absolute(recipe.data))
    prepared = ranks.leader_first(lambda: _begin(recipe, folder))
    if prepared is None:
        prepared = prepare(recipe, tokenizer=ByteBPE.from_folder(folder / "tokenizer"))
    return _train(recipe, prepared, folder, watch=watch, track=track, resume=False, **execution)


def _begin(recipe: Recipe, folder: Path) -> Prepared:
    check_no_run(folder)
    prepared = prepare(recipe)
    shards = prepared.source.shards
    data = {
        "corpus": prepared.corpus.receipt(),
        "tokenizer_sha256": prepared.tokenizer.digest,
        "train_tokens": shards.num_tokens,
        "held_out_tokens": prepared.held_out.num_tokens,
        "shards": {name: entry["sha256"] for name, entry in shards.manifest["files"].items()},
    }
    with new_run(folder, {"recipe": recipe.name, "settings": settings_of(recipe), "data": data}):
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
    before, now = record["data"]["corpus"]["sha256"], prepared.corpus.receipt()["sha256"]
    if before != now:
        cause = f"the text {recipe.data.corpus!r} has changed since {folder} began"
        raise UserError(cause, fix="restore the text (or the Python version of a built-in one), or start a new run")
    begun = any((folder / "checkpoints").glob("step-*"))
    return _train(recipe, prepared, folder, watch=watch, track=track, resume=begun, **execution)


def load_run(folder: Path) -> tuple[nn.Module, ByteBPE]:
    """The model at a run's newest good checkpoint (its averaged weights, where it kept them), and its tokenizer."""
    record = read_run(folder)
    checkpoint = newest_checkpoint(folder)
    recipe = find_recipe(record["recipe"], record["settings"])
    model = build(recipe.model)
    load_weights(checkpoint, model, averaged=recipe.average > 0)
    return model.eval(), ByteBPE.from_folder(folder / "tokenizer")


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
    model = build(recipe.model).to(ranks.device())
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
    probe = -(-PROBE_TOKENS // (8 * prepared.source.length))

    def evaluate(model: nn.Module) -> dict[str, float]:
        measured = likelihood(model, islice(prepared.held_out_windows(), probe))
        return {HELD_OUT: measured.bits_per_byte}

    with ExitStack() as stack:
        ranks.leader_first(lambda: stack.enter_context(held(folder)))
        if ranks.rank() == 0:
            watch = stack.enter_context(tracked(folder, track, settings_of(recipe), watch=watch))
        outcome = train(
            model, prepared.source, recipe.objective,
            settings=settings, folder=folder, evaluate=evaluate, watch=watch, resume=resume,
        )  # fmt: skip
        if not outcome.interrupted and ranks.rank() == 0:
            used = {"memory_before": before, "memory_peak": memory_peak(), "execution": _spread(settings)}
            write_json(folder / USAGE, used)
            _measure_whole(folder, prepared, outcome.step)
    ranks.barrier()
    return outcome


def _measure_whole(folder: Path, prepared: Prepared, step: int) -> None:
    """Measure the whole held-out text at the end, and write the result."""
    trained, _ = load_run(folder)
    whole = likelihood(trained.to(ranks.device()), prepared.held_out_windows())
    result = {"bits_per_byte": whole.bits_per_byte, "perplexity_per_token": whole.perplexity_per_token}
    write_json(folder / RESULT, {"step": step, **result, "tokens": whole.tokens, "bytes": whole.bytes})


def _spread(settings: Settings) -> dict[str, Any]:
    """How the work was spread, as plans name it."""
    parallel = settings.parallel
    return {"gpus": ranks.world_size(), "strategy": parallel.strategy, "checkpointing": parallel.checkpointing}


def _absolute(data: Text) -> Text:
    """The same files, from whatever folder the run is resumed or repeated."""

    def whole(name: str) -> str:
        return name if name in ("", *BUILT_IN) else str(Path(name).expanduser().resolve())

    return replace(data, corpus=whole(data.corpus), tokenizer=whole(data.tokenizer))


def _tokenizer_for(recipe: Recipe, corpus: Corpus) -> ByteBPE:
    size = recipe.model.vocab_size
    if not recipe.data.tokenizer:
        return ByteBPE.train((document.text for document in corpus.train), vocab_size=size)
    tokenizer = ByteBPE.from_folder(recipe.data.tokenizer)
    if tokenizer.vocab_size > size:
        cause = f"the vocabulary in {recipe.data.tokenizer} has {tokenizer.vocab_size} tokens, the model {size}"
        raise UserError(cause, fix=f"set model.vocab_size={tokenizer.vocab_size}")
    return tokenizer
