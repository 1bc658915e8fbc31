"""From the text that a recipe names to what is trained and measured on: tokenizer, shards, windows."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bedplate.data.labeled import Record, open_task
from bedplate.data.mixture import Mixture, Share, joint_receipt, read_shares
from bedplate.data.shards import MANIFEST, TokenShards, cached, open_sides
from bedplate.data.source import TokenWindows, sequential_windows
from bedplate.data.tasks import MARKS, Item, Marks, TaskItems, with_marks
from bedplate.data.text import Corpus, open_corpus
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.evaluate.tasks import accuracy
from bedplate.models import build, from_pretrained
from bedplate.recipes.recipe import Labeled, Recipe, Text, find_recipe
from bedplate.train.checkpoint import load_weights, newest_checkpoint
from bedplate.train.report import ACCURACY
from bedplate.train.run import RECORD, read_run

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
    source: TokenWindows | Mixture | TaskItems

    def held_out_windows(self) -> Iterator[dict[str, Tensor]]:
        """The held-out text of all parts, one after the other."""
        return chain.from_iterable(part.held_out_windows() for part in self.parts)

    def probe_windows(self) -> Iterator[dict[str, Tensor]]:
        """A beginning of the held-out text of each part."""
        batches = -(-PROBE_TOKENS // (8 * self.parts[0].windows.length * len(self.parts)))
        return chain.from_iterable(islice(part.held_out_windows(), batches) for part in self.parts)

    def measures(self, model: nn.Module) -> dict[str, float]:
        """What else is measured on held-out data."""
        return {}

    def record(self) -> dict[str, Any]:
        """What the run learns from, for `run.json`; of a mixture also each part."""
        records = [part.record() for part in self.parts]
        tokenizer = {"tokenizer_sha256": self.tokenizer.digest}
        if not isinstance(self.source, Mixture):
            return records[0] | tokenizer
        shares = [part.share for part in self.parts]
        whole = {"corpus": joint_receipt(shares, [record["corpus"] for record in records])} | tokenizer
        whole |= {key: sum(record[key] for record in records) for key in ("train_tokens", "held_out_tokens")}
        return whole | {"parts": [{"share": str(part.share)} | part.record() for part in self.parts]}


@dataclass(frozen=True, kw_only=True)
class PreparedTask(Prepared):
    """The same with labels. Its text is measured as language, its labels by the share that is right."""

    held_out_items: Sequence[Item]

    def measures(self, model: nn.Module) -> dict[str, float]:
        """The share of held-out items whose label is the likeliest."""
        return {ACCURACY: accuracy(model, self.held_out_items)}


def prepare(recipe: Recipe, *, tokenizer: ByteBPE | None = None) -> Prepared:
    """Read the text, train or read the tokenizer, and cut windows; token shards are opened as they are."""
    if isinstance(recipe.data, Labeled):
        return _prepare_task(recipe, recipe.data, tokenizer)
    shares = read_shares(recipe.data.corpus)
    corpora = [None if _is_shards(share.corpus) else open_corpus(share.corpus) for share in shares]
    if tokenizer is None:
        tokenizer = _tokenizer_for(recipe, recipe.data, [corpus for corpus in corpora if corpus is not None])
    parts = tuple(_part(recipe, recipe.data, *pair, tokenizer) for pair in zip(shares, corpora, strict=True))
    source: TokenWindows | Mixture = parts[0].windows
    if len(parts) > 1 or shares[0].epochs:
        source = Mixture(shares, tuple(part.windows for part in parts), batch_size=recipe.batch_size)
        source.check_steps(recipe.steps)
    return Prepared(parts=parts, tokenizer=tokenizer, source=source)


def _prepare_task(recipe: Recipe, data: Labeled, tokenizer: ByteBPE | None) -> PreparedTask:
    """The vocabulary is that of the model that training starts from, or trained on the texts, and has the marks."""
    task = open_task(data.corpus, labels=data.labels, seed=recipe.seed)
    corpus, size = task.corpus(), recipe.model.vocab_size
    classes = getattr(recipe.model, "num_classes", None)
    if classes != (None if task.chooses else len(task.classes)):
        fix = "use a recipe that chooses" if task.chooses else f"set model.num_classes={len(task.classes)}"
        raise UserError(f"{data.corpus} has {len(task.classes)} classes, the model {classes or 'none'}", fix=fix)
    if tokenizer is None and recipe.start:
        tokenizer = open_start(recipe.start)[1]
    elif tokenizer is None:
        tokenizer = ByteBPE.train((document.text for document in corpus.train), vocab_size=size - len(MARKS))
    tokenizer = with_marks(tokenizer)
    if tokenizer.vocab_size != size:
        cause = f"the vocabulary has {tokenizer.vocab_size} tokens with the marks of tasks, the model {size}"
        raise UserError(cause, fix=f"set model.vocab_size={tokenizer.vocab_size}")
    marks, longest = Marks.of(tokenizer), data.longest_text or None

    def items(records: Iterable[Record]) -> list[Item]:
        return [record.item(marks, lambda text: tokenizer.encode(text)[:longest], task.classes) for record in records]

    room = {"length": recipe.model.context_length, "batch_size": recipe.batch_size, "seed": recipe.seed}
    train_shards, held_out = cached(corpus, tokenizer)
    windows = TokenWindows(train_shards, isolate=True, **room)
    part = Part(share=Share(data.corpus), receipt=corpus.receipt(), windows=windows, held_out=held_out)
    learned, measured = TaskItems(items(task.train), **room), TaskItems(items(task.held_out), **room)
    return PreparedTask(parts=(part,), tokenizer=tokenizer, source=learned, held_out_items=measured.items)


def open_start(start: str) -> tuple[nn.Module, ByteBPE]:
    """The model that training begins from, and its tokenizer: of a run, or of a folder in Hugging Face layout."""
    folder = Path(start).expanduser()
    if (folder / RECORD).exists():
        return load_run(folder)
    if not (folder / "config.json").exists():
        raise UserError(f"{start} is neither a run nor a model", fix="name the folder of one, with start=FOLDER")
    return from_pretrained(folder), ByteBPE.from_folder(folder)


def load_run(folder: Path) -> tuple[nn.Module, ByteBPE]:
    """The model at a run's newest good checkpoint (its averaged weights, where it kept them), and its tokenizer."""
    record = read_run(folder)
    checkpoint = newest_checkpoint(folder)
    recipe = find_recipe(record["recipe"], record["settings"])
    model = build(recipe.model)
    load_weights(checkpoint, model, averaged=recipe.average > 0)
    return model.eval(), ByteBPE.from_folder(folder / "tokenizer")


def _is_shards(corpus: str) -> bool:
    return (Path(corpus).expanduser() / "train" / MANIFEST).exists()


def _part(recipe: Recipe, data: Text, share: Share, corpus: Corpus | None, tokenizer: ByteBPE) -> Part:
    if corpus is None:
        train_shards, held_out = open_sides(Path(share.corpus).expanduser())
        receipt = train_shards.manifest["corpus"] or _receipt_of(Path(share.corpus), train_shards, held_out)
        if train_shards.manifest["tokenizer_sha256"] != tokenizer.digest:
            cause = f"the token shards in {share.corpus} were made with another vocabulary"
            raise UserError(cause, fix="give the folder of that vocabulary with data.tokenizer")
    else:
        train_shards, held_out = cached(corpus, tokenizer)
        receipt = corpus.receipt()
    windows = TokenWindows(
        train_shards,
        length=recipe.model.context_length,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        isolate=data.isolate,
    )
    return Part(share=share, receipt=receipt, windows=windows, held_out=held_out)


def _receipt_of(folder: Path, *sides: TokenShards) -> dict[str, Any]:
    """What can be told of text that was given as ids."""
    hashes = [entry["sha256"] for side in sides for entry in side.manifest["files"].values()]
    documents, held_out_documents = (side.manifest["num_documents"] for side in sides)
    size, held_out_size = (side.manifest["num_bytes"] for side in sides)
    return {
        "name": folder.name,
        "source": str(folder),
        "documents": documents + held_out_documents,
        "bytes": size + held_out_size,
        "held_out_documents": held_out_documents,
        "held_out_bytes": held_out_size,
        "sha256": hashlib.sha256(" ".join(hashes).encode()).hexdigest(),
    }


def _tokenizer_for(recipe: Recipe, data: Text, corpora: Sequence[Corpus]) -> ByteBPE:
    size = recipe.model.vocab_size
    if not data.tokenizer:
        if not corpora:
            cause = f"{data.corpus} holds token ids, but not their vocabulary"
            raise UserError(cause, fix="give its folder: data.tokenizer=FOLDER")
        texts = (document.text for corpus in corpora for document in corpus.train)
        return ByteBPE.train(texts, vocab_size=size)
    tokenizer = ByteBPE.from_folder(data.tokenizer)
    if tokenizer.vocab_size > size:
        cause = f"the vocabulary in {data.tokenizer} has {tokenizer.vocab_size} tokens, the model {size}"
        raise UserError(cause, fix=f"set model.vocab_size={tokenizer.vocab_size}")
    return tokenizer
