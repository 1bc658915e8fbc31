"""Commands that say how good a model is: evaluate."""

import argparse
from pathlib import Path
from typing import Any

from bedplate.commands.options import Command, open_model, positive


def perplexity(options: argparse.Namespace) -> int:
    """Perplexity per token, per word and per byte of a text."""
    from bedplate.console import print_table, save_json, short
    from bedplate.data.text import BUILT_IN, open_corpus
    from bedplate.evaluate.perplexity import perplexity as measure

    language_model = open_model(options.target, None)
    corpus = open_corpus(options.data)
    sides = [corpus.held_out] if options.data in BUILT_IN else [corpus.train, corpus.held_out]
    texts = (document.text for side in sides for document in side)
    result = measure(
        language_model.model, language_model.tokenizer, texts, context=options.context, stride=options.stride
    )
    which = "held-out part of " if options.data in BUILT_IN else ""
    title = (
        f"{options.target} on {which}{options.data}, {result.context} tokens of context, a stride of {result.stride}"
    )
    print_table([{key: short(value) for key, value in row.items()} for row in result.rows()], title=title)
    print(f"{result.tokens:,} tokens, {result.words:,} words, {result.bytes:,} bytes; ids {result.sha256[:16]}")
    counts = {
        name: getattr(result, name) for name in ("nats", "tokens", "words", "bytes", "context", "stride", "sha256")
    }
    save_json(options.json, {"rows": result.rows(), **counts})
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Measure a model: perplexity of a text."""
    return options.measure(options)


def register(command: Command) -> None:
    """Add this command, its measures and their options."""
    measures = command(evaluate).add_subparsers(metavar="measure", required=True)

    def measure(function: Any, **parser_options: Any) -> argparse.ArgumentParser:
        added = measures.add_parser(function.__name__.replace("_", "-"), help=function.__doc__, **parser_options)
        added.set_defaults(measure=function)
        return added

    one = measure(perplexity, description=perplexity.__doc__)
    one.add_argument("target", help="run, folder, shipped name (gpt2-tiny) or hub id")
    one.add_argument("data", nargs="?", default="pydocs", help="a file, a folder, pydocs (default) or stdlib")
    one.add_argument("--context", type=positive, metavar="N", help="tokens of a window (default: the model's)")
    one.add_argument("--stride", type=positive, metavar="N", help="tokens from window to window (default: half of it)")
    one.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")
