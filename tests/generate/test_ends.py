"""Where a text ends and how it arrives, told by a model that recites a known text byte by byte."""

from tests.generate.tiny import plain_bytes, reciting_model

from bedplate.generate import Generation, Sampling, generate, stream

GREEDY = Sampling(temperature=0)


def recite(text: str, prompt: str, *, end: bool = False, **options: object) -> tuple[Generation, list[str]]:
    """Byte by byte, by a model that knows the text; the result and the streamed pieces."""
    ids = plain_bytes().encode(text) + [plain_bytes().end_id] * end
    model = reciting_model(ids, vocab_size=257)
    chosen = {"max_new_tokens": len(ids) - len(prompt.encode()), "sampling": GREEDY} | options
    (result,) = generate(model, plain_bytes(), [prompt], **chosen)
    return result, list(stream(model, plain_bytes(), prompt, **chosen))


def test_characters_cut_across_tokens_arrive_whole() -> None:
    result, pieces = recite("Say: né 語🙂!", "Say: ")
    assert pieces == ["n", "é", " ", "語", "🙂", "!"]
    assert result.text == "né 語🙂!" and result.finish_reason == "length"


def test_a_character_cut_by_the_end_is_replaced() -> None:
    result, pieces = recite("a 🙂", "a", max_new_tokens=3)
    assert result.text == "".join(pieces) == " \N{REPLACEMENT CHARACTER}"


def test_a_stop_string_across_tokens_is_cut_and_ends_the_ids() -> None:
    result, pieces = recite("Q: one\n\n\nQ: two", "Q:", stop=["\n\nQ", "never"])
    assert result.text == "".join(pieces) == " one\n"
    assert plain_bytes().decode(result.ids) == " one\n\n\nQ" and len(result.logprobs) == len(result.ids)
    assert result.finish_reason == "stop"


def test_one_stop_string_needs_no_list() -> None:
    result, _ = recite("a bc de", "a", stop="c d")
    assert result.text == " b"


def test_a_stop_string_completed_by_the_last_token_counts() -> None:
    result, _ = recite("a END", "a", stop=["END"])
    assert (result.text, result.finish_reason) == (" ", "stop")


def test_end_of_text_ends_and_is_not_shown() -> None:
    result, pieces = recite("a b", "a", end=True, max_new_tokens=20)
    assert result.text == "".join(pieces) == " b"
    assert result.ids[-1] == plain_bytes().end_id and result.finish_reason == "end"


def test_a_full_context_ends() -> None:
    result, _ = recite("a" * 48, "a" * 40, max_new_tokens=20)
    assert (len(result.ids), result.finish_reason) == (8, "context")
    result, _ = recite("a" * 48, "a" * 40, max_new_tokens=8)
    assert (len(result.ids), result.finish_reason) == (8, "length")


def test_the_prompt_is_not_searched_for_stop_strings() -> None:
    result, _ = recite("aa b", "aa", stop=["a"])
    assert (result.text, result.finish_reason) == (" b", "length")
