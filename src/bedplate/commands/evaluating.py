"""Commands that say how good a model is: evaluate."""

import argparse
import sys
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


def rank(options: argparse.Namespace) -> int:
    """Choose among options by their likelihood, under several prompts a task: the protocol of T0 and BLOOMZ."""
    from bedplate.console import print_table, save_json, save_lines
    from bedplate.evaluate import rank as ranking
    from bedplate.evaluate.templates import read_records, read_templates

    records, templates = read_records(options.data), read_templates(options.templates)
    language_model = open_model(options.target, None)
    drawn = {"limit": options.limit, "seed": options.seed}
    answers = ranking.rank(language_model, records, templates, **drawn, watch=_watch)
    prompts, tasks = ranking.by_prompt(answers), ranking.by_task(answers)
    shown = ("task", "language", "template language", "prompt", "questions", "accuracy", "low", "high")
    print_table(prompts, columns=shown, title="Each prompt, with its 95 % interval")
    print()
    print_table(tasks, title="Median over prompts, and their spread")
    receipt = ranking.receipt(language_model, answers, templates, **drawn)
    print(f"{len(answers):,} questions; ids {receipt['ids_sha256'][:16]}, weights {receipt['model_sha256'][:16]}")
    save_json(options.json, {"rows": tasks, "prompts": prompts, **receipt})
    if options.answers:
        save_lines(options.answers, (answer.record() for answer in answers))
    return 0


def few_shot(options: argparse.Namespace) -> int:
    """Answer questions behind none, one or several solved examples in the prompt, as GPT-3 was evaluated."""
    from bedplate.console import print_table, save_json
    from bedplate.evaluate.few_shot import ask, read_examples, table

    questions = read_examples(options.data)
    pool = read_examples(options.examples) if options.examples else []
    language_model = open_model(options.target, None)
    answered = ask(
        language_model, questions[: options.limit], pool or questions[options.limit or len(questions) :],
        shots=options.shots, seeds=options.seeds, watch=_watch,
    )  # fmt: skip
    rows = table(answered)
    print_table(rows, title=f"{options.target}: {len(questions[: options.limit]):,} questions")
    save_json(options.json, {"rows": rows, "answers": [vars(each) for each in answered]})
    return 0


def scaling(options: argparse.Namespace) -> int:
    """Fit a power law to the losses of runs of several sizes, and predict the largest from the others."""
    from bedplate.console import print_table, save_json
    from bedplate.evaluate import scaling as laws

    runs = laws.read_runs(options.data, x=options.x, loss=options.loss)
    law = laws.fit(runs, with_floor=options.floor)
    between = laws.interval(runs, with_floor=options.floor, seed=options.seed)
    names = ("factor", "exponent", *(("floor",) if options.floor else ()))
    rows = [
        {"number": name, "value": getattr(law, name), "low": between[name][0], "high": between[name][1]}
        for name in names
    ]
    print_table(rows, title=f"{options.loss} = {law} of {options.x}; R^2 {law.fit:.4f}")
    predicted = []
    if options.hold_out:
        found = laws.hold_out(runs, options.hold_out, with_floor=options.floor, seed=options.seed)
        predicted = [vars(each) for each in found]
        print()
        print_table(predicted, title="Left out, and predicted from the smaller ones")
    save_json(options.json, {"law": str(law), "fit": law.fit, "rows": rows, "held out": predicted})
    return 0


def _watch(done: int, every: int) -> None:
    if done % max(1, every // 10) == 0:
        print(f"{done:,} of {every:,} questions", file=sys.stderr, flush=True)


def evaluate(options: argparse.Namespace) -> int:
    """Measure a model: perplexity, multiple choice by likelihood, tasks from examples; or fit a law of models."""
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
    one = measure(rank, description=rank.__doc__)
    one.add_argument("target", help="run, folder, shipped name (gpt2-tiny) or hub id")
    one.add_argument("data", type=Path, help="JSON lines, each with task, language and what the templates ask for")
    text = "JSON list of prompts: task, name, language, template and answer_choices in promptsource's Jinja"
    one.add_argument("--templates", type=Path, required=True, metavar="FILE", help=text)
    one.add_argument("--limit", type=positive, metavar="N", help="draw N records (default: all)")
    one.add_argument("--seed", type=int, default=0, metavar="N", help="of drawing (default: 0)")
    one.add_argument("--answers", type=Path, metavar="FILE", help="write every answer here, one a line")
    one.add_argument("--json", type=Path, metavar="FILE", help="also write the tables and the receipt here")
    one = measure(few_shot, description=few_shot.__doc__)
    one.add_argument("target", help="run, folder, shipped name (gpt2-tiny) or hub id")
    one.add_argument("data", type=Path, help="JSON lines: context and completion, or context, options and answer")
    one.add_argument("--shots", type=_counts, default=[0, 1], metavar="K,K", help="examples before each (default: 0,1)")
    one.add_argument("--examples", type=Path, metavar="FILE", help="draw them here (default: from the other questions)")
    one.add_argument("--seeds", type=positive, default=1, metavar="N", help="times that they are drawn (default: 1)")
    one.add_argument("--limit", type=positive, metavar="N", help="ask the first N questions (default: all)")
    one.add_argument("--json", type=Path, metavar="FILE", help="also write the table and every answer here")
    one = measure(scaling, description=scaling.__doc__)
    one.add_argument("data", type=Path, help="CSV with a header and a row for each run")
    one.add_argument("--x", default="parameters", metavar="COLUMN", help="what grows (default: parameters)")
    one.add_argument("--loss", default="loss", metavar="COLUMN", help="what falls (default: loss)")
    one.add_argument("--floor", action="store_true", help="let the law end in a loss that no size goes below")
    one.add_argument("--hold-out", type=positive, metavar="N", help="predict the N largest sizes from the others")
    one.add_argument("--seed", type=int, default=0, metavar="N", help="of drawing (default: 0)")
    one.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")


def _counts(words: str) -> list[int]:
    """Numbers from 0 up, with commas between."""
    counts = [int(word) for word in words.split(",")]
    if min(counts) < 0:
        raise argparse.ArgumentTypeError(f"{min(counts)} is below 0")
    return counts
