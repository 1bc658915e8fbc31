"""Small tasks for an encoder whose answers are known: each is learned in seconds, and only by looking at both ends."""

import random
from collections.abc import Iterator
from typing import Any

from bedplate.errors import UserError, nearest

GENERATED = "generated-"
NAMES = ("anna", "ben", "clara", "david", "emma", "felix")
PLACES = ("berlin", "paris", "rome", "vienna")
THINGS = ("book", "lamp", "bicycle", "coat")


def generated(kind: str, *, number: int = 600) -> Iterator[dict[str, Any]]:
    """Records of a kind: text, pair, tags or spans; the same ones every time."""
    if kind not in MAKERS:
        raise UserError(f"there is no generated task {kind!r}", fix=nearest(kind, MAKERS))
    chance = random.Random(f"{kind} 0")
    return (MAKERS[kind](chance) for _ in range(number))


def _sentence(chance: random.Random) -> tuple[str, str, str]:
    return chance.choice(NAMES), chance.choice(THINGS), chance.choice(PLACES)


def _text(chance: random.Random) -> dict[str, Any]:
    """Is somebody buying or selling?"""
    name, thing, place = _sentence(chance)
    label = chance.choice(("buys", "sells"))
    return {"text": f"{name} {label.removesuffix('s')}s a {thing} in {place}", "label": label}


def _pair(chance: random.Random) -> dict[str, Any]:
    """Do both sentences name the same thing?"""
    (first, thing, place), (second, other, elsewhere) = _sentence(chance), _sentence(chance)
    other = thing if chance.random() < 0.5 else other
    texts = {"first": f"{first} buys a {thing} in {place}", "second": f"{second} sells a {other} in {elsewhere}"}
    return texts | {"label": "same" if thing == other else "other"}


def _tags(chance: random.Random) -> dict[str, Any]:
    """Which words are names and which are places?"""
    name, thing, place = _sentence(chance)
    words = f"in {place} {name} buys a {thing}" if chance.random() < 0.5 else f"{name} sells a {thing} in {place}"
    kinds = dict.fromkeys(NAMES, "person") | dict.fromkeys(PLACES, "place")
    return {"words": words.split(), "tags": [kinds.get(word, "other") for word in words.split()]}


def _spans(chance: random.Random) -> dict[str, Any]:
    """Where is it, or who is it? Now and then the text does not say."""
    name, thing, place = _sentence(chance)
    told = chance.random() < 0.8
    context = f"{name} buys a {thing} in {place}" if told else f"{name} buys a {thing}"
    question, answer = ("where is the shop", place if told else "") if chance.random() < 0.5 else ("who buys", name)
    return {"question": question, "context": context, "answer": answer, "start": context.find(answer)}


MAKERS = {"text": _text, "pair": _pair, "tags": _tags, "spans": _spans}
