"""Golden prompts replayed against a server: the first token that differs, and the likely cause by evidence."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bedplate.errors import UserError
from bedplate.evaluate.causes import (
    CAUSES,
    ROUNDED,
    SAME,
    Cause,
    Pair,
    cause_of_prompt,
    cause_of_token,
    common,
    line_up,
)
from bedplate.evaluate.golden import Golden
from bedplate.evaluate.server import CompletionServer, Refused, Reply


@dataclass(frozen=True, kw_only=True)
class Finding:
    """How one prompt compares. `cause` is "" for an equal one, and a key of CAUSES for a different one."""

    prompt: str
    verdict: str  # equal, different, not compared
    cause: str = ""
    evidence: str = ""
    place: int | None = None  # of the first token of the answer that differs
    ours: str | None = None
    ours_logprob: float | None = None
    theirs: str | None = None
    theirs_logprob: float | None = None
    equal_tokens: int = 0  # of the answer
    largest: float | None = None  # difference between log-probabilities


def replay(golden: Golden, server: CompletionServer) -> dict[str, Any]:
    """A finding for every prompt, and the one that explains the others; `limits`: what the server left unknown.

    Raises UserError when the server answers no prompt at all.
    """
    pairs: list[Pair] = []
    refused: list[Finding] = []
    for prompt in golden.prompts:
        try:
            pairs.append(line_up(prompt, server.complete(prompt.text, max_tokens=len(prompt.continuation))))
        except Refused as error:
            refused.append(Finding(prompt=prompt.name, verdict="not compared", evidence=f"the server says: {error}"))
    if not pairs:
        raise UserError(f"{server.url} answers no prompt ({refused[0].evidence})", fix="look at its log")
    noise = [value for pair in pairs for value in pair.noise]
    counts = {pair.extra for pair in pairs if pair.extra is not None}
    findings = [*refused, *(_finding(pair, _cause(pair, counts, noise, server)) for pair in pairs)]
    order, causes = [prompt.name for prompt in golden.prompts], list(CAUSES)
    findings.sort(key=lambda finding: order.index(finding.prompt))
    different = [finding for finding in findings if finding.verdict == "different"]
    first = min(different, key=lambda finding: causes.index(finding.cause), default=None)
    return {
        "url": server.url,
        "model": server.model,
        "receipt": dict(golden.receipt),
        "same": first is None,
        "first": None if first is None else vars(first),
        "prompts": [vars(finding) for finding in findings],
        "limits": _limits([pair.reply for pair in pairs], refused),
    }


def in_words(found: Mapping[str, Any]) -> Iterator[str]:
    """The conclusion in sentences."""
    yield from (f"Note: {limit}." for limit in found["limits"])
    first = found["first"]
    if first is None:
        yield "Every answer that was compared is equal."
        return
    if first["place"] is not None:
        ours, theirs = (_quoted(first[side], first[f"{side}_logprob"]) for side in ("ours", "theirs"))
        yield f"First difference: prompt {first['prompt']!r}, token {first['place'] + 1} of the answer:"
        yield f"  ours {ours}, theirs {theirs}"
    else:
        yield f"First difference: prompt {first['prompt']!r}; the tokens of the answer are equal."
    yield f"Likely cause: {first['cause']}: {CAUSES[first['cause']]}."
    yield f"Evidence: {first['evidence']}."


def _cause(pair: Pair, counts: set[int], noise: Sequence[float], server: CompletionServer) -> Cause | None:
    if cause := cause_of_prompt(pair, counts):
        return cause
    if pair.equal < len(pair.ours):
        return cause_of_token(pair, noise, server)
    if pair.golden.ended and _goes_on(pair):
        return "length", "our model ends the text here"
    largest = max(pair.noise, default=0.0)
    if largest <= SAME:
        return None
    evidence = f"log-probabilities differ by {median(pair.noise):.1e} in the middle, {largest:.1e} at most"
    return "dtype" if median(noise) <= ROUNDED else "weights", evidence


def _goes_on(pair: Pair) -> bool:
    """Whether the server writes on where our model ends the text."""
    if pair.theirs is None:
        return len(pair.reply.text) > len(pair.golden.continuation_text)
    end = pair.golden.continuation[-1].text
    return len(pair.theirs) > pair.equal and pair.theirs[pair.equal].text not in ("", end)


def _finding(pair: Pair, cause: Cause | None) -> Finding:
    """A finding with the first token that differs, if one does."""
    place = pair.equal if pair.equal < len(pair.ours) else None
    mine = None if place is None else pair.ours[place]
    heard = None if place is None else next(iter((pair.theirs or [])[place:]), None)
    theirs = heard.text if heard else None
    if mine and pair.theirs is None:  # the text from the first other character on
        theirs = pair.reply.text[len(common(pair.golden.continuation_text, pair.reply.text)) :][:12]
    return Finding(
        prompt=pair.golden.name,
        verdict="different" if cause else "equal",
        cause=cause[0] if cause else "",
        evidence=cause[1] if cause else "",
        place=place,
        ours=mine.text if mine else None,
        ours_logprob=mine.logprob if mine else None,
        theirs=theirs,
        theirs_logprob=heard.logprob if heard else None,
        equal_tokens=pair.equal,
        largest=max(pair.noise, default=None),
    )


def _limits(replies: Sequence[Reply], refused: Sequence[Finding]) -> list[str]:
    """What could not be compared."""
    limits = [f"prompt {finding.prompt!r} was not compared; {finding.evidence}" for finding in refused]
    if not any(reply.continuation for reply in replies):
        limits.append("the server gives no log-probabilities: only texts were compared")
    elif not any(reply.prompt for reply in replies):
        limits.append("the server does not echo prompts: their tokens were only counted")
    elif not any(token.logprob for reply in replies for token in reply.prompt or []):
        limits.append("log-probabilities of echoed prompts contradict those of the answers: they were left out")
    if all(reply.prompt_tokens is None and reply.prompt is None for reply in replies):
        limits.append("the server does not count prompt tokens: a BOS or a template can only be suspected")
    return limits


def _quoted(text: str | None, logprob: float | None) -> str:
    if text is None:
        return "nothing"
    return repr(text) + ("" if logprob is None else f" ({logprob:.3f})")
