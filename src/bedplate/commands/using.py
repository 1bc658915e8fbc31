"""Commands that use a model: generate, embed."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bedplate.commands.options import Command, add_generation, generation_of, open_model, positive
from bedplate.errors import UserError

LOOKUP = "lookup"
CANDIDATES = 4  # of contrastive search, unless --top-k says otherwise
WAYS = (
    "schema",
    "regex",
    "draft",
    "contrastive_search",
    "amateur",
    "beams",
)  # that do not go together, but for the last two
PROMPT = "def read_text(self, encoding=None)\n"


def generate(options: argparse.Namespace) -> int:
    """Continue a prompt with a trained model; one ships with bedplate."""
    ways = [f"--{name.replace('_', '-')}" for name in WAYS if getattr(options, name) is not None]
    if len(ways) > 1 and ways != ["--amateur", "--beams"]:
        raise UserError(f"{ways[0]} and {ways[1]} exclude each other", fix="choose one")
    if options.amateur == options.model:
        raise UserError("--amateur names the model itself", fix="name a smaller model of the same vocabulary")
    language_model = open_model(options.model, options.weights)
    name = options.amateur or options.draft
    other = open_model(name, options.weights) if name and name != LOOKUP else None
    prompts = [sys.stdin.read() if prompt == "-" else prompt for prompt in options.prompts] or [PROMPT]
    for number, prompt in enumerate(prompts):
        pieces = _pieces(language_model, other, prompt, options, seed=options.seed + number)
        print("\n" * (number > 0) + prompt, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
    return 0


def _pieces(language_model: Any, other: Any, prompt: str, options: argparse.Namespace, *, seed: int) -> Iterable[str]:
    """The text after a prompt, in the way that the options ask for."""
    sampling = generation_of(options) | {"truncate": options.truncate}
    plain = {name: sampling[name] for name in ("max_new_tokens", "truncate", "stop")}
    if options.amateur:
        return [language_model.contrast(prompt, amateur=other, width=options.beams or 1, **plain).text]
    if options.contrastive_search is not None:
        top_k = options.top_k or CANDIDATES
        return [language_model.contrastive_search(prompt, alpha=options.contrastive_search, top_k=top_k, **plain).text]
    if options.beams:
        del plain["stop"]
        return [language_model.search(prompt, width=options.beams, length_penalty=options.length_penalty, **plain).text]
    if options.draft:
        found = language_model.speculate(prompt, draft=other, seed=seed, **sampling)
        shares = f"{found.accepted} of {found.judged} proposals accepted, {found.tokens_per_pass:.2f} tokens a pass"
        print(shares, file=sys.stderr)
        return [found.text]
    schema = _read(options.schema) if options.schema else None
    return language_model.stream(prompt, seed=seed, schema=schema, regex=options.regex, **sampling)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"{path} cannot be read ({reason})", fix="name a file that holds a JSON Schema") from error


def embed(options: argparse.Namespace) -> int:
    """Vectors of texts from an encoder: a JSON object a line, with the text and its vector."""
    import json

    texts = [line.rstrip("\n") for line in sys.stdin] if options.texts == ["-"] else options.texts
    language_model = open_model(options.model, None)
    settings = {"layers": options.layers, "pooling": options.pooling, "truncate": options.truncate}
    for text, vectors in zip(texts, language_model.embed(texts, **settings).flatten(1).tolist(), strict=True):
        print(json.dumps({"text": text, "vector": vectors}, ensure_ascii=False))
    return 0


def register(command: Command) -> None:
    """Add these commands and their options."""
    one = command(embed)
    one.add_argument("texts", nargs="+", metavar="text", help="text(s); - reads one a line from standard input")
    one.add_argument("--model", required=True, help="run, folder or hub id of an encoder")
    one.add_argument(
        "--layers", type=int, nargs="+", default=[-1], metavar="N", help="one after the other (default: -1)"
    )
    one.add_argument("--pooling", default="mean", help="mean (default) or cls")
    one.add_argument("--truncate", action="store_true", help="cut off the end of a text that is too long")
    one = command(generate)
    one.add_argument("prompts", nargs="*", metavar="prompt", help="text(s) to continue; - reads standard input")
    add_generation(one)
    one.add_argument("--truncate", action="store_true", help="drop the beginning of a prompt that is too long")
    one.add_argument("--schema", type=Path, metavar="FILE", help="write JSON that this JSON Schema allows")
    one.add_argument("--regex", metavar="PATTERN", help="write a text that this expression matches as a whole")
    text = "search with N beams for the likeliest text; nothing is drawn"
    one.add_argument("--beams", type=positive, metavar="N", help=text)
    one.add_argument("--length-penalty", type=float, default=1.0, metavar="X", help="of beams: above 0 longer texts")
    text = f"propose tokens by a smaller model of the same vocabulary, or from the text so far ({LOOKUP}); what"
    one.add_argument("--draft", metavar=f"MODEL|{LOOKUP}", help=f"{text} is drawn has the same distribution")
    text = "contrastive decoding: what the model likes much better than this smaller one; nothing is drawn"
    one.add_argument("--amateur", metavar="MODEL", help=text)
    text = f"of --top-k likely tokens ({CANDIDATES}) the best and newest; newness weighs ALPHA (0 to 1, say 0.6)"
    one.add_argument("--contrastive-search", type=float, metavar="ALPHA", help=text)
