"""Generation: equal to transformers, equal in any batch, and honest about where it ended."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.generate import Engine, Generation, Request, Sampling, generate, stream
from bedplate.generate.text import IdsOnly, TextStream
from bedplate.models import save_pretrained
from bedplate.models.gpt2 import GPT2, Config

TEXT = ["The quick brown fox jumps over the lazy dog. " * 20, "naïve café 東京 🙂👩‍👩‍👧 " * 20]
PROMPTS = ["The quick", "a", "dog. The lazy dog jumps over", "東京", ""]


@pytest.fixture(scope="module")
def tokenizer() -> ByteBPE:
    return ByteBPE.train(TEXT, vocab_size=300)


@pytest.fixture(scope="module")
def model() -> GPT2:
    """Float64, so that equal means equal; weights large enough that the choices are not ties."""
    torch.manual_seed(0)
    built = GPT2(Config(vocab_size=300, context_length=48, dim=32, num_layers=2, num_heads=4)).double().eval()
    with torch.no_grad():
        built.token_embedding.weight.mul_(8)
    return built


def write(model: GPT2, tokenizer: ByteBPE, prompts: list[str], **options: object) -> list[Generation]:
    return generate(model, tokenizer, prompts, **{"max_new_tokens": 12, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sampling",
    [Sampling(temperature=0), Sampling(), Sampling(temperature=0.7, top_k=9, top_p=0.9, repetition_penalty=1.2)],
)
def test_a_batch_gives_what_each_prompt_gives_alone(model: GPT2, tokenizer: ByteBPE, sampling: Sampling) -> None:
    seeds = [3, 1, 4, 1, 5]
    together = write(model, tokenizer, PROMPTS, sampling=sampling, seeds=seeds)
    backward = write(model, tokenizer, PROMPTS[::-1], sampling=sampling, seeds=seeds[::-1])[::-1]
    for prompt, seed, one, other in zip(PROMPTS, seeds, together, backward, strict=True):
        (alone,) = write(model, tokenizer, [prompt], sampling=sampling, seed=seed)
        assert one.ids == other.ids == alone.ids and one.text == alone.text
        assert one.logprobs == pytest.approx(alone.logprobs, abs=1e-5)  # reported in float32


def test_greedy_tokens_equal_transformers(model: GPT2, tmp_path: Path) -> None:
    save_pretrained(model, tmp_path, end_id=299)
    reference = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    prompt = [5, 17, 250, 3]
    options = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = reference.generate(torch.tensor([prompt]), **options)[0, 4:].tolist()
    greedy = Sampling(temperature=0)
    engine = Engine(model, IdsOnly(300), slots=1)
    engine.submit(Request(prompt=prompt, max_new_tokens=30, sampling=greedy))
    assert [update.token.id for _ in range(30) for update in engine.step()] == expected
    assert not engine.busy


def test_logprobs_are_those_of_a_full_forward_pass(model: GPT2, tokenizer: ByteBPE) -> None:
    (written,) = write(model, tokenizer, ["The quick"], sampling=Sampling(temperature=0.5, top_k=3))
    prompt = tokenizer.encode("The quick")
    ids = torch.tensor([prompt + written.ids])
    with torch.no_grad():
        logprobs = model(ids[:, :-1]).log_softmax(-1)[0, len(prompt) - 1 :]
    expected = logprobs.gather(1, torch.tensor(written.ids)[:, None]).squeeze(1)
    torch.testing.assert_close(torch.tensor(written.logprobs), expected.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("stop", [(), ("e",), ("o", "ab")])
@pytest.mark.parametrize("seed", range(6))
def test_streamed_pieces_add_up(model: GPT2, tokenizer: ByteBPE, seed: int, stop: tuple[str, ...]) -> None:
    options = {"max_new_tokens": 30, "stop": stop, "seed": seed}
    pieces = list(stream(model, tokenizer, "The", **options))  # type: ignore[arg-type]
    (whole,) = generate(model, tokenizer, ["The"], **options)  # type: ignore[arg-type]
    assert "".join(pieces) == whole.text and all(pieces)


def test_a_stop_string_ends_the_text_before_it(model: GPT2, tokenizer: ByteBPE) -> None:
    (free,) = write(model, tokenizer, ["The"], seed=1, max_new_tokens=30)
    stop = free.text[4:7]
    (stopped,) = write(model, tokenizer, ["The"], seed=1, max_new_tokens=30, stop=[stop])
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.ids == free.ids[: len(stopped.ids)]
    assert stop in tokenizer.decode(stopped.ids) and stop not in tokenizer.decode(stopped.ids[:-1])


def test_finish_reasons(model: GPT2, tokenizer: ByteBPE) -> None:
    assert write(model, tokenizer, ["The"])[0].finish_reason == "length"
    long = "dog " * 40
    fits = next(long[:n] for n in range(len(long), 0, -1) if len(tokenizer.encode(long[:n])) == 45)
    (full,) = write(model, tokenizer, [fits])
    assert full.finish_reason == "context" and len(full.ids) == 3

    class Ending(GPT2):
        def logits(self, features: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return torch.nn.functional.one_hot(torch.full((len(features),), 299), 300).double()

    ending = Ending(model.config).double()
    (ended,) = write(ending, tokenizer, ["The"], sampling=Sampling(temperature=0))
    assert ended == Generation(text="", ids=[tokenizer.end_id], logprobs=ended.logprobs, finish_reason="end")


def test_training_mode_is_restored(model: GPT2, tokenizer: ByteBPE) -> None:
    model.train()
    try:
        write(model, tokenizer, ["a"], max_new_tokens=2)
        assert model.training
        next(stream(model, tokenizer, "a", max_new_tokens=20), None)  # abandoned halfway
        assert model.training
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    finally:
        model.eval()


def test_long_prompts_are_errors_or_cut_when_asked(model: GPT2, tokenizer: ByteBPE) -> None:
    long = "quick brown fox " * 40
    with pytest.raises(UserError, match="context"):
        write(model, tokenizer, [long])
    (cut,) = write(model, tokenizer, [long], truncate=True)
    assert cut.finish_reason == "length" and len(cut.ids) == 12


def test_bad_arguments_are_user_errors(model: GPT2, tokenizer: ByteBPE) -> None:
    with pytest.raises(UserError, match="max_new_tokens"):
        write(model, tokenizer, ["a"], max_new_tokens=0)
    with pytest.raises(UserError, match="stop"):
        write(model, tokenizer, ["a"], stop=[""])
    with pytest.raises(UserError, match="surrogate"):
        write(model, tokenizer, ["\ud800"])
    small = GPT2(Config(vocab_size=50, context_length=16, dim=8, num_layers=1, num_heads=1))
    with pytest.raises(UserError, match="tokenizer"):
        write(small, tokenizer, ["The quick"])


def test_no_prompts_give_no_generations(model: GPT2, tokenizer: ByteBPE) -> None:
    assert write(model, tokenizer, []) == []


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40), cuts=st.lists(st.integers(1, 4), max_size=60), stop=st.text(min_size=1, max_size=3))
def test_a_text_stream_never_takes_back_what_it_showed(text: str, cuts: list[int], stop: str) -> None:
    data = text.encode("utf-8", errors="replace")
    text = data.decode()
    shown, place, streamed = "", 0, TextStream([stop])
    for cut in [*cuts, len(data) + 1]:
        shown += streamed.push(data[place : place + cut])
        place += cut
        assert text.startswith(shown)
    shown += streamed.push(b"", final=True)
    assert shown == text.partition(stop)[0]
    assert streamed.stopped == (stop in text)
