"""Chat templates: from messages to the text that the model continues."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bedplate.errors import UserError
from bedplate.files import read_json_object

PLAIN_STOPS = ("\nuser:", "\nsystem:")  # where the plain form would speak for others


TEMPLATE = "chat_template.jinja"


def stored_template(folder: Path) -> str | None:
    """The chat template in a model's folder: `chat_template.jinja`, or in `tokenizer_config.json`."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text("utf-8")
    if (folder / "tokenizer_config.json").is_file():
        stored = read_json_object(folder / "tokenizer_config.json").get("chat_template")
        return stored if isinstance(stored, str) else None
    return None


class ChatTemplate:
    """How messages become a text. Without a template a model completes `role: content` lines: it has not been taught
    to answer.
    """

    def __init__(self, source: str | None) -> None:
        self._compiled = _compiled(source) if source is not None else None

    @property
    def plain(self) -> bool:
        """Whether the model has none."""
        return self._compiled is None

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The text up to where the assistant speaks. Raises UserError when the template refuses the messages."""
        if self._compiled is None:
            return "".join(f"{each['role']}: {each['content']}\n" for each in messages) + "assistant:"
        from jinja2 import TemplateError

        try:
            return self._compiled.render(messages=messages, add_generation_prompt=True, bos_token="", eos_token="")
        except (TemplateError, TypeError, ValueError) as error:
            cause = f"the chat template refuses these messages ({error})"
            raise UserError(
                cause, fix="order them as the model expects, usually user and assistant in turns"
            ) from error


def _compiled(source: str) -> Any:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    try:
        return environment.from_string(source, globals={"raise_exception": refuse})
    except TemplateError as error:
        raise UserError(f"the chat template is broken ({error})", fix="repair it, or remove it") from error
