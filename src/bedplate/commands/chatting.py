"""Commands that talk with a model in the terminal: chat."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from bedplate.commands.options import Command, add_generation, generation_of, open_model
from bedplate.errors import UserError, nearest

PLAIN = "This is a plain completion model: it goes on with your text, and has not been taught to answer."
HELP = "/system TEXT is said before everything, /reset forgets the rest, /save FILE writes it down; an empty line ends."


def chat(options: argparse.Namespace) -> int:
    """Talk with a model, line by line, until an empty line or Ctrl-D; Ctrl-C cuts an answer short."""
    from bedplate.generate.chat import ChatTemplate
    from bedplate.generate.conversation import Conversation
    from bedplate.generate.sample import Sampling

    settings = generation_of(options)
    sampling = Sampling(**{each.name: settings.pop(each.name) for each in fields(Sampling) if each.name in settings})
    language_model = open_model(options.model, options.weights)
    template = ChatTemplate(language_model.chat_template)
    conversation = Conversation(
        language_model, template, sampling=sampling, seed=options.seed, system=options.system, **settings
    )
    print(*([PLAIN] if template.plain else []), HELP, sep="\n")
    while line := _ask():
        try:
            if line.startswith("/"):
                _obey(line, conversation, options.model)
            else:
                _answer(conversation, line)
        except UserError as error:  # such as a line longer than the context
            print(f"error: {error}")
    return 0


def _answer(conversation: Any, line: str) -> None:
    try:
        for piece in conversation.reply(line):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" ...", end="")
    print()
    notes = [f"{conversation.tokens} tokens, {conversation.rate():.0f} a second"]
    if conversation.dropped:
        notes.append(f"the oldest {conversation.dropped // 2} of your lines no longer fit the model and were left out")
    print(f"[{'; '.join(notes)}]", file=sys.stderr)


def _obey(line: str, conversation: Any, model: str) -> None:
    word, _, rest = line.partition(" ")
    if word not in COMMANDS:
        fix = f"{nearest(word, COMMANDS)} A text that begins with / takes a space before it"
        raise UserError(f"there is no command {word}", fix=fix)
    COMMANDS[word](conversation, rest.strip(), model)


def _system(conversation: Any, text: str, model: str) -> None:
    if text:
        conversation.system = text
    print(f"The system says: {conversation.system}" if conversation.system else "The system says nothing.")


def _reset(conversation: Any, text: str, model: str) -> None:
    conversation.reset()
    print("Forgotten.")


def _save(conversation: Any, text: str, model: str) -> None:
    from bedplate.files import write_json

    if not text:
        raise UserError("/save names no file", fix="write /save chat.json")
    try:
        write_json(Path(text).expanduser(), {"model": model, "messages": conversation.messages})
    except OSError as error:
        raise UserError(f"cannot write {text} ({error.strerror})", fix="name another file") from error
    print(f"Saved {len(conversation.messages)} messages in {text}")


COMMANDS: dict[str, Callable[[Any, str, str], None]] = {"/system": _system, "/reset": _reset, "/save": _save}


def _ask() -> str:
    try:
        return input("> ")
    except EOFError:
        return ""


def register(command: Command) -> None:
    """Add this command and its options."""
    one = command(chat)
    add_generation(one)
    one.add_argument("--system", default="", metavar="TEXT", help="said to the model before everything else")
