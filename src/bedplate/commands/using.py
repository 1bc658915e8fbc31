"""Commands that use a trained model: generate, chat."""

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from bedplate.commands.options import Command, positive
from bedplate.errors import UserError

DEFAULT_MODEL = "gpt2-tiny"
LOOKUP = "lookup"
CANDIDATES = 4  # of contrastive search, unless --top-k says otherwise
WAYS = ("draft", "contrastive_search", "amateur", "beams")  # that do not go together, but for the last two
PROMPT = "def read_text(self, encoding=None)\n"


def generate(options: argparse.Namespace) -> int:
    """Continue a prompt with a trained model; one ships with bedplate."""
    from bedplate.language_model import load

    ways = [f"--{name.replace('_', '-')}" for name in WAYS if getattr(options, name) is not None]
    if len(ways) > 1 and ways != ["--amateur", "--beams"]:
        raise UserError(f"{ways[0]} and {ways[1]} exclude each other", fix="choose one")
    if options.amateur == options.model:
        raise UserError("--amateur names the model itself", fix="name a smaller model of the same vocabulary")
    language_model = load(options.model)
    name = options.amateur or options.draft
    other = load(name) if name and name != LOOKUP else None
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
    sampling = _sampling(options)
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
    return language_model.stream(prompt, seed=seed, **sampling)


def chat(options: argparse.Namespace) -> int:
    """Continue what you type, line by line, until an empty line or Ctrl-D: plain completion."""
    from bedplate.language_model import load

    language_model = load(options.model)
    print(
        "Type the beginning of a text; an empty line ends. The model continues it (it has not been taught to answer)."
    )
    seed = options.seed
    sampling = _sampling(options)
    while prompt := _ask("> "):
        try:
            pieces = language_model.stream(prompt, seed=seed, **sampling)
        except UserError as error:  # such as a line longer than the context
            print(f"error: {error}")
            continue
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        seed += 1
    return 0


def _sampling(options: argparse.Namespace) -> dict[str, Any]:
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "stop", "truncate")
    return {name: getattr(options, name) for name in names}


def _ask(prompt: str) -> str:
    try:
        return input(prompt)
    except EOFError:
        return ""


def register(command: Command) -> None:
    """Add these commands and their options."""
    for function in (generate, chat):
        one = command(function)
        if function is generate:
            one.add_argument("prompts", nargs="*", metavar="prompt", help="text(s) to continue; - reads standard input")
        one.add_argument(
            "--model", default=DEFAULT_MODEL, help=f"run, folder, shipped name or hub id ({DEFAULT_MODEL})"
        )
        default = "(default: %(default)s)"
        one.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help=default)
        one.add_argument("--temperature", type=float, default=0.7, metavar="T", help=f"0 = likeliest token {default}")
        one.add_argument("--top-k", type=int, default=0, metavar="K", help="keep the K likeliest tokens (default: all)")
        one.add_argument(
            "--top-p", type=float, default=1.0, metavar="P", help="keep the likeliest that reach P together"
        )
        one.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1 repeats less")
        one.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
        one.add_argument("--truncate", action="store_true", help="drop the beginning of a prompt that is too long")
        one.add_argument("--seed", type=int, default=0, metavar="N", help=default)
        if function is generate:
            text = "search with N beams for the likeliest text; nothing is drawn"
            one.add_argument("--beams", type=positive, metavar="N", help=text)
            one.add_argument(
                "--length-penalty", type=float, default=1.0, metavar="X", help="of beams: above 0 longer texts"
            )
            text = f"propose tokens by a smaller model of the same vocabulary, or from the text so far ({LOOKUP}); what"
            one.add_argument("--draft", metavar=f"MODEL|{LOOKUP}", help=f"{text} is drawn has the same distribution")
            text = "contrastive decoding: what the model likes much better than this smaller one; nothing is drawn"
            one.add_argument("--amateur", metavar="MODEL", help=text)
            text = (
                f"of --top-k likely tokens ({CANDIDATES}) the best and newest; newness weighs ALPHA (0 to 1, say 0.6)"
            )
            one.add_argument("--contrastive-search", type=float, metavar="ALPHA", help=text)
