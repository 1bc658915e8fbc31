"""`bedplate bench decode`: greedy decoding of GPT-2 at batch 1, ours against `transformers.generate`, same weights."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from bedplate.bench.measure import Row, peak_memory, print_own_peak, take_turns
from bedplate.errors import require
from bedplate.generate.engine import Engine, Request
from bedplate.generate.sample import Sampling
from bedplate.generate.text import IdsOnly
from bedplate.models import build, from_pretrained, published_sizes, save_pretrained

PROMPT = 32
Generate = Callable[[], list[int]]


def run(*, size: str = "gpt2", new_tokens: int = 128, repeats: int = 5) -> list[dict[str, Any]]:
    """Tokens per second and memory of float32 greedy decoding; also checks that both sides give the same tokens."""
    with TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = build(published_sizes()[size])
        _sharpen(model)
        save_pretrained(model, Path(folder), end_id=50256)
        del model
        memory = [peak_memory("bedplate.bench.decode", side, folder, str(new_tokens)) for side in ("ours", "peer")]
        ours, peer = ours_generate(folder, new_tokens), peer_generate(folder, new_tokens)
    if ours() != peer():
        raise AssertionError("the two sides generate different tokens")
    seconds = take_turns(ours, peer, repeats=repeats)
    name = f"decode {size} fp32 batch 1, {PROMPT} + {new_tokens} tokens"
    speed = [new_tokens / s for s in seconds]
    rows = [
        Row(name=name, ours=speed[0], peer=speed[1], unit="tokens/s", higher_is_better=True),
        Row(name=f"{name}, peak memory", ours=memory[0], peer=memory[1], unit="GB", higher_is_better=False),
    ]
    return [row.line() for row in rows]


def _sharpen(model: nn.Module) -> None:
    """Random weights give nearly equal logits; larger embeddings spread them, so that greedy choices are not ties."""
    with torch.no_grad():
        model.get_parameter("token_embedding.weight").mul_(5)


def ours_generate(folder: str, new_tokens: int) -> Generate:
    """Our model, opened from a folder."""
    model: Any = from_pretrained(Path(folder))
    request = Request(prompt=_prompt()[0].tolist(), max_new_tokens=new_tokens, sampling=Sampling(temperature=0))

    def generate() -> list[int]:
        engine = Engine(model, IdsOnly(model.config.vocab_size), slots=1, capacity=PROMPT + new_tokens)
        engine.submit(request)
        while True:
            for update in engine.step():
                if update.generation:
                    return update.generation.ids

    return generate


def peer_generate(folder: str, new_tokens: int) -> Generate:
    """transformers' model and its own generation loop."""
    transformers = require("transformers", extra="dev")
    transformers.utils.logging.disable_progress_bar()
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    settings = copy.deepcopy(model.generation_config)
    settings.update(max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=50256)
    prompt = _prompt()

    def generate() -> list[int]:
        with torch.inference_mode():
            return model.generate(prompt, generation_config=settings)[0, prompt.shape[1] :].tolist()

    return generate


def _prompt() -> torch.Tensor:
    return torch.randint(50257, (1, PROMPT), generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    side, folder, new_tokens = sys.argv[1:]
    {"ours": ours_generate, "peer": peer_generate}[side](folder, int(new_tokens))()
    print_own_peak()
