"""GPT-1's word BPE: ids equal to transformers' on the published vocabulary, added tokens, both ways through folders."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.hard_texts import BORDERS, HARD, LINES, SPECIALS, TEXTS, TRAINING, VOCABULARIES
from transformers import AutoTokenizer, OpenAIGPTTokenizer

from bedplate.data.tokenize import load_tokenizer
from bedplate.data.tokenize.tokenizer import end_mark
from bedplate.data.tokenize.word_bpe import TASK_TOKENS, WordBPE
from bedplate.errors import UserError

GPT1 = VOCABULARIES / "gpt1"


@pytest.fixture(scope="module")
def small() -> WordBPE:
    return WordBPE.train(TRAINING, vocab_size=130)


@pytest.fixture(scope="module")
def published() -> WordBPE:
    return load_tokenizer(GPT1)


@pytest.fixture(scope="module")
def hugging_face(published, tmp_path_factory: pytest.TempPathFactory) -> OpenAIGPTTokenizer:
    folder = tmp_path_factory.mktemp("gpt1")
    (folder / "vocab.json").write_bytes((GPT1 / "encoder_bpe_40000.json").read_bytes())
    (folder / "merges.txt").write_bytes((GPT1 / "vocab_40000.bpe").read_bytes())
    assert load_tokenizer(folder).digest == published.digest
    return OpenAIGPTTokenizer.from_pretrained(folder)


def plain(theirs: OpenAIGPTTokenizer, text: str) -> list[int]:
    return theirs.encode(text, split_special_tokens=True)


@pytest.mark.shared
@pytest.mark.parametrize("text", [*HARD, SPECIALS], ids=range(len(HARD) + 1))
def test_published_ids(published, hugging_face, text):
    ids = published.encode(text)
    assert ids == plain(hugging_face, text)
    assert published.decode(ids) == hugging_face.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.shared
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_published_ids_on_drawn_texts(published, hugging_face, text):
    assert published.encode(text) == plain(hugging_face, text)


@pytest.mark.shared
def test_published_facts(published, tmp_path):
    assert (published.vocab_size, published.unknown_id, published.end_id) == (40478, 0, -1)
    assert [published.tokens[id] for id in published.encode("Hello tokenizers")][0] == "hello</w>"
    with pytest.raises(UserError, match="has no token that ends a text"):
        end_mark(published)
    published.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert [plain(theirs, text) for text in HARD] == [published.encode(text) for text in HARD]


def test_trained_vocabularies_open_in_transformers(small, tmp_path):
    small.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, OpenAIGPTTokenizer) and len(theirs) == small.vocab_size == 130
    assert [plain(theirs, text) for text in (*HARD, *LINES)] == [small.encode(text) for text in (*HARD, *LINES)]
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").digest == load_tokenizer(tmp_path).digest == small.digest
    (tmp_path / "tokenizer.json").unlink()
    assert load_tokenizer(tmp_path).digest == small.digest


def test_training_is_deterministic(small):
    assert WordBPE.train(reversed(TRAINING), vocab_size=130).digest == small.digest


def test_decoding_puts_spaces_where_words_end(small):
    ids = small.encode("The   HOUSE is\nwonderful")
    assert small.decode(ids) == "the house is wonderful"
    assert b"".join(map(small.token_bytes, ids)) == b"the house is wonderful "


def test_special_tokens_are_added_behind_all_others(small, tmp_path):
    tasks = small.with_special(*TASK_TOKENS, end="_delimiter_")
    assert [tasks.id_of(token) for token in TASK_TOKENS] == [130, 131, 132]
    assert (tasks.vocab_size, tasks.end_id, end_mark(tasks)) == (133, 131, 131)
    assert tasks.encode("_start_ the house _delimiter_") == small.encode("_start_ the house _delimiter_")
    assert tasks.token_bytes(130) == b"_start_" and tasks.digest != small.digest
    tasks.save(tmp_path)
    assert load_tokenizer(tmp_path).digest == tasks.digest
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode("_classify_") == [132] and theirs.eos_token_id == 131


@settings(max_examples=200, deadline=None)
@given(text=BORDERS, size=st.integers(1, 4))
def test_pieces_have_the_ids_of_the_whole(small, text, size):
    pieces = list(small.split_text(text, size=size))
    assert "".join(pieces) == text
    assert sum(small.encode_batch(pieces), []) == small.encode_batch([text])[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["model"].update(dropout=0.1), "merges in another way"),
        (lambda content: content.update(pre_tokenizer={"type": "Whitespace"}), "into words in another way"),
        (lambda content: content.update(normalizer={"type": "NFC"}), "cleans text in another way"),
        (lambda content: content["model"].update(type="Unknown"), "does not have the layout"),
    ],
)
def test_other_kinds_are_refused(small, tmp_path, change, message):
    small.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)
