"""Learning a task from its prompt (Brown et al. 2020, section 2.4): K solved examples before the question, no training.

Examples are drawn at random for each question and never are the question itself. With options, the likeliest one is the
answer, by four readings of likelihood; without, the answer is what the model writes up to the end of the line.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bedplate.errors import UserError
from bedplate.evaluate.free_form import exact_match, line_ends, overlap, write
from bedplate.evaluate.interval import wilson
from bedplate.evaluate.rank import option_logprobs
from bedplate.files import read_json_lines
from bedplate.generate.beam import Beams, gnmt
from bedplate.generate.prompt import reads_a_source

BETWEEN = "\n\n"  # examples
LONGEST_ANSWER = 32  # tokens that are written
BEAMS = Beams(width=4, length_penalty=0.6, penalty=gnmt)  # of free-form answers (section 2.4)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A question and its answer, which is one of `options` where there are any."""

    context: str
    answer: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """A reading of "likeliest": what is compared between options of different lengths."""

    name: str
    score: Callable[[float, int, str, float], float]  # of log p, its tokens, the text, and log p without the question


NORMALIZATIONS = (
    Normalization(name="sum", score=lambda logprob, tokens, text, alone: logprob),
    Normalization(name="per token", score=lambda logprob, tokens, text, alone: logprob / tokens),
    Normalization(name="per byte", score=lambda logprob, tokens, text, alone: logprob / len(text.encode())),
    Normalization(name="unconditional", score=lambda logprob, tokens, text, alone: logprob - alone),
)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One question: how many examples stood before it, and whether it was right by each reading or measure."""

    shots: int  # that were asked for
    fitted: int  # that had room
    seed: int
    right: dict[str, float]  # by reading or measure: 1, 0 or a share


def read_examples(path: Path) -> list[Example]:
    """JSON lines with `context` and `completion`, as OpenAI published GPT-3's arithmetic, or instead of this `options`
    and `answer`: its place among them, from 0.
    """
    examples = []
    for number, record in enumerate(read_json_lines(path), start=1):
        place = f"{path}, line {number}"
        context, options = record.get("context"), record.get("options")
        if not isinstance(context, str):
            raise UserError(f"{place} has no field 'context' that is text", fix="add the question")
        if options is None:
            if not isinstance(record.get("completion"), str):
                raise UserError(f"{place} has neither 'completion' nor 'options'", fix="add the answer, or options")
            examples.append(Example(context=context.strip(), answer=record["completion"].strip()))
            continue
        texts = isinstance(options, list) and all(isinstance(option, str) and option.strip() for option in options)
        if not texts or len(set(options)) < max(2, len(options)):
            raise UserError(f"{place}: options are not two or more different texts", fix="write a list of texts")
        right = record.get("answer")
        if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(options):
            raise UserError(f"{place}: answer is {right!r}", fix=f"give a number from 0 to {len(options) - 1}")
        stripped = tuple(option.strip() for option in options)
        examples.append(Example(context=context.strip(), answer=stripped[right], options=stripped))
    if len({bool(example.options) for example in examples}) > 1:
        raise UserError(f"{path}: some questions have options, others have none", fix="put them into two files")
    return examples


def prompt_of(question: Example, shown: Sequence[Example]) -> str:
    """Solved examples and the question, without white space at the end."""
    return BETWEEN.join([*(f"{each.context} {each.answer}" for each in shown), question.context])


def ask(
    language_model: Any,
    questions: Sequence[Example],
    pool: Sequence[Example] = (),
    *,
    shots: Sequence[int] = (0, 1),
    seeds: int = 1,
    watch: Callable[[int, int], None] = lambda done, all: None,
) -> list[Answered]:
    """Ask every question with each number of examples, drawn from `pool` (default: the other questions) by each seed.

    Examples that leave no room are left out from the front. Raises UserError for a question that does not fit alone,
    and where fewer examples exist than are asked for.
    """
    if reads_a_source(language_model.model):
        raise UserError("few-shot prompts are for decoders", fix="use evaluate rank for encoder-decoder models")
    if max(shots) > len(pool or questions) - (not pool):
        cause = f"{max(shots)} examples are asked for, there are {len(pool or questions) - (not pool)}"
        raise UserError(cause, fix="give more with --examples, or ask for fewer")
    answered: list[Answered] = []
    runs = [(count, seed) for count in shots for seed in range(seeds if count else 1)]
    for count, seed in runs:
        for number, question in enumerate(questions):
            others = list(pool) or [each for place, each in enumerate(questions) if place != number]
            others = [each for each in others if each != question]
            shown = random.Random(f"{seed} {number}").sample(others, min(count, len(others)))
            room = language_model.model.config.context_length - _needed(language_model, question)
            while shown and len(language_model.tokenizer.encode(prompt_of(question, shown))) > room:
                shown = shown[1:]
            right = (
                _choose(language_model, question, shown)
                if question.options
                else _write(language_model, question, shown)
            )
            answered.append(Answered(shots=count, fitted=len(shown), seed=seed, right=right))
            watch(len(answered), len(runs) * len(questions))
    return answered


def table(answered: Sequence[Answered]) -> list[dict[str, Any]]:
    """By number of examples and reading: the mean with its interval (of shares of right answers), and by seed."""
    rows = []
    for shots in dict.fromkeys(each.shots for each in answered):
        group = [each for each in answered if each.shots == shots]
        for name in group[0].right:
            values = [each.right[name] for each in group]
            by_seed = [
                fmean(each.right[name] for each in group if each.seed == seed) for seed in {each.seed for each in group}
            ]
            row: dict[str, Any] = {
                "shots": shots,
                "measure": name,
                "questions": len(values),
                "mean": fmean(values),
            }
            if set(values) <= {0.0, 1.0}:
                row["low"], row["high"] = wilson(round(sum(values)), len(values))
            rows.append(
                row | {"lowest": min(by_seed), "highest": max(by_seed), "fitted": fmean(e.fitted for e in group)}
            )
    return rows


def _needed(language_model: Any, question: Example) -> int:
    """Tokens behind the prompt; the question alone must fit."""
    encode, room = language_model.tokenizer.encode, language_model.model.config.context_length
    longest = max((len(encode(f" {option}")) for option in question.options), default=LONGEST_ANSWER)
    alone = len(encode(question.context))
    if alone + longest > room:
        cause = f"a question of {alone} tokens and its answer do not fit into {room}"
        raise UserError(cause, fix="leave it out, or take a model with a longer context")
    return longest


def _choose(language_model: Any, question: Example, shown: Sequence[Example]) -> dict[str, float]:
    """Whether the likeliest option is the right one, by each reading. An option's tokens are what follows the prompt's
    own in the encoding of both together.
    """
    model, encode = language_model.model, language_model.tokenizer.encode
    prompt = prompt_of(question, shown)
    head = encode(prompt)
    tails = [_behind(encode(f"{prompt} {option}"), head, encode(f" {option}")) for option in question.options]
    scores = option_logprobs(model, head, tails)
    alone = option_logprobs(model, encode("Answer:"), tails)
    right = question.options.index(question.answer)
    found = {}
    for each in NORMALIZATIONS:
        parts = zip(scores, tails, question.options, alone, strict=True)
        values = [each.score(score, len(tail), text, without) for score, tail, text, without in parts]
        found[each.name] = float(values.index(max(values)) == right)
    return found


def _behind(whole: Sequence[int], head: Sequence[int], apart: Sequence[int]) -> list[int]:
    """The option's tokens in the joint text; where these join with the prompt's, its own."""
    return list(whole[len(head) :]) if list(whole[: len(head)]) == list(head) else list(apart)


def _write(language_model: Any, question: Example, shown: Sequence[Example]) -> dict[str, float]:
    """Exact match and F1 of the line that beams find (section 2.4)."""
    tokenizer = language_model.tokenizer
    ids = tokenizer.encode(prompt_of(question, shown))
    text = write(language_model, ids, max_new_tokens=LONGEST_ANSWER, beams=BEAMS, ends=line_ends(tokenizer))
    return {"exact match": float(exact_match(text, question.answer)), "F1": overlap(text, question.answer)}
