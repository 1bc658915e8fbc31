"""`bedplate bench decode`: greedy continuation by GPT-2 at batch 1, ours against `transformers.generate`, same weights."""

import copy
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from bedplate.bench.measure import Row, peak_memory, take_turns
from bedplate.errors import require
from bedplate.generate.engine import sample_tokens
from bedplate.generate.sample import Sampling
from bedplate.models import build, from_pretrained, published_sizes, save_pretrained
from bedplate.nn.fast.packed_linear import pack

PROMPT = 32


def run(*, size: str = "gpt2", new_tokens: int = 128, repeats: int = 5) -> list[Row]:
    """Tokens per second and memory of float32 greedy decoding; also checks that both sides give the same tokens."""
    transformers = require("transformers", extra="dev")
    transformers.utils.logging.disable_progress_bar()
    prompt = torch.randint(50257, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    made: dict[str, Any] = {}

    with TemporaryDirectory() as temporary:
        torch.manual_seed(0)
        model = build(published_sizes()[size])
        _sharpen(model)
        save_pretrained(model, Path(temporary), end_id=50256)
        del model

        def ours() -> None:
            made["ours"] = _ours(Path(temporary), prompt, new_tokens)
            made["ours"]()

        def peer() -> None:
            made["peer"] = _peer(transformers, temporary, prompt, new_tokens)
            made["peer"]()

        memory = peak_memory(ours), peak_memory(peer)
    if made["ours"]() != made["peer"]():
        raise AssertionError("the two sides generate different tokens")
    seconds = take_turns(made["ours"], made["peer"], repeats=repeats)
    name = f"decode {size} fp32 batch 1, {PROMPT} + {new_tokens} tokens"
    speed = [new_tokens / s for s in seconds]
    return [
        Row(name=name, ours=speed[0], peer=speed[1], unit="tokens/s", higher_is_better=True),
        Row(name=f"{name}, peak memory", ours=memory[0], peer=memory[1], unit="GB", higher_is_better=False),
    ]


def _sharpen(model: nn.Module) -> None:
    """Random weights give nearly equal logits; larger embeddings spread them, so that greedy choices are not ties."""
    with torch.no_grad():
        model.get_parameter("token_embedding.weight").mul_(5)


def _ours(folder: Path, prompt: torch.Tensor, new_tokens: int) -> Callable[[], list[int]]:
    model = from_pretrained(folder)
    pack(model)

    def generate() -> list[int]:
        ids: list[int] = []
        for token in sample_tokens(
            model, prompt.tolist(), max_new_tokens=new_tokens, sampling=Sampling(temperature=0), seeds=[0],
            is_done=lambda token: len(ids) + 1 >= new_tokens,
        ):  # fmt: skip
            ids.append(token.id)
        return ids

    return generate


def _peer(transformers: Any, folder: str, prompt: torch.Tensor, new_tokens: int) -> Callable[[], list[int]]:
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    settings = copy.deepcopy(model.generation_config)
    settings.update(max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=50256)

    def generate() -> list[int]:
        with torch.inference_mode():
            return model.generate(prompt, generation_config=settings)[0, prompt.shape[1] :].tolist()

    return generate
