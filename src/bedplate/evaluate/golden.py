"""Golden prompts: what a model answers to fixed prompts, token by token, to hold another program against it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bedplate.errors import UserError
from bedplate.files import read_json_object
from bedplate.generate.prompt import evaluating, prompt_ids
from bedplate.train.run import environment

FILE = "golden.json"
NEW_TOKENS = 16
PROMPTS = {  # each finds another mistake of tokenizers and templates
    "plain text": "The quick brown fox jumps over the lazy dog, and",
    "code": "def add(left, right):\n    return",
    "unicode": "Größe, naïveté, 日本語, 🙂:",
    "leading space": " begins with a space",
    "empty": "",
}


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token, its log-probability in nats (none for the first of a text), and the likeliest other one."""

    id: int
    text: str
    logprob: float | None
    runner_up: "Token | None" = None


@dataclass(frozen=True, kw_only=True)
class GoldenPrompt:
    """A prompt as the model reads it, and what follows when always the likeliest token is taken."""

    name: str
    text: str
    prompt: list[Token]  # an end mark for an empty text
    continuation: list[Token]  # each with its runner-up
    continuation_text: str
    ended: bool  # the last token is the end of the text


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Golden prompts with their receipt: versions, number format, hashes of weights and tokenizer."""

    receipt: Mapping[str, Any]
    prompts: list[GoldenPrompt]


def golden_prompts(language_model: Any, prompts: Mapping[str, str] = PROMPTS) -> Golden:
    """Ask a `bedplate.LanguageModel`. Prompts for which its context has no room are left out; the empty one stays."""
    model, tokenizer = language_model.model, language_model.tokenizer
    receipt = {
        **{name: value for name, value in environment().items() if name in ("bedplate", "torch", "device")},
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "model_sha256": model_digest(model),
        "tokenizer_sha256": tokenizer.digest,
    }
    context = model.config.context_length
    count = min(NEW_TOKENS, context - 1)
    asked = []
    for name, text in prompts.items():
        ids = prompt_ids(model, tokenizer, text, keep=context, truncate=True)
        if len(ids) + count <= context:
            asked.append(_ask(language_model, name, text, ids, count))
    return Golden(receipt=receipt, prompts=asked)


def read_golden(path: Path) -> Golden:
    """The content of `golden.json`; a UserError when it is damaged."""
    content = read_json_object(path)
    try:
        prompts = [_prompt_from(row) for row in content["prompts"]]
        return Golden(receipt=dict(content["receipt"]), prompts=prompts)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not hold golden prompts", fix="export the model again") from error


def model_digest(model: nn.Module) -> str:
    """SHA-256 of the names, types, shapes and bytes of all weights, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _ask(language_model: Any, name: str, text: str, ids: Sequence[int], count: int) -> GoldenPrompt:
    tokenizer = language_model.tokenizer
    generation = language_model.generate(text, max_new_tokens=count, temperature=0)
    logprobs = _logprobs(language_model.model, [*ids, *generation.ids])[:, : tokenizer.vocab_size]

    def token(place: int, id: int) -> Token:
        logprob = logprobs[place - 1, id].item() if place else None
        return Token(id=id, text=tokenizer.decode([id]), logprob=logprob)

    continuation = []
    for place, id in enumerate(generation.ids, start=len(ids)):
        second = next(other for other in logprobs[place - 1].topk(2).indices.tolist() if other != id)
        continuation.append(Token(**vars(token(place, id)) | {"runner_up": token(place, second)}))
    return GoldenPrompt(
        name=name,
        text=text,
        prompt=[token(place, id) for place, id in enumerate(ids)],
        continuation=continuation,
        continuation_text=generation.text,
        ended=generation.finish_reason == "end",
    )


def _logprobs(model: nn.Module, ids: Sequence[int]) -> Tensor:
    """Log-probabilities of every token after each of `ids`, in one pass and no cache; [length, vocab]."""
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        logits = model(torch.tensor([ids], device=device))[0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1).cpu()


def _prompt_from(row: Mapping[str, Any]) -> GoldenPrompt:
    return GoldenPrompt(
        name=str(row["name"]),
        text=str(row["text"]),
        prompt=[_token_from(token) for token in row["prompt"]],
        continuation=[_token_from(token) for token in row["continuation"]],
        continuation_text=str(row["continuation_text"]),
        ended=bool(row["ended"]),
    )


def _token_from(row: Mapping[str, Any]) -> Token:
    logprob, second = row["logprob"], row["runner_up"]
    return Token(
        id=int(row["id"]),
        text=str(row["text"]),
        logprob=None if logprob is None else float(logprob),
        runner_up=None if second is None else _token_from(second),
    )
