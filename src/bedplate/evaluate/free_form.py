"""Answers that a model writes: one line, searched with beams, compared by words (Brown et al. 2020, section 2.4)."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bedplate.generate.beam import Beams, beam_search

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def write(language_model: Any, prompt: Sequence[int], *, max_new_tokens: int, beams: Beams, ends: Sequence[int]) -> str:
    """The line that follows a prompt: the best that the beams find, up to a token of `ends`."""
    model, tokenizer = language_model.model, language_model.tokenizer
    ((best, *_),) = beam_search(
        model, [prompt], max_new_tokens=max_new_tokens, beams=beams, end_ids=[tokenizer.end_id, *ends],
        vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    written = tokenizer.decode([each for each in best.ids if each != tokenizer.end_id])
    return written.lstrip(" ").partition("\n")[0].rstrip()


def line_ends(tokenizer: Any) -> list[int]:
    """The tokens that end a line."""
    special = set(tokenizer.special_ids)
    return [each for each in tokenizer.tokens if each not in special and b"\n" in tokenizer.token_bytes(each)]


def normalized(text: str) -> list[str]:
    """Words in lower case, without punctuation and English articles, as SQuAD compares them (Rajpurkar et al. 2016)."""
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def exact_match(written: str, right: str) -> bool:
    """Whether the words are the same."""
    return normalized(written) == normalized(right)


def overlap(written: str, right: str) -> float:
    """F1 of the words: the harmonic mean of the shares of either text that the other has too."""
    first, second = normalized(written), normalized(right)
    if not first or not second:
        return float(first == second)
    return 2 * (Counter(first) & Counter(second)).total() / (len(first) + len(second))
