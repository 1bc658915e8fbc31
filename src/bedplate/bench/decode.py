"""`bedplate bench decode`: generation beside transformers and llama.cpp, same weights, one process, medians."""

import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from bedplate.bench.measure import Row, peak_memory, print_own_peak, seconds_once, take_turns
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError, require
from bedplate.generate.engine import Engine, Request
from bedplate.generate.sample import Sampling
from bedplate.generate.text import IdsOnly
from bedplate.models import build, from_pretrained, published_sizes, save_gguf, save_pretrained
from bedplate.models.gpt2 import GPT2
from bedplate.nn.linear import quantize

PROMPT = 32
MIXED = 32  # requests of different lengths
FORMS = (  # our form of weights, transformers' number format, and llama.cpp's form of as many bits
    ("fp32", "float32", "float32"),
    ("bf16", "bfloat16", "bfloat16"),
    ("int8", None, "q8_0"),
    ("int4", None, "q4_0"),
)
Generate = Callable[[Sequence[Sequence[int]], Sequence[int]], list[list[int]]]  # prompts and new tokens of each


def run(
    *, size: str = "gpt2", new_tokens: int = 128, repeats: int = 5, contexts: Sequence[int] = (1024, 4096)
) -> list[dict[str, Any]]:
    """Greedy decoding: every form of weights at batch 1, then batches, mixed lengths, long prompts and contexts."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _write(published_sizes()[size], folder)
        rows = [
            *_forms(folder, size, new_tokens, repeats),
            *_batches(folder, size, new_tokens, repeats),
            *_memory(folder, size, new_tokens),
        ]
    for length in contexts:
        with TemporaryDirectory() as name:
            config: Any = published_sizes()[size]
            _write(replace(config, context_length=length), Path(name))
            rows += _context(Path(name), size, length, repeats)
    return rows


def _forms(folder: Path, size: str, new_tokens: int, repeats: int) -> list[dict[str, Any]]:
    prompts, new = [_ids(PROMPT)], [new_tokens]
    bandwidth, rows = memory_bandwidth(), []
    for form, dtype, encoding in FORMS:
        mine, bytes_read = ours(folder, form)
        name = f"decode {size} {form} batch 1, {PROMPT} + {new_tokens} tokens"
        peers = {
            "transformers": transformers_side(folder, dtype) if dtype else None,
            "llama.cpp": llama_side(folder, encoding, context=PROMPT + new_tokens),
        }
        for peer_name, peer in peers.items():
            if peer is None:
                continue
            if form == "fp32" and mine(prompts, new) != peer(prompts, new):
                raise AssertionError(f"we and {peer_name} generate different tokens")
            seconds = take_turns(partial(mine, prompts, new), partial(peer, prompts, new), repeats=repeats)
            speeds = [new_tokens / each for each in seconds]
            row = _row(name, *speeds, unit="tokens/s", peer_name=peer_name)
            rows.append(row | {"of bandwidth": speeds[0] * bytes_read / bandwidth})
    return rows


def _batches(folder: Path, size: str, new_tokens: int, repeats: int) -> list[dict[str, Any]]:
    (mine, _), peer = ours(folder, "fp32"), transformers_side(folder, "float32")
    rows: list[dict[str, Any]] = []
    prompts, new = [_ids(PROMPT, seed) for seed in range(8)], [new_tokens] * 8
    seconds = take_turns(partial(mine, prompts, new), partial(peer, prompts, new), repeats=repeats)
    name = f"decode {size} fp32 batch 8, {PROMPT} + {new_tokens} tokens"
    rows.append(_row(name, *(8 * new_tokens / each for each in seconds), unit="tokens/s", peer_name="transformers"))

    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(16, 257, (MIXED,), generator=generator).tolist()
    new = torch.randint(16, 129, (MIXED,), generator=generator).tolist()
    prompts = [_ids(length, seed) for seed, length in enumerate(lengths)]
    name = f"{MIXED} requests, {min(lengths)}-{max(lengths)} + {min(new)}-{max(new)} tokens, {size} fp32"

    def loop() -> None:
        for prompt, count in zip(prompts, new, strict=True):
            peer([prompt], [count])

    # Warm already, and long: once each.
    for peer_name, side in (("transformers, one by one", loop), ("transformers, padded", partial(peer, prompts, new))):
        seconds = [seconds_once(partial(mine, prompts, new)), seconds_once(side)]
        rows.append(_row(name, *(sum(new) / each for each in seconds), unit="tokens/s", peer_name=peer_name))

    prompt = [_ids(512)]
    seconds = take_turns(partial(mine, prompt, [1]), partial(peer, prompt, [1]), repeats=repeats)
    name = f"first token after 512, {size} fp32"
    rows.append(_row(name, *(1000 * s for s in seconds), unit="ms", peer_name="transformers"))
    return rows


def _context(folder: Path, size: str, length: int, repeats: int) -> list[dict[str, Any]]:
    """The last 64 tokens of a full context, timed from the first of them on."""
    prompt = _ids(length - 64)
    model: Any = from_pretrained(folder).eval()
    peer = transformers_side(folder, "float32")
    moments: list[float] = []

    class Clock:
        """Told of each token by transformers, and of the prompt before the first."""

        def put(self, _: object) -> None:
            moments.append(time.perf_counter())

        def end(self) -> None:
            del moments[0]

    def mine() -> None:
        moments.clear()
        engine = Engine(model, IdsOnly(model.config.vocab_size), slots=1)
        engine.submit(Request(prompt=prompt, max_new_tokens=64, sampling=Sampling(temperature=0)))
        while engine.busy:
            if engine.step():
                moments.append(time.perf_counter())

    def theirs() -> None:
        moments.clear()
        peer([prompt], [64], streamer=Clock())

    speeds: tuple[list[float], list[float]] = ([], [])
    for _ in range(max(1, repeats // 2)):
        for side, found in zip((mine, theirs), speeds, strict=True):
            side()
            found.append((len(moments) - 1) / (moments[-1] - moments[0]))
    name = f"decode {size} fp32 batch 1, context {length}"
    return [_row(name, *(statistics.median(each) for each in speeds), unit="tokens/s", peer_name="transformers")]


def _memory(folder: Path, size: str, new_tokens: int) -> list[dict[str, Any]]:
    rows = []
    for form, dtype, _ in FORMS:
        mine = peak_memory("bedplate.bench.decode", "ours", str(folder), form, str(new_tokens))
        words = ("transformers", str(folder), dtype or "", str(new_tokens))
        peer = peak_memory("bedplate.bench.decode", *words) if dtype else None
        rows.append(_row(f"peak memory, decode {size} {form} batch 1", mine, peer, unit="GB", peer_name=words[0]))
    return rows


def ours(folder: Path, form: str) -> tuple[Generate, int]:
    """Our engine, and the bytes of weights that a token reads."""
    model: Any = from_pretrained(folder)
    if form != "fp32":
        quantize(model, form)
    model.eval()
    vocab = model.config.vocab_size

    def generate(prompts: Sequence[Sequence[int]], new: Sequence[int]) -> list[list[int]]:
        longest = max(len(prompt) + count for prompt, count in zip(prompts, new, strict=True))
        engine = Engine(model, IdsOnly(vocab), slots=len(prompts), capacity=min(longest, model.config.context_length))
        for prompt, count in zip(prompts, new, strict=True):
            engine.submit(Request(prompt=prompt, max_new_tokens=count, sampling=Sampling(temperature=0)))
        found: dict[int, list[int]] = {}
        while engine.busy:
            for update in engine.step():
                if update.generation:
                    found[update.number] = update.generation.ids
        return [found[number] for number in sorted(found)]

    tensors = {each.data_ptr(): each for each in (*model.parameters(), *model.buffers())}
    unread = getattr(getattr(model, "position_embedding", None), "weight", None)
    return generate, sum(each.numel() * each.itemsize for each in tensors.values() if each is not unread)


def transformers_side(folder: Path, dtype: str) -> Callable[..., list[list[int]]]:
    """transformers' model and its own generation loop; prompts of different lengths are padded on the left."""
    transformers = require("transformers", extra="dev")
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def generate(prompts: Sequence[Sequence[int]], new: Sequence[int], **options: Any) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        settings = copy.deepcopy(model.generation_config)
        settings.update(max_new_tokens=max(new), do_sample=False, eos_token_id=None, pad_token_id=0)
        with torch.inference_mode():
            found = model.generate(ids, attention_mask=mask, generation_config=settings, **options)
        return [row[longest:][:count] for row, count in zip(found.tolist(), new, strict=True)]

    return generate


def llama_side(folder: Path, encoding: str, *, context: int) -> Generate | None:
    """llama.cpp on our GGUF export, one prompt at a time; None where llama-cpp-python or the export is missing."""
    try:
        llama_cpp: Any = require("llama_cpp", extra="llama")
    except UserError:
        return None
    path = folder / f"{encoding}.gguf"
    model: Any = from_pretrained(folder)
    if not isinstance(model, GPT2):
        return None
    tokenizer = ByteBPE.train(["any text " * 9], vocab_size=258)
    save_gguf(model, tokenizer, path, name=folder.name, encoding=encoding)
    threads = torch.get_num_threads()
    llama = llama_cpp.Llama(str(path), n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False)
    path.unlink()

    def likeliest() -> int:
        import numpy as np

        return int(np.ctypeslib.as_array(llama._ctx.get_logits(), shape=(model.config.vocab_size,)).argmax())

    def generate(prompts: Sequence[Sequence[int]], new: Sequence[int]) -> list[list[int]]:
        found = []
        for prompt, count in zip(prompts, new, strict=True):
            llama.reset()
            llama.eval(list(prompt))
            ids = [likeliest()]
            while len(ids) < count:
                llama.eval(ids[-1:])
                ids.append(likeliest())
            found.append(ids)
        return found

    return generate


def memory_bandwidth(repeats: int = 7) -> float:
    """Bytes a second that all threads together read: the best of some sums over half a gigabyte."""
    numbers = torch.ones(2**27)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - started)
    return numbers.nbytes / best


def _write(config: Any, folder: Path) -> None:
    """A model with random weights, of which larger embeddings spread the logits: greedy choices are no ties."""
    torch.manual_seed(0)
    model: nn.Module = build(config)
    with torch.no_grad():
        model.get_parameter("token_embedding.weight").mul_(5)
    save_pretrained(model, folder, end_id=0)


def _row(name: str, mine: float, peer: float | None, *, unit: str, peer_name: str) -> dict[str, Any]:
    row = Row(name=name, ours=mine, peer=peer, unit=unit, higher_is_better=unit == "tokens/s")
    return row.line() | {"peer name": peer_name}


def _ids(count: int, seed: int = 0) -> list[int]:
    """Of a vocabulary as small as that of any size measured so far."""
    return torch.randint(49152, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


if __name__ == "__main__":
    side, folder, form, new_tokens = sys.argv[1:]
    generate = ours(Path(folder), form)[0] if side == "ours" else transformers_side(Path(folder), form)
    generate([_ids(PROMPT)], [int(new_tokens)])
    print_own_peak()
