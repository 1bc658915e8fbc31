"""Why a server's answer differs from a golden one: causes by evidence, from what the server tells of its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bedplate.evaluate.golden import GoldenPrompt, Token
from bedplate.evaluate.server import CompletionServer, Heard, Reply

# Nats. Two right float32 programs stay below the first; half precision and 8 bits give a median below the second.
SAME = 1e-3
ROUNDED = 0.1
CAUSES = {  # in the order in which they are believed; a later one is often a consequence of an earlier one
    "BOS": "the server puts a token before the prompt",
    "template": "the server puts text around the prompt",
    "tokenizer": "the server cuts the prompt into other tokens",
    "sampling": "the server does not take its likeliest token",
    "weights": "the server computes other probabilities: other weights, or tokens that it does not report",
    "near tie": "rounding (dtype) decides between two tokens that are about equally likely",
    "dtype": "the same tokens with probabilities of another precision",
    "length": "the server ends its answer elsewhere",
}
Cause = tuple[str, str]  # a key of CAUSES and the evidence


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A golden prompt and the reply to it, lined up."""

    golden: GoldenPrompt
    reply: Reply
    ours: list[Token]  # the continuation without an end mark, which servers report in different ways
    theirs: list[Heard] | None
    extra: int | None  # prompt tokens beyond ours; None: the server does not tell
    equal: int  # continuation tokens
    noise: list[float]  # differences between log-probabilities where both are known to have read the same


def line_up(golden: GoldenPrompt, reply: Reply) -> Pair:
    """Count what is equal and measure the log-probabilities that can be compared."""
    ours = golden.continuation[:-1] if golden.ended else golden.continuation
    counted = reply.prompt_tokens if reply.prompt is None else len(reply.prompt)
    extra = None if counted is None or not golden.text else counted - len(golden.prompt)
    if reply.continuation is None:
        equal, noise = _equal_by_text(golden, reply, ours), []
    else:
        alike = [_alike(mine.text, heard.text) for mine, heard in zip(ours, reply.continuation, strict=False)]
        equal = alike.index(False) if False in alike else len(alike)
        if equal == len(alike) and reply.text.startswith(golden.continuation_text):
            equal = len(ours)  # a last token of which only the text is told
        noise = [] if extra or not _same_prompt(golden, reply) else _noise(golden, reply, ours, equal)
    theirs = reply.continuation
    return Pair(golden=golden, reply=reply, ours=ours, theirs=theirs, extra=extra, equal=equal, noise=noise)


def cause_of_prompt(pair: Pair, counts: set[int]) -> Cause | None:
    """When the server read another prompt; `counts`: its extra tokens over all prompts."""
    golden, heard, extra = pair.golden, pair.reply.prompt, pair.extra or 0
    if not golden.text or (not extra and _same_prompt(golden, pair.reply)):
        return None
    count = len(golden.prompt)
    if heard is None and counts == {1}:
        return "BOS", f"it counts {count + 1} prompt tokens, ours are {count}: one more for every prompt"
    if heard is None and len(counts) == 1 and extra > 1:
        return "template", f"it counts {extra} prompt tokens more than ours, for every prompt"
    for start in range(extra + 1 if heard else 0):
        inside = (heard or [])[start : start + count]
        if all(_alike(mine.text, other.text) for mine, other in zip(golden.prompt, inside, strict=True)):
            before = "".join(token.text for token in (heard or [])[:start])
            after = "".join(token.text for token in (heard or [])[start + count :])
            if start == extra == 1:
                return "BOS", f"its prompt begins with {before!r}, ours does not"
            return "template", f"its prompt has {before!r} before ours and {after!r} after it"
    others = (other.text for mine, other in zip(golden.prompt, heard or [], strict=False) if mine.text != other.text)
    first = next((f"; the first other one is {text!r}" for text in others), "")
    return "tokenizer", f"it reads {count + extra} tokens where ours are {count}{first}"


def cause_of_token(pair: Pair, noise: Sequence[float], server: CompletionServer) -> Cause:
    """When the answer to the same prompt differs at a token; `noise`: that of all prompts together."""
    mine, gap = pair.ours[pair.equal], _gap(pair.ours[pair.equal])
    if pair.theirs is None:
        again = server.complete(pair.golden.text, max_tokens=len(pair.golden.continuation))
        if again.text != pair.reply.text:
            return "sampling", "asked twice at temperature 0, it gives two answers"
        return "near tie" if gap <= ROUNDED else "weights", f"our two likeliest tokens are {gap:.1e} apart"
    if pair.equal >= len(pair.theirs):
        return "length", "it stops before this token"
    heard, largest = pair.theirs[pair.equal], max(noise, default=0.0)
    if sampled := _sampled(mine, heard, noise):
        return "sampling", sampled
    differ = f"log-probabilities differ by up to {largest:.1e}"
    if median(noise or [0.0]) <= ROUNDED and _is_second(mine, heard.text) and gap <= max(2 * largest, SAME):
        return "near tie", f"both tokens are {gap:.1e} apart in ours, {differ}"
    return "weights", f"our two likeliest tokens are {gap:.1e} apart, {differ}"


def _sampled(mine: Token, heard: Heard, noise: Sequence[float]) -> str:
    """Evidence that a token was drawn: the server's own likeliest is another, or it agreed until then."""
    largest = max(noise, default=0.0)
    if heard.logprob is None:
        return ""
    if heard.top:
        likeliest, best = max(heard.top.items(), key=lambda item: item[1])
        drawn = best - heard.logprob > max(largest, SAME)
        return f"its own likeliest token is {likeliest!r} ({best:.3f})" if drawn else ""
    behind = (mine.logprob or 0.0) - heard.logprob
    drawn = bool(noise) and median(noise) <= ROUNDED and behind > max(10 * largest, ROUNDED)
    return "its probabilities agree with ours, and its token is much less likely" if drawn else ""


def _noise(golden: GoldenPrompt, reply: Reply, ours: Sequence[Token], equal: int) -> list[float]:
    """Differences over the prompt, the equal tokens, and our candidates at the first that is not."""
    theirs = reply.continuation or []
    both = [*zip(golden.prompt, reply.prompt or [], strict=False), *zip(ours[:equal], theirs, strict=False)]
    values = [(mine.logprob, heard.logprob) for mine, heard in both]
    if equal < min(len(ours), len(theirs)):
        candidates = [ours[equal], ours[equal].runner_up]
        values += [(token.logprob, theirs[equal].top.get(token.text)) for token in candidates if token]
    return [abs(mine - other) for mine, other in values if mine is not None and other is not None]


def _equal_by_text(golden: GoldenPrompt, reply: Reply, ours: Sequence[Token]) -> int:
    """Tokens of ours that lie whole in the text both have in common."""
    if reply.text == golden.continuation_text:
        return len(ours)
    shared, equal = len(common(golden.continuation_text, reply.text)), 0
    while equal < len(ours) and sum(len(token.text) for token in ours[: equal + 1]) <= shared:
        equal += 1
    return equal


def _gap(mine: Token) -> float:
    """By how much our token is likelier than our second."""
    second = mine.runner_up
    return (mine.logprob or 0.0) - (second.logprob or 0.0) if second else 0.0


def _is_second(mine: Token, text: str) -> bool:
    return mine.runner_up is not None and _alike(mine.runner_up.text, text)


def _same_prompt(golden: GoldenPrompt, reply: Reply) -> bool:
    """Whether no token of the prompt, as far as the server reports them, differs from ours."""
    return all(_alike(mine.text, heard.text) for mine, heard in zip(golden.prompt, reply.prompt or [], strict=False))


def _alike(ours: str, theirs: str) -> bool:
    """Equal as far as can be told: a part of a character is written in many ways."""
    unclear = "\ufffd" in ours or "\ufffd" in theirs or theirs.startswith("bytes:") or not theirs
    return ours == theirs or unclear


def common(left: str, right: str) -> str:
    """What two texts begin with."""
    length = next((place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
    return min(left, right, key=len) if length is None else left[:length]
