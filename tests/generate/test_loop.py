"""The loop against a plain one without a cache, and what must not break it."""

import math
from collections.abc import Iterator

import pytest
import torch
from tests.generate.tiny import plain_bytes, random_model, tokenizer
from transformers import TopPLogitsWarper

from bedplate.errors import UserError
from bedplate.generate import Sampling, generate, stream
from bedplate.generate.sample import choose, keep_top_k, keep_top_p
from bedplate.models.gpt2 import GPT2

PROMPTS = ["The", "", "Größe and 日本語 🙂 of", "x", "the lazy dog jumps over the quick"]
GREEDY = Sampling(temperature=0)
SAMPLINGS = [GREEDY, Sampling(temperature=0.9), Sampling(temperature=1.3, top_k=40, top_p=0.9, repetition_penalty=1.2)]


def without_cache(
    model: GPT2, prompt: str, sampling: Sampling, *, seed: int, count: int
) -> tuple[list[int], list[float]]:
    """The plain loop: the whole text through the model for every token."""
    ids = tokenizer().encode(prompt) or [tokenizer().end_id]
    start, logprobs, generator = len(ids), [], torch.Generator().manual_seed(seed)
    while len(ids) < start + count:
        logits = model(torch.tensor([ids]))[:, -1]
        ids += choose(logits, sampling, histories=[ids], generators=[generator])
        logprobs.append(logits.log_softmax(dim=-1)[0, ids[-1]].item())
    return ids[start:], logprobs


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_cache_changes_nothing(sampling: Sampling) -> None:
    model = random_model()
    results = generate(model, tokenizer(), PROMPTS, max_new_tokens=12, sampling=sampling, seed=5)
    for row, (prompt, result) in enumerate(zip(PROMPTS, results, strict=True)):
        ids, logprobs = without_cache(model, prompt, sampling, seed=5 + row, count=len(result.ids))
        assert result.ids == ids
        assert result.logprobs == pytest.approx(logprobs, abs=1e-10)


def test_sequences_that_end_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = random_model(context_length=24), []
    features = model.features
    monkeypatch.setattr(model, "features", lambda ids, **rest: (batches.append(len(ids)), features(ids, **rest))[1])
    prompts = ["a" * 22, "b" * 5, "c" * 20]
    results = generate(model, tokenizer(), prompts, max_new_tokens=8, sampling=GREEDY, stop=[])
    lengths = [len(tokenizer().encode(prompt)) for prompt in prompts]
    assert [len(result.ids) for result in results] == [min(8, 24 - length) for length in lengths]
    prompts_alone = [1] * len(prompts)
    assert batches == prompts_alone + [sum(len(result.ids) > step for result in results) for step in range(1, 8)]


def test_seeds_count_up_from_seed() -> None:
    model = random_model()
    counted = generate(model, tokenizer(), ["x", "x", "x"], seed=4)
    assert counted == generate(model, tokenizer(), ["x", "x", "x"], seeds=[4, 5, 6])
    assert len({result.text for result in counted}) == 3


def test_a_small_temperature_is_greedy() -> None:
    model = random_model()
    cold = generate(model, tokenizer(), PROMPTS, sampling=Sampling(temperature=1e-6))
    assert cold == generate(model, tokenizer(), PROMPTS, sampling=GREEDY)


def test_long_prompts_are_refused_or_cut_at_their_beginning() -> None:
    model = random_model(vocab_size=257)
    long = "".join(chr(97 + place % 26) for place in range(60))
    with pytest.raises(UserError, match="60 tokens.*truncate"):
        generate(model, plain_bytes(), [long])
    with pytest.raises(UserError, match="48 tokens"):
        generate(model, plain_bytes(), [long[:48]])
    options = {"max_new_tokens": 10, "sampling": GREEDY}
    assert generate(model, plain_bytes(), [long], truncate=True, **options) == generate(
        model, plain_bytes(), [long[-38:]], **options
    )
    (result,) = generate(model, plain_bytes(), [long], truncate=True, max_new_tokens=100, sampling=GREEDY)
    assert (len(result.ids), result.finish_reason) == (47, "context")


def test_padding_of_the_vocabulary_is_never_drawn() -> None:
    model = random_model(vocab_size=2000)  # 1700 ids mean nothing
    results = generate(model, tokenizer(), ["x"] * 4, sampling=Sampling(temperature=5.0))
    assert max(id for result in results for id in result.ids) < 300


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": [""]}, "stop string"),
        ({"seeds": [1]}, "2 prompts and 1 seeds"),
        ({"seeds": [1, 2**64]}, "64 bits"),
        ({"prompts": "ab"}, "list of texts"),
    ],
)
def test_mistakes_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        generate(random_model(), tokenizer(), **({"prompts": ["a", "b"]} | options))


def test_bad_input_to_a_stream_is_refused_before_the_first_piece() -> None:
    with pytest.raises(UserError, match="max_new_tokens"):
        stream(random_model(), tokenizer(), "x", max_new_tokens=0)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_broken_weights_are_named(sampling: Sampling) -> None:
    model = random_model()
    with torch.no_grad():
        model.final_norm.bias[0] = math.nan
    with pytest.raises(UserError, match="not a number"):
        generate(model, tokenizer(), ["x"], sampling=sampling)


def partly_training(model: GPT2) -> list[bool]:
    model.train()
    model.blocks[0].eval()
    return [module.training for module in model.modules()]


def test_layers_are_training_again_afterwards() -> None:
    model = random_model()
    expected = generate(model, tokenizer(), ["x"])
    modes = partly_training(model)
    assert generate(model, tokenizer(), ["x"]) == expected  # without dropout
    assert [module.training for module in model.modules()] == modes
    assert model(torch.tensor([[1, 2]])).requires_grad  # no inference tensors left behind


def interrupted(pieces: Iterator[str]) -> None:
    for _ in pieces:
        raise KeyboardInterrupt


def test_an_interrupted_stream_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model()
    expected = generate(model, tokenizer(), ["x"])
    modes = partly_training(model)
    with pytest.raises(KeyboardInterrupt):
        interrupted(stream(model, tokenizer(), "The"))
    assert [module.training for module in model.modules()] == modes

    with monkeypatch.context() as patch:
        patch.setattr(model, "logits", lambda features: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            list(stream(model, tokenizer(), "The"))
    assert [module.training for module in model.modules()] == modes
    assert not torch.is_inference_mode_enabled()
    assert generate(model, tokenizer(), ["x"]) == expected


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-46, 5e-324])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_temperature_is_too_small(temperature: float, dtype: torch.dtype) -> None:
    logits = 3 * torch.randn(16, 500, dtype=dtype, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(row) for row in range(16)]
    drawn = choose(logits, Sampling(temperature=temperature), histories=[[0]] * 16, generators=generators)
    assert drawn == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize("p", [1e-9, 0.05, 0.5, 0.9, 0.999, 1 - 1e-9])
@pytest.mark.parametrize("spread", [0.01, 1.0, 15.0])
def test_top_p_is_the_reference_however_many_tokens_it_sorts(p: float, spread: float) -> None:
    logits = spread * torch.randn(16, 500, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(keep_top_p(logits, p), TopPLogitsWarper(p)(None, logits))


def test_tokens_equally_likely_are_kept_together() -> None:
    level = torch.zeros(1, 6)
    assert torch.equal(keep_top_p(level, 0.5), level) and torch.equal(keep_top_k(level, 2), level)
