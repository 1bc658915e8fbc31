"""The real openai client against a running server."""

import json
import math
from collections.abc import Iterator

import openai
import pytest
from tests.serve.running import MODEL, running

from bedplate.language_model import LanguageModel, load
from bedplate.serve.wire import Offsets

PROMPT = "The open function"


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with running("--slots", 4) as (address, _), openai.OpenAI(base_url=address + "/v1", api_key="none") as client:
        yield client


@pytest.fixture(scope="module")
def language_model() -> LanguageModel:
    return load(MODEL)


def test_a_completion_is_what_the_library_writes(client: openai.OpenAI, language_model: LanguageModel) -> None:
    reply = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=30, seed=4, logprobs=3)
    expected = language_model.generate(PROMPT, max_new_tokens=30, seed=4)
    (choice,) = reply.choices
    assert choice.text == expected.text and choice.finish_reason == "length"
    assert choice.logprobs.token_logprobs == expected.logprobs
    assert [len(top) for top in choice.logprobs.top_logprobs] == [3] * 30
    assert "".join(choice.logprobs.tokens) == choice.text and choice.logprobs.text_offset[1] == len(
        choice.logprobs.tokens[0]
    )
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (4, 30)
    assert reply.model_extra["truncated"] is False


def test_choices_count_seeds_up_and_prompts_keep_their_order(
    client: openai.OpenAI, language_model: LanguageModel
) -> None:
    prompts = [PROMPT, "class Reader"]
    reply = client.completions.create(
        model=MODEL, prompt=prompts, n=2, max_tokens=12, seed=7, temperature=0.8, top_p=0.9
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    options = {"max_new_tokens": 12, "temperature": 0.8, "top_p": 0.9}
    expected = [language_model.generate(each, seed=seed, **options).text for each in prompts for seed in (7, 8)]
    assert [choice.text for choice in reply.choices] == expected


def test_a_stream_adds_up(client: openai.OpenAI, language_model: LanguageModel) -> None:
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "seed": 2, "n": 2, "logprobs": 1}
    texts, finished, usage = ["", ""], {}, None
    for chunk in client.completions.create(stream=True, stream_options={"include_usage": True}, **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                finished[choice.index] = choice.finish_reason
    assert texts == [language_model.generate(PROMPT, max_new_tokens=40, seed=seed).text for seed in (2, 3)]
    assert finished == {0: "length", 1: "length"} and usage.completion_tokens == 80


def test_offsets_are_places_in_the_text_streamed_or_whole(client: openai.OpenAI) -> None:
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    free = client.completions.create(**options).choices[0].text
    held = {"stop": free[10:16] + "never", "logprobs": 0}  # a stream holds these characters back for a while
    whole = client.completions.create(**options, **held).choices[0]
    for token, offset in zip(whole.logprobs.tokens, whole.logprobs.text_offset, strict=True):
        assert whole.text[offset : offset + len(token)] == token
    chunks = client.completions.create(stream=True, **options, **held)
    streamed = [offset for chunk in chunks for offset in chunk.choices[0].logprobs.text_offset]
    assert streamed == whole.logprobs.text_offset


def test_a_character_of_several_tokens_has_one_offset() -> None:
    offsets = Offsets()
    assert [offsets.next(data) for data in (b"ab", b"\xe6\xbc", b"\xa2", b"c")] == [0, 2, 2, 3]


def test_stops_biases_ids_and_echo(client: openai.OpenAI, language_model: LanguageModel) -> None:
    free = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=40, temperature=0).choices[0].text
    stop = free[10:13]
    stopped = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=40, temperature=0, stop=[stop]).choices[
        0
    ]
    assert stopped.text == free.partition(stop)[0] and stopped.finish_reason == "stop"
    ids = language_model.tokenizer.encode(PROMPT)
    by_ids = client.completions.create(model=MODEL, prompt=ids, max_tokens=40, temperature=0, echo=True).choices[0]
    assert by_ids.text == PROMPT + free
    star = language_model.tokenizer.encode("*")[0]
    forced = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=5, logit_bias={str(star): 100})
    assert forced.choices[0].text == "*****"


def test_chat_is_plain_completion_of_lines(client: openai.OpenAI, language_model: LanguageModel) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What does open do?"}]
    text = "system: Be brief.\nuser: What does open do?\nassistant:"
    options = {"model": MODEL, "messages": messages, "seed": 5, "max_completion_tokens": 25}
    reply = client.chat.completions.create(logprobs=True, top_logprobs=2, **options)
    expected = language_model.generate(text, max_new_tokens=25, seed=5, stop=["\nuser:", "\nsystem:"])
    (choice,) = reply.choices
    assert choice.message.content == expected.text and choice.message.role == "assistant"
    assert [entry.logprob for entry in choice.logprobs.content] == expected.logprobs
    assert all(len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(stream=True, **options)]
    assert "".join(pieces) == expected.text


def test_a_chat_may_be_held_to_a_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["file", "folder"]}},
        "required": ["kind"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    messages = [{"role": "user", "content": "What is it?"}]
    for seed in range(4):
        reply = client.chat.completions.create(
            model=MODEL, messages=messages, response_format=form, seed=seed, max_completion_tokens=120
        )
        assert reply.choices[0].finish_reason == "stop"
        assert json.loads(reply.choices[0].message.content)["kind"] in ("file", "folder")
    broken = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "nonsense"}}}
    with pytest.raises(openai.BadRequestError, match="JSON Schema"):
        client.chat.completions.create(model=MODEL, messages=messages, response_format=broken)


def test_embeddings_and_models(client: openai.OpenAI) -> None:
    several = client.embeddings.create(model=MODEL, input=["open a file", "close it"])
    plain = client.embeddings.create(model=MODEL, input="open a file", encoding_format="float")
    assert several.data[0].embedding == pytest.approx(plain.data[0].embedding, rel=1e-6)
    assert len(plain.data[0].embedding) == 128 and math.isfinite(sum(plain.data[0].embedding))
    (model,) = client.models.list()
    assert model.id == MODEL and model.model_extra["completion_only"] is True
    assert client.models.retrieve(MODEL).model_extra["context_length"] == 256


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "gpt2-tiny"),
        ({"prompt": "word " * 300}, openai.BadRequestError, "context"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"max_tokens": 10**6}, openai.BadRequestError, "up to 4096"),
        ({"suffix": "x"}, openai.BadRequestError, "suffix"),
        ({"extra_body": {"tools": []}}, openai.BadRequestError, "tools"),
        ({"prompt": []}, openai.BadRequestError, "prompt"),
    ],
)
def test_mistakes_are_named(client: openai.OpenAI, options: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        client.completions.create(**({"model": MODEL, "prompt": PROMPT} | options))


def test_a_prompt_is_cut_only_when_asked_and_that_is_said(client: openai.OpenAI, language_model: LanguageModel) -> None:
    long = "word " * 300
    reply = client.completions.create(model=MODEL, prompt=long, max_tokens=5, seed=1, extra_body={"truncate": True})
    assert reply.model_extra["truncated"] is True
    assert reply.choices[0].text == language_model.generate(long, max_new_tokens=5, seed=1, truncate=True).text
