"""What the load on a server consists of: requests with their known answers, and requests that no server should take."""

import random
from dataclasses import dataclass
from typing import Any

from bedplate.generate.chat import PLAIN_STOPS, ChatTemplate
from bedplate.language_model import load
from bedplate.serve.wire import FINISH

MODEL = "gpt2-tiny"

BODY = 300_000  # bytes that the server takes
TEXTS = (
    "def read(", "The open function", "class Reader:\n", "Raises ValueError if", "import os\nimport", "#", "é 中 🙂",
    "", "Return a new list", "a" * 150, "The following example shows how to read a file. " * 12, "for key in sorted(",
)  # fmt: skip
POISON = {
    "not JSON": b"{",
    "no body": b"",
    "not an object": b"[1]",
    "deep nesting": b'{"model": "gpt2-tiny", "prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "NaN bias": b'{"model": "gpt2-tiny", "prompt": "a", "logit_bias": {"5": NaN}}',
    "infinite bias": b'{"model": "gpt2-tiny", "prompt": "a", "logit_bias": {"5": 1e999}}',
    "biases by name": b'{"model": "gpt2-tiny", "prompt": "a", "logit_bias": {"x": 1}}',
    "lone surrogate": b'{"model": "gpt2-tiny", "prompt": "\\ud800"}',
    "surrogate as name": b'{"model": "\\udfff", "prompt": "a"}',
    "surrogate as field": b'{"model": "gpt2-tiny", "prompt": "a", "\\udfff": 1}',
    "a path as name": b'{"model": "../../etc/passwd", "prompt": "a"}',
    "an endless number": b'{"model": "gpt2-tiny", "prompt": "a", "seed": ' + b"9" * 10_000 + b"}",
    "a large seed": b'{"model": "gpt2-tiny", "prompt": "a", "seed": 99999999999999999999}',
    "a negative id": b'{"model": "gpt2-tiny", "prompt": [-1]}',
    "an unknown id": b'{"model": "gpt2-tiny", "prompt": [99999]}',
    "many stops": b'{"model": "gpt2-tiny", "prompt": "a", "stop": [' + b'"x",' * 50_000 + b'"x"]}',
    "an empty stop": b'{"model": "gpt2-tiny", "prompt": "a", "stop": ""}',
    "text as number": b'{"model": "gpt2-tiny", "prompt": "a", "max_tokens": "5"}',
    "no tokens": b'{"model": "gpt2-tiny", "prompt": "a", "max_tokens": 0}',
    "many choices": b'{"model": "gpt2-tiny", "prompt": "a", "n": 100000}',
    "a long prompt": b'{"model": "gpt2-tiny", "prompt": "' + b"word " * 9000 + b'"}',
    "a bad schema": b'{"model": "gpt2-tiny", "messages": [], "response_format": {"type": "json_schema"}}',
    "invalid UTF-8": b'{"model": "gpt2-tiny", "prompt": "\xff"}',
    "too large": b" " * (BODY + 1),
}


@dataclass(frozen=True)
class Case:
    """A request and its answer when it is alone."""

    path: str
    body: dict[str, Any]
    texts: list[str]
    finish_reasons: list[str]
    logprobs: list[list[float]] | None  # of each choice; None: not asked for


def make_cases(count: int, seed: int) -> list[Case]:
    """Different requests, each answered by the library, one at a time."""
    dice, library, cases = random.Random(seed), load(MODEL), []
    for _ in range(count):
        chat, text, choices = dice.random() < 0.3, dice.choice(TEXTS), dice.choice([1, 1, 1, 2])
        options: dict[str, Any] = {"seed": dice.randrange(1000), "temperature": dice.choice([0, 0.7, 1])}
        length, stop = dice.choice([1, 3, 8, 16, 24, 40]), dice.choice([[], [], ["e"], ["\n", " the"]])
        logprobs = not chat and not stop and dice.random() < 0.3
        body = {"model": MODEL, "max_tokens": length, "stop": stop or None, "n": choices, **options}
        if chat:
            messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
            path, body = "/v1/chat/completions", body | {"messages": messages}
            text = ChatTemplate(None).render(messages)
            stop = [*stop, *PLAIN_STOPS]
        else:
            path, body = "/v1/completions", body | {"prompt": text} | ({"logprobs": 1} if logprobs else {})
        seeds = [options["seed"] + place for place in range(choices)]
        settings = {"max_new_tokens": length, "temperature": options["temperature"], "stop": stop}
        alone = [library.generate(text, seed=each, **settings) for each in seeds]
        found = [each.logprobs for each in alone] if logprobs else None
        cases.append(
            Case(path, body, [each.text for each in alone], [FINISH[each.finish_reason] for each in alone], found)
        )
    return cases
