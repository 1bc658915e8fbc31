"""BLOOM's and Llama-3's words: ids of their folders as transformers and tiktoken give them, and safe cuts."""

import json
from itertools import chain

import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.hard_texts import BORDERS, HARD, LINES, SPECIALS, TEXTS, TRAINING
from tokenizers import Tokenizer as Library
from transformers import AutoTokenizer

from bedplate.data.tokenize import load_tokenizer
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.data.tokenize.vocabulary import BYTE_OF
from bedplate.data.tokenize.words import BLOOM, GPT2, KNOWN, LLAMA3, LLAMA3_PATTERN
from bedplate.errors import UserError

NAMES = [words.name for words in KNOWN]
LLAMA3_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>")


@pytest.fixture(scope="module")
def bloom() -> ByteBPE:
    return ByteBPE.train(TRAINING, vocab_size=330, words=BLOOM)


@pytest.fixture(scope="module")
def llama3_folder(tmp_path_factory: pytest.TempPathFactory):
    """A folder as it is published: special tokens behind the others, and a template that begins each text."""
    folder = tmp_path_factory.mktemp("llama3")
    ByteBPE.train(TRAINING, vocab_size=330, words=LLAMA3).save(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (end,) = content["added_tokens"]
    del content["model"]["vocab"][end["content"]]
    ids = [end["id"], end["id"] + 1]
    content["added_tokens"] = [end | {"content": name, "id": id} for name, id in zip(LLAMA3_SPECIAL, ids, strict=True)]
    begin = LLAMA3_SPECIAL[0]
    start, text = {"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    named = {begin: {"id": begin, "ids": ids[:1], "tokens": [begin]}}
    template = {"type": "TemplateProcessing", "single": [start, text], "pair": [start, text], "special_tokens": named}
    offsets = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    content["post_processor"] = {"type": "Sequence", "processors": [offsets, template]}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    marks = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": LLAMA3_SPECIAL[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))
    return folder


def test_bloom_has_its_special_tokens_first(bloom, tmp_path):
    assert [bloom.tokens[id] for id in range(4)] == ["<unk>", "<s>", "</s>", "<pad>"]
    assert (bloom.end_id, bloom.special_ids, bloom.vocab_size) == (2, [0, 1, 2, 3], 330)
    bloom.save(tmp_path)
    again, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert again.digest == bloom.digest and again.end_id == 2
    assert (theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 2, 3)
    for text in (*HARD, *LINES):
        ids = bloom.encode(text)
        assert theirs.encode(text) == again.encode(text) == ids and bloom.decode(ids) == text
    assert theirs.encode("</s>") == [2] and not set(bloom.encode(SPECIALS)) & {0, 1, 2, 3}
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").encode(LINES[1]) == bloom.encode(LINES[1])


def test_bloom_cuts_at_spaces_and_marks_of_several_scripts(bloom):
    library = Library.from_str(json.dumps({**empty(), "pre_tokenizer": BLOOM.pre_tokenizer}))
    words = [word for word, _ in library.pre_tokenizer.pre_tokenize_str("it's (a|b), c.  d।e")]
    assert words == ["it's", "Ġ(", "a", "|", "b", "),", "Ġc", ".Ġ", "Ġd", "à¥¤", "e"]


def empty() -> dict:
    return json.loads(Library.from_str('{"model": {"type": "BPE", "vocab": {}, "merges": []}}').to_str())


def test_llama3_folders(llama3_folder, tmp_path):
    ours, theirs = load_tokenizer(llama3_folder), AutoTokenizer.from_pretrained(llama3_folder)
    assert (ours.end_id, ours.special_ids) == (330, [329, 330])
    ours.save(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*HARD, *LINES):
        ids = ours.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids and ours.decode(ids) == text
        assert again.encode(text) == theirs.encode(text) == ours.single(ids) == [329, *ids]
    assert load_tokenizer(tmp_path).digest == ours.digest


def test_llama3_ids_are_those_of_tiktoken(llama3_folder):
    ours = load_tokenizer(llama3_folder)
    ranks = {ours.token_bytes(id): id for id in ours.tokens if id not in ours.special_ids}
    theirs = tiktoken.Encoding("llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})
    for text in (*HARD, *LINES):
        assert ours.encode(text) == theirs.encode_ordinary(text)


@pytest.mark.parametrize("words", KNOWN, ids=NAMES)
@settings(max_examples=300, deadline=None)
@given(text=BORDERS | TEXTS, size=st.integers(1, 4))
def test_pieces_have_the_ids_of_the_whole(words, text, size):
    tokenizer = trained(words.name)
    pieces = list(tokenizer.split_text(text, size=size))
    assert "".join(pieces) == text
    assert list(chain(*tokenizer.encode_batch(pieces))) == tokenizer.encode_batch([text])[0]


@pytest.mark.parametrize("words", KNOWN, ids=NAMES)
def test_long_texts_are_cut(words):
    text = "A word, (another) one. Next\nline\t1234 " * 50
    assert len(list(trained(words.name).split_text(text, size=100))) > 15


def trained(name: str, kept: dict[str, ByteBPE] = {}) -> ByteBPE:  # noqa: B006 - made once, for all examples
    if name not in kept:
        words = KNOWN[NAMES.index(name)]
        # Marks joined with spaces and line breaks, so that a cut between them would show.
        kept[name] = ByteBPE.train([*TRAINING, ".\n .\n).  (\n\n a.\n b)\n" * 30], vocab_size=330, words=words)
    return kept[name]


def test_digests_differ(bloom):
    one = ByteBPE.train([], vocab_size=260, words=BLOOM)
    assert len({one.digest, bloom.digest, ByteBPE.train([], vocab_size=257, words=LLAMA3).digest}) == 3
    assert GPT2.pre_tokenizer["use_regex"] and regex.compile(LLAMA3_PATTERN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["model"].update(ignore_merges=False), "sets ignore_merges to False"),
        (lambda content: content["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), "in another way"),
        (lambda content: content["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="a"), "in another way"),
        (lambda content: content["model"]["merges"].append(["a", "b"]), "merges 'a' and 'b' into a special token"),
    ],
)
def test_other_kinds_are_refused(llama3_folder, tmp_path, change, message):
    content = json.loads((llama3_folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"].append(content["added_tokens"][0] | {"content": "ab", "id": 400})
    content["model"]["vocab"].pop("ab", None)
    content["model"]["merges"] = [pair for pair in content["model"]["merges"] if "ab" not in "".join(pair)]
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)
    assert BYTE_OF
