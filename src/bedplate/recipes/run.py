"""From a recipe to a run: its tokenizer, data and model are made, trained in a run folder, and opened again."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bedplate.data.mixture import Mixture, Share, joint_receipt, read_shares
from bedplate.data.prefetch import Prefetched
from bedplate.data.shards import TokenShards, cached
from bedplate.data.source import TokenWindows, sequential_windows
from bedplate.data.text import BUILT_IN, Corpus, open_corpus
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.evaluate.language import Likelihood, likelihood
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
class Part:
    """One corpus of a run, tokenized: all of its text, or a part of a mixture. The text itself is not kept."""

    share: Share
    receipt: Mapping[str, Any]
    windows: TokenWindows
    held_out: TokenShards

    def held_out_windows(self) -> Iterator[dict[str, Tensor]]:
        """The held-out text, cut like the training text."""
        windows = self.windows
        return sequential_windows(self.held_out, length=windows.length, batch_size=8, isolate=windows.isolate)

    def record(self) -> dict[str, Any]:
        """What was learned from, by counts and hashes."""
        return {
            "corpus": self.receipt,
            "train_tokens": self.windows.shards.num_tokens,
            "held_out_tokens": self.held_out.num_tokens,
            "shards": {name: entry["sha256"] for name, entry in self.windows.shards.manifest["files"].items()},
        }


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a recipe stands for once its text is read."""

    parts: tuple[Part, ...]
    tokenizer: ByteBPE
    source: TokenWindows | Mixture

    def held_out_windows(self) -> Iterator[dict[str, Tensor]]:
        """The held-out text of all parts, one after the other."""
        return chain.from_iterable(part.held_out_windows() for part in self.parts)

    def probe_windows(self) -> Iterator[dict[str, Tensor]]:
        """A beginning of the held-out text of each part."""
        batches = -(-PROBE_TOKENS // (8 * self.parts[0].windows.length * len(self.parts)))
        return chain.from_iterable(islice(part.held_out_windows(), batches) for part in self.parts)

    def record(self) -> dict[str, Any]:
        """What the run learns from, for `run.json`; of a mixture also each part."""
        records = [part.record() for part in self.parts]
        tokenizer = {"tokenizer_sha256": self.tokenizer.digest}
        if isinstance(self.source, TokenWindows):
            return records[0] | tokenizer
        shares = [part.share for part in self.parts]
        whole = {"corpus": joint_receipt(shares, [record["corpus"] for record in records])} | tokenizer
        whole |= {key: sum(record[key] for record in records) for key in ("train_tokens", "held_out_tokens")}
        return whole | {"parts": [{"share": str(part.share)} | part.record() for part in self.parts]}


def prepare(recipe: Recipe, *, tokenizer: ByteBPE | None = None) -> Prepared:
    """Read the text, train or read the tokenizer, and cut windows."""
    shares = read_shares(recipe.data.corpus)
    corpora = [open_corpus(share.corpus) for share in shares]
    if tokenizer is None:
        tokenizer = _tokenizer_for(recipe, corpora)
    parts = tuple(_part(recipe, *pair, tokenizer) for pair in zip(shares, corpora, strict=True))
    source: TokenWindows | Mixture = parts[0].windows
    if len(parts) > 1 or shares[0].epochs:
        source = Mixture(shares, tuple(part.windows for part in parts), batch_size=recipe.batch_size)
        source.check_steps(recipe.steps)
    return Prepared(parts=parts, tokenizer=tokenizer, source=source)


def _part(recipe: Recipe, share: Share, corpus: Corpus, tokenizer: ByteBPE) -> Part:
    train_shards, held_out = cached(corpus, tokenizer)
    windows = TokenWindows(
        train_shards,
        length=recipe.model.context_length,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        isolate=recipe.data.isolate,
    )
    return Part(share=share, receipt=corpus.receipt(), windows=windows, held_out=held_out)


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
    with new_run(folder, {"recipe": recipe.name, "settings": settings_of(recipe), "data": prepared.record()}):
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

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {HELD_OUT: likelihood(model, prepared.probe_windows()).bits_per_byte}

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
    result |= {"tokens": whole.tokens, "bytes": whole.bytes}
    by_part = {"parts": {name: {"bits_per_byte": part.bits_per_byte} for name, part in measured.items()}}
    write_json(folder / RESULT, {"step": step, **result} | (by_part if len(measured) > 1 else {}))


def _spread(settings: Settings) -> dict[str, Any]:
    """How the work was spread, as plans name it."""
    parallel = settings.parallel
    return {"gpus": ranks.world_size(), "strategy": parallel.strategy, "checkpointing": parallel.checkpointing}


def _absolute(data: Text) -> Text:
    """The same files, from whatever folder the run is resumed or repeated."""

    def whole(name: str) -> str:
        return name if name in ("", *BUILT_IN) else str(Path(name).expanduser().resolve())

    shares = [replace(share, corpus=whole(share.corpus)) for share in read_shares(data.corpus)]
    plain = len(shares) == 1 and shares[0] == Share(shares[0].corpus)
    corpus = shares[0].corpus if plain else ",".join(map(str, shares))
    return replace(data, corpus=corpus, tokenizer=whole(data.tokenizer))


def _tokenizer_for(recipe: Recipe, corpora: Iterable[Corpus]) -> ByteBPE:
    size = recipe.model.vocab_size
    if not recipe.data.tokenizer:
        texts = (document.text for corpus in corpora for document in corpus.train)
        return ByteBPE.train(texts, vocab_size=size)
    tokenizer = ByteBPE.from_folder(recipe.data.tokenizer)
    if tokenizer.vocab_size > size:
        cause = f"the vocabulary in {recipe.data.tokenizer} has {tokenizer.vocab_size} tokens, the model {size}"
        raise UserError(cause, fix=f"set model.vocab_size={tokenizer.vocab_size}")
    return tokenizer
