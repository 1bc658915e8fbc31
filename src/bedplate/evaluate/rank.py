"""Rank evaluation: a multiple choice is answered with the option that the model finds likeliest (Sanh et al. 2022, T0;
Muennighoff et al. 2023, BLOOMZ and mT0, section 4).

An option counts with the sum of its tokens' log-probabilities, not divided by its length. Every data set is asked with
several prompts, and the median over prompts is what is reported: a model may know a task and miss one way to ask it.
"""

import copy
import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from bedplate.errors import UserError
from bedplate.evaluate.golden import model_digest
from bedplate.evaluate.interval import wilson
from bedplate.evaluate.templates import Question, Template, questions
from bedplate.generate.prompt import evaluating, prefill, prompt_ids, reads_a_source
from bedplate.train.run import environment


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says to a question."""

    question: Question
    logprobs: tuple[float, ...]  # nats, of each option
    sha256: str  # of the ids of the prompt and of all options

    @property
    def chosen(self) -> int:
        """Place of the likeliest option; of equally likely ones the first."""
        return self.logprobs.index(max(self.logprobs))

    @property
    def right(self) -> bool:
        """Whether it is the right one."""
        return self.chosen == self.question.answer

    def record(self) -> dict[str, Any]:
        """One line of a file of answers."""
        return asdict(self.question) | {"logprobs": self.logprobs, "chosen": self.chosen, "right": self.right}


def rank(
    language_model: Any,
    records: Sequence[Mapping[str, Any]],
    templates: Sequence[Template],
    *,
    limit: int | None = None,
    seed: int = 0,
    watch: Callable[[int, int], None] = lambda done, all: None,
) -> list[Answer]:
    """Answers of a `bedplate.LanguageModel` to records under every template of their task.

    `limit` draws so many records with `seed`. `watch` hears how many questions are answered, of how many.
    """
    numbered: list[tuple[int, Mapping[str, Any]]] = list(enumerate(records, start=1))
    if limit is not None and limit < len(numbered):
        numbered = sorted(random.Random(seed).sample(numbered, limit), key=lambda pair: pair[0])
    asked = list(questions(numbered, templates))
    answers = []
    for question in asked:
        answers.append(_answer(language_model, question))
        watch(len(answers), len(asked))
    return answers


def option_logprobs(model: Any, prompt: Sequence[int], options: Sequence[Sequence[int]]) -> list[float]:
    """log p(option | prompt) in nats of each option. The prompt is read once, and its state shared by the options.

    An encoder-decoder model reads the prompt as its source; its decoder writes the option from its start token on.
    """
    device = next(model.parameters()).device
    scores = []
    with evaluating(model), torch.inference_mode():
        first, state = prefill(model, [prompt], max(map(len, options)))
        for option in options:
            features = first[:, None]
            if len(option) > 1:
                own = copy.deepcopy(state)  # which need not be able to go back
                rest = model.features(torch.tensor([option[:-1]], device=device), state=own)
                features = torch.cat((features, rest), dim=1)
            logits = model.logits(features)[0]
            exact = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
            chosen = torch.tensor(option, device=device)
            scores.append(exact.gather(1, chosen[:, None]).double().sum().item())
    return scores


def by_prompt(answers: Iterable[Answer]) -> list[dict[str, Any]]:
    """Accuracy with Wilson's 95 % interval and a receipt, for each language of a task under each prompt."""
    rows = []
    for (task, language, template_language, prompt), group in _grouped(answers).items():
        right, count = sum(answer.right for answer in group), len(group)
        low, high = wilson(right, count)
        digest = hashlib.sha256("".join(answer.sha256 for answer in group).encode()).hexdigest()
        head = {"task": task, "language": language, "template language": template_language, "prompt": prompt}
        rows.append(head | {"questions": count, "accuracy": right / count, "low": low, "high": high, "ids": digest})
    return rows


def by_task(answers: Iterable[Answer]) -> list[dict[str, Any]]:
    """The median of the accuracies over prompts and their spread, for each language of a task."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in by_prompt(answers):
        groups.setdefault((row["task"], row["language"], row["template language"]), []).append(row["accuracy"])
    return [
        {
            "task": task, "language": language, "template language": template_language, "prompts": len(shares),
            "median": median(shares), "lowest": min(shares), "highest": max(shares),
        }
        for (task, language, template_language), shares in groups.items()
    ]  # fmt: skip


def receipt(
    language_model: Any, answers: Sequence[Answer], templates: Sequence[Template], *, limit: int | None, seed: int
) -> dict[str, Any]:
    """All that decides the numbers: versions, hashes of weights, tokenizer, templates and ids, and what was drawn."""
    model = language_model.model
    return {
        **{name: value for name, value in environment().items() if name in ("bedplate", "torch", "device")},
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "model_sha256": model_digest(model),
        "tokenizer_sha256": language_model.tokenizer.digest,
        "templates_sha256": {f"{each.task}/{each.name}": _digest(asdict(each)) for each in templates},
        "ids_sha256": _digest([answer.sha256 for answer in answers]),
        "options": "the end mark counts" if reads_a_source(model) else "after one space, without an end mark",
        "normalization": "none",
        "limit": limit,
        "seed": seed,
    }


def _answer(language_model: Any, question: Question) -> Answer:
    """Decoders read prompt and option with a space between, as BLOOMZ learned them; to an encoder-decoder's option
    belongs the end mark, as in T0's code.
    """
    model, tokenizer = language_model.model, language_model.tokenizer
    prompt = prompt_ids(model, tokenizer, question.prompt, keep=0, truncate=False)
    if reads_a_source(model):
        options = [[*tokenizer.encode(option), tokenizer.end_id] for option in question.options]
    else:
        options = [tokenizer.encode(f" {option}") for option in question.options]
    read = 1 if reads_a_source(model) else len(prompt)
    needed, room = read + max(map(len, options)) - 1, model.config.context_length
    if needed > room:
        cause = f"record {question.record} under {question.prompt_name!r} has {needed} tokens, the model reads {room}"
        raise UserError(cause, fix="shorten the record, or leave it out")
    logprobs = tuple(option_logprobs(model, prompt, options))
    return Answer(question=question, logprobs=logprobs, sha256=_digest([prompt, options]))


def _grouped(answers: Iterable[Answer]) -> dict[tuple[str, str, str, str], list[Answer]]:
    groups: dict[tuple[str, str, str, str], list[Answer]] = {}
    for answer in answers:
        asked = answer.question
        key = (asked.task, asked.language, asked.template_language, asked.prompt_name)
        groups.setdefault(key, []).append(answer)
    return groups


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()
