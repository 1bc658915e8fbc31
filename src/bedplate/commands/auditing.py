"""Commands that say what a number is worth: contamination."""

import argparse
from pathlib import Path
from typing import Any

from bedplate.commands.options import Command, positive


def contamination(options: argparse.Namespace) -> int:
    """Find evaluation texts that stand in training text, by words in a row: GPT-3's protocol."""
    from bedplate.console import print_table, save_json, save_lines
    from bedplate.evaluate.audited import read_items, training_text
    from bedplate.evaluate.contamination import audit, score_rows, table_row

    sets = {name: read_items(name, fields=options.fields.split(","), score=options.score) for name in options.eval}
    found = audit(sets, training_text(options.train), length=options.words, common=options.common)
    rows = [table_row(name, part, found.lengths[name]) for name, part in found.checked.items()]
    print_table(rows, title=f"Texts of which N words in a row stand in {found.words:,} words of training text")
    scores = [row for name, part in found.checked.items() for row in score_rows(name, part)]
    if scores:
        print()
        print_table(scores, title=f"{options.score} of clean and of dirty texts, with 95 % intervals")
    _print_spans([each for part in found.checked.values() for each in part], options.show)
    planted = _plant(sets, found.lengths, options) if options.plant else []
    save_json(options.json, {"rows": rows, "scores": scores, "planted": planted, "training words": found.words})
    if options.texts:
        save_lines(options.texts, (_record(name, each) for name, part in found.checked.items() for each in part))
    if options.clean:
        _write_clean(options, found.runs)
    return 0


def _print_spans(checked: Any, count: int) -> None:
    """The longest words in a row, and what many texts share."""
    from bedplate.console import print_table
    from bedplate.evaluate.contamination import commonest

    spans = [(each.item.name, span) for each in checked for span in each.spans]
    spans.sort(key=lambda pair: -pair[1].words.count(" "))
    if spans and count:
        print()
        rows = [
            {"text": name, "words in a row": span.words.count(" ") + 1, "first": _beginning(span.words),
             "stands in": span.first, "documents": span.documents}
            for name, span in spans[:count]
        ]  # fmt: skip
        print_table(rows, title="The longest")
    shared = [{"texts": number, "words": _beginning(words)} for words, number in commonest(checked) if number > 1]
    if shared and count:
        print()
        print_table(shared[:count], title="Shared by several texts: boilerplate, more often than leaks (--common)")


def _beginning(words: str) -> str:
    return words if len(words) <= 60 else f"{words[:57]}..."


def _plant(sets: Any, lengths: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    from bedplate.console import print_table
    from bedplate.evaluate.audited import training_text
    from bedplate.evaluate.leaks import plant

    _, host = next(training_text(options.train))
    drawn = {"count": options.plant, "seed": options.seed}
    rows = [
        {"set": name, **row}
        for name, items in sets.items()
        for row in plant(items, host, length=lengths[name], **drawn)
    ]
    print()
    print_table(rows, title="Leaks that were planted in a training document, and found")
    return rows


def _record(name: str, checked: Any) -> dict[str, Any]:
    """One line of a file of texts."""
    return {
        "set": name, "text": checked.item.name, "dirty": checked.dirty, "score": checked.item.score,
        "spans": [vars(span) for span in checked.spans],
    }  # fmt: skip


def _write_clean(options: argparse.Namespace, every: Any) -> None:
    from bedplate.console import save_lines
    from bedplate.evaluate.audited import training_text
    from bedplate.evaluate.leaks import cut

    pieces = [
        {"text": piece, "document": name}
        for name, text in training_text(options.train)
        for piece in cut(text, every, common=options.common)
    ]
    save_lines(options.clean, pieces)
    print(f"{options.clean}: {len(pieces):,} pieces of training text without what the evaluation texts hold")


def register(command: Command) -> None:
    """Add these commands and their options."""
    one = command(contamination, json=True)
    text = "training text: files or folders (.txt .md .py .jsonl .parquet), pydocs or stdlib"
    one.add_argument("--train", nargs="+", required=True, metavar="PATH", help=text)
    text = "evaluation texts: JSON lines, or files and folders with a text each"
    one.add_argument("--eval", nargs="+", required=True, metavar="PATH", help=text)
    one.add_argument("--fields", default="text", metavar="A,B", help="of JSON lines, that make up a text (text)")
    one.add_argument("--score", metavar="FIELD", help="of JSON lines: compare it between clean and dirty texts")
    text = "words in a row (default: the 5th percentile of a set's lengths, from 8 to 13)"
    one.add_argument("--words", type=positive, metavar="N", help=text)
    text = "pass over words in a row that more than N training documents hold (default: none)"
    one.add_argument("--common", type=positive, metavar="N", help=text)
    one.add_argument("--show", type=int, default=5, metavar="N", help="spans to show (default: %(default)s)")
    text = "plant N texts of each set, also changed ones, and report which of them are found"
    one.add_argument("--plant", type=positive, metavar="N", help=text)
    one.add_argument("--seed", type=int, default=0, metavar="N", help="of planting (default: %(default)s)")
    one.add_argument("--texts", type=Path, metavar="FILE", help="write every text's spans here, one text a line")
    one.add_argument("--clean", type=Path, metavar="FILE", help="write the training text without the spans here")
