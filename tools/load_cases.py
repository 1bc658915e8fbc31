"""What the load test sends: requests whose answers are known beforehand, and requests that must be refused."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bedplate.generate.chat import PLAIN_STOPS, ChatTemplate
from bedplate.generate.engine import Engine, Request, Token
from bedplate.generate.sample import Sampling
from bedplate.generate.text import Generation
from bedplate.language_model import LanguageModel
from bedplate.serve.wire import FINISH, Offsets, chat_logprobs, completion_logprobs

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
WORDS = "the a file object returns raises if self def class list of str open value None is in ( ) : é 漢字 😀 \n".split(
    " "
)
CHARACTERS = (1, 10, 60, 200, 400)  # of a prompt, cut from one of a few texts, so that beginnings are shared
NEW_TOKENS = (1, 5, 12, 40)
LARGEST_BODY = 2**20  # the server's default


@dataclass(frozen=True)
class Choice:
    """One of the texts of an answer."""

    text: str
    finish: str | None
    logprobs: Any  # as it is sent; None where none were asked for


@dataclass(frozen=True)
class Case:
    """A request, and the answer that it gets when nothing else runs."""

    path: str
    body: dict[str, Any]
    choices: tuple[Choice, ...]
    tokens: int  # written for all choices


@dataclass(frozen=True)
class Bad:
    """A request that must be refused."""

    name: str
    path: str
    body: bytes
    status: int


def known_cases(language_model: LanguageModel, *, model: str, count: int, seed: int) -> list[Case]:
    """Different requests with their answers, each made by an engine that has nothing else to do."""
    dice = random.Random(seed)
    texts = [" ".join(dice.choices(WORDS, k=150)) for _ in range(4)]
    engine = Engine(language_model.model, language_model.tokenizer, slots=1)
    bodies = [_body(dice, texts, model) for _ in range(count)]
    return [_known(body, language_model, engine) for body in bodies]


def _body(dice: random.Random, texts: Sequence[str], model: str) -> dict[str, Any]:
    """A request as a client may write it; what is left out has the default of OpenAI's interface."""
    text = dice.choice(texts)[: dice.choice(CHARACTERS)]
    options: tuple[dict[str, Any], ...] = (
        dice.choice(({}, {"temperature": 0}, {"temperature": 0.7, "top_p": 0.9}, {"top_k": 40})),
        dice.choice(({}, {}, {"presence_penalty": 0.5, "frequency_penalty": 0.5}, {"repetition_penalty": 1.2})),
        dice.choice(({}, {}, {"logit_bias": {str(dice.randrange(1000)): 5.5, str(dice.randrange(1000)): -100}})),
        dice.choice(({}, {}, {"stop": dice.choice(("\n", "the ", "e"))}, {"stop": [" a", ".\n", "):"]})),
        dice.choice(({}, {}, {"n": 2}, {"n": 3})),
    )
    body = {"model": model, "seed": dice.randrange(-(2**62), 2**62)}
    for chosen in options:
        body |= chosen
    if dice.random() < 0.4:
        turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        body |= {"messages": turns, "max_completion_tokens": dice.choice(NEW_TOKENS)}
        return body | dice.choice(({}, {}, {"logprobs": True, "top_logprobs": 2}))
    body |= {"prompt": dice.choice((text, text, [text, text[:10]])), "max_tokens": dice.choice(NEW_TOKENS)}
    return body | dice.choice(({}, {}, {"logprobs": 0}, {"logprobs": 3}))


def _known(body: dict[str, Any], language_model: LanguageModel, engine: Engine) -> Case:
    chat = "messages" in body
    stops = [body["stop"]] if isinstance(body.get("stop"), str) else list(body.get("stop", ()))
    template = ChatTemplate(language_model.chat_template)
    if chat:
        texts = [template.render(body["messages"])]
        stops += PLAIN_STOPS if template.plain else ()
        top = body.get("top_logprobs", 0)
    else:
        texts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
        top = body.get("logprobs", 0)
    done = []
    for text in texts:
        for choice in range(body.get("n", 1)):
            request = Request(
                prompt=language_model.tokenizer.encode(text),
                max_new_tokens=body["max_completion_tokens" if chat else "max_tokens"],
                sampling=_sampling(body),
                seed=body["seed"] + choice,
                stop=stops,
                top_logprobs=top,
            )
            done.append(_alone(engine, request))
    choices = tuple(
        Choice(
            text=generation.text,
            finish=FINISH[generation.finish_reason or ""],
            logprobs=_logprobs(tokens, language_model.tokenizer, chat=chat) if "logprobs" in body else None,
        )
        for generation, tokens in done
    )
    return Case(CHAT if chat else COMPLETIONS, body, choices, sum(len(tokens) for _, tokens in done))


def _logprobs(tokens: Sequence[Token], tokenizer: Any, *, chat: bool) -> dict[str, Any]:
    return chat_logprobs(tokens, tokenizer) if chat else completion_logprobs(tokens, tokenizer, Offsets())


def _sampling(body: dict[str, Any]) -> Sampling:
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "presence_penalty", "frequency_penalty")
    biases = {int(id): float("-inf") if bias == -100 else bias for id, bias in body.get("logit_bias", {}).items()}
    return Sampling(**{name: body[name] for name in names if name in body}, logit_bias=biases)


def _alone(engine: Engine, request: Request) -> tuple[Generation, list[Token]]:
    engine.submit(request)
    tokens: list[Token] = []
    while True:
        for update in engine.step():
            assert not update.error, update.error
            tokens += [update.token] if update.token else []
            if update.generation:
                return update.generation, tokens


def bad_requests(model: str) -> list[Bad]:
    """What clients send by mistake, or to bring a server down."""
    name = json.dumps(model).encode()

    def completion(name_of_case: str, fields: bytes, status: int = 400) -> Bad:
        return Bad(name_of_case, COMPLETIONS, b'{"model": %s, %s}' % (name, fields), status)

    return [
        Bad("not JSON", COMPLETIONS, b'{"model": ', 400),
        Bad("no body", CHAT, b"", 400),
        Bad("unknown model", COMPLETIONS, b'{"model": "gpt-99", "prompt": "a"}', 404),
        Bad("unknown address", "/v1/nothing", b"{}", 404),
        Bad("chat without messages", CHAT, b'{"model": %s, "messages": []}' % name, 400),
        completion("invalid UTF-8", b'"prompt": "\xff"'),
        completion("NaN bias", b'"prompt": "a", "logit_bias": {"5": NaN}'),
        completion("infinite temperature", b'"prompt": "a", "temperature": 1e999'),
        completion("huge stop list", b'"prompt": "a", "stop": [' + b'"x",' * 50_000 + b'"x"]'),
        completion("lone surrogate", rb'"prompt": "\ud800"'),
        completion("lone surrogate as field", rb'"prompt": "a", "\udfff": 1'),
        completion("deep JSON", b'"prompt": ' + b"[" * 50_000 + b"]" * 50_000),
        completion("unknown id", b'"prompt": [5, 2000000000]'),
        completion("too many choices", b'"prompt": "a", "n": 1000000'),
        completion("too long prompt", b'"prompt": "' + b"word " * 20_000 + b'"'),
        completion("too many tokens", b'"prompt": "a", "max_tokens": 1000000'),
        completion("too large body", b'"prompt": "' + b"a" * (2 * LARGEST_BODY) + b'"', 413),
    ]
