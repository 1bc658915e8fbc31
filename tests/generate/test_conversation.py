"""Chats in the terminal: what the model is given to read, turn by turn."""

import builtins
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.generate.tiny import random_model, tokenizer

from bedplate.cli import main
from bedplate.errors import UserError
from bedplate.generate import Sampling
from bedplate.generate.chat import ChatTemplate
from bedplate.generate.conversation import Conversation
from bedplate.language_model import LanguageModel, load

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
GREEDY = Sampling(temperature=0)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The texts that conversations hand to their engine."""
    from bedplate.generate.engine import Engine

    texts: list[str] = []
    plain = Engine.submit

    def submit(self: Any, request: Any) -> int:
        texts.append(self.tokenizer.decode(list(request.prompt)))
        return plain(self, request)

    monkeypatch.setattr(Engine, "submit", submit)
    yield texts


def talk(template: str | None = TEMPLATE, *, context_length: int = 400, **options: Any) -> Conversation:
    model = random_model(dtype=torch.float32, context_length=context_length)
    return Conversation(LanguageModel(model, tokenizer()), ChatTemplate(template), sampling=GREEDY, **options)


def test_each_turn_reads_all_before_it(read: list[str]) -> None:
    talked = talk(max_new_tokens=5, system="be brief")
    first = "".join(talked.reply("one"))
    second = "".join(talked.reply("two"))
    assert read == [
        "<system>be brief<user>one<assistant>",
        f"<system>be brief<user>one<assistant>{first}<user>two<assistant>",
    ]
    assert [each["content"] for each in talked.messages] == ["be brief", "one", first, "two", second]
    assert talked.tokens == 5 and talked.rate() > 0


def test_a_reply_is_that_of_the_whole_text() -> None:
    talked = talk(max_new_tokens=12)
    "".join(talked.reply("a long first question " * 8))
    reply = "".join(talked.reply("and then?"))
    text = ChatTemplate(TEMPLATE).render(talked.messages[:-1])
    assert reply == talked.language_model.generate(text, max_new_tokens=12, temperature=0).text


def test_a_plain_model_goes_on_with_one_text(read: list[str]) -> None:
    talked = talk(None, max_new_tokens=3, system="# title")
    reply = "".join(talked.reply("one"))
    "".join(talked.reply("two"))
    assert read == ["# title\none", f"# title\none{reply}\ntwo"]
    talked.reset()
    "".join(talked.reply("three"))
    assert read[-1] == "# title\nthree"


def test_the_oldest_turns_leave_when_the_context_is_full(read: list[str]) -> None:
    talked = talk(context_length=120, max_new_tokens=10, system="S")
    for number in range(4):
        "".join(talked.reply(f"{number} " + "x " * 12))
    assert talked.dropped in (2, 4, 6) and len(talked.turns) == 8
    assert read[-1].startswith("<system>S<user>") and "<user>0" not in read[-1] and "<user>3 x" in read[-1]
    with pytest.raises(UserError, match="the context of the model holds 120"):
        "".join(talked.reply("x " * 400))
    assert len(talked.turns) == 8


def test_who_stops_listening_keeps_what_was_said() -> None:
    talked = talk(max_new_tokens=50)
    pieces = talked.reply("go on")
    heard = next(pieces) + next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert talked.turns[-1]["content"] == heard and not talked._engine.busy
    assert "".join(talked.reply("more"))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plain = load("gpt2-tiny")
    LanguageModel(plain.model, plain.tokenizer, TEMPLATE).save(tmp_path / "taught")
    assert load(tmp_path / "taught").chat_template == TEMPLATE
    saved = tmp_path / "chat.json"
    lines = iter(["/system be brief", "def read(", "/sistem", "/save", f"/save {tmp_path}/no/x", f"/save {saved}", ""])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(lines))
    assert main(["chat", "--model", str(tmp_path / "taught"), "--max-new-tokens", "4"]) == 0
    printed = capsys.readouterr()
    assert "did you mean '/system'?" in printed.out and "names no file" in printed.out and "cannot write" in printed.out
    assert "completion model" not in printed.out and "4 tokens, " in printed.err
    roles = [each["role"] for each in json.loads(saved.read_text())["messages"]]
    assert roles == ["system", "user", "assistant"]
    monkeypatch.setattr(builtins, "input", lambda prompt: "")
    assert main(["chat"]) == 0
    assert "plain completion model" in capsys.readouterr().out
