"""Byte-level BPE: ids equal to two independent references, lossless, and clear about broken files."""

import json
import os
from itertools import chain
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, GPT2Tokenizer

from bedplate.data.tokenize.byte_bpe import END, ByteBPE
from bedplate.data.tokenize.tokenizer import end_mark
from bedplate.data.tokenize.vocabulary import BYTE_OF
from bedplate.errors import UserError

SHARED = Path(os.environ.get("BEDPLATE_SHARED_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
GPT2 = SHARED / "tokenizers" / "gpt2"
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

FIXED = [
    "",
    " ",
    "Hello world",
    "  leading,   inner \n\n\n and trailing   ",
    "tabs\t\tand\u00a0no-break\u3000wide\u2003em\u200bzero",
    "line\r\nends\r\n\r\nof\rall\x0bkinds\x0c\x85\u2028\u2029.",
    "nul\0bytes\0\0 and \x1c\x1d\x1e\x1f separators \x7f",
    "we've they're I'm she'd it's don't you'll WE'VE 'S 'll''t ’s",
    "def f(x: int = 3) -> list[int]:\n\treturn [x**i for i in range(10)]  # 0x1F, 1_000, 3.14e-10\n",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪 🏴\U000e0067\U000e0062\U000e007f ❤️ e\u0301 \u0301",
    "日本語のテキスト、한국어 العربية עברית हिन्दी ไทย Ελληνικά русский ½ Ⅷ ٣ ²",
    "a" * 20_000,
    "ab" * 5_000 + " " * 3_000 + "!?" * 2_000,
    "<|endoftext|> and <|endoftext|>",
    bytes(range(256)).decode("latin-1"),
    "".join(chr(code) for code in range(0x2500, 0x2700)),
]
PIECES = st.sampled_from(
    ["'ll", "'s", " ", "  ", "\n", "\r\n", "\t", "\0", "the", " The", "23", "_", "->", "é", "👩‍👧", "ß"]
)
MIXED = st.lists(PIECES | st.characters(exclude_categories=["Cs"]), max_size=40).map("".join)
TEXTS = st.text(max_size=60) | MIXED
SMALL_TEXT = ["the cat sat on the mat, didn't it? the cat's hat\n" * 20, "naïve café 東京 東京 👩‍👧 👩‍👧\r\n\r\n" * 20]


@pytest.fixture(scope="module")
def small() -> ByteBPE:
    return ByteBPE.train(SMALL_TEXT, vocab_size=300)


@pytest.fixture(scope="module")
def published() -> ByteBPE:
    if not GPT2.exists():
        pytest.skip(f"the published GPT-2 vocabulary is not at {GPT2}")
    return ByteBPE.from_folder(GPT2)


@pytest.fixture(scope="module")
def openai(published: ByteBPE) -> tiktoken.Encoding:
    ids = json.loads((GPT2 / "encoder.json").read_text(encoding="utf-8"))
    end = ids.pop(END)
    ranks = {bytes(BYTE_OF[character] for character in token): id for token, id in ids.items()}
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END: end})


@pytest.fixture(scope="module")
def hugging_face(published: ByteBPE, tmp_path_factory: pytest.TempPathFactory) -> GPT2Tokenizer:
    folder = tmp_path_factory.mktemp("gpt2")
    (folder / "vocab.json").write_bytes((GPT2 / "encoder.json").read_bytes())
    (folder / "merges.txt").write_bytes((GPT2 / "vocab.bpe").read_bytes())
    return GPT2Tokenizer.from_pretrained(folder)


@pytest.mark.shared
def test_published_ids_around_every_kind_of_character(published, openai):
    """Each character beside letters, digits, signs and spaces; of the vast uniform blocks, a sample."""
    blocks = [range(0x3000), range(0x3000, 0xD800, 61), range(0xF900, 0x20000), range(0x20000, 0x110000, 1009)]
    characters = [chr(code) for block in blocks for code in block]
    texts = [f"a{c} {c}1{c}!{c}b {c} {c}{c} x" for c in characters]
    assert published.encode_batch(texts) == openai.encode_ordinary_batch(texts)


@pytest.mark.shared
@pytest.mark.parametrize("text", FIXED, ids=range(len(FIXED)))
def test_published_ids_on_fixed_texts(published, openai, hugging_face, text):
    ids = published.encode(text)
    assert ids == openai.encode_ordinary(text)
    assert ids == hugging_face.encode(text, split_special_tokens=True)
    assert published.decode(ids) == text


@pytest.mark.shared
@settings(max_examples=600, deadline=None)
@given(text=TEXTS)
def test_published_ids_on_fuzzed_texts(published, openai, hugging_face, text):
    ids = published.encode(text)
    assert ids == openai.encode_ordinary(text)
    assert ids == hugging_face.encode(text, split_special_tokens=True)
    assert published.decode(ids) == text


@pytest.mark.shared
def test_published_facts(published):
    assert (published.vocab_size, published.end_id) == (50257, 50256)
    assert published.encode("Hello world") == [15496, 995]
    assert published.decode([published.end_id]) == END
    assert published.token_bytes(995) == b" world"


@pytest.mark.shared
def test_exported_published_vocabulary_is_unchanged(published, tmp_path):
    published.save(tmp_path)
    assert ByteBPE.from_folder(tmp_path).digest == published.digest
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in FIXED:
        assert theirs.encode(text, split_special_tokens=True) == published.encode(text)


@pytest.fixture(scope="module")
def exported(small: ByteBPE, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("small")
    small.save(folder)
    return folder, [AutoTokenizer.from_pretrained(folder), GPT2Tokenizer.from_pretrained(folder)]


@pytest.mark.parametrize("text", FIXED, ids=range(len(FIXED)))
def test_trained_ids_equal_transformers_on_fixed_texts(small, exported, text):
    ids = small.encode(text)
    assert small.decode(ids) == text
    for theirs in exported[1]:
        assert theirs.encode(text, split_special_tokens=True) == ids
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_trained_ids_equal_transformers_on_fuzzed_texts(small, exported, text):
    ids = small.encode(text)
    assert small.decode(ids) == text
    assert exported[1][0].encode(text, split_special_tokens=True) == ids


def test_exported_special_tokens(small, exported):
    theirs = exported[1][0]
    assert len(theirs) == small.vocab_size == 300
    assert theirs.eos_token_id == theirs.bos_token_id == small.end_id == 299
    assert theirs.pad_token is None
    assert theirs.encode(END) == [small.end_id]
    assert small.end_id not in small.encode(END)
    assert small.decode(small.encode(END)) == END


def test_every_layout_reads_the_same(small, exported, tmp_path):
    folder = exported[0]
    (tmp_path / "encoder.json").write_bytes((folder / "vocab.json").read_bytes())
    (tmp_path / "vocab.bpe").write_bytes((folder / "merges.txt").read_bytes())
    assert ByteBPE.from_folder(folder).digest == ByteBPE.from_folder(tmp_path).digest == small.digest


def test_transformers_own_folder_opens(small, exported, tmp_path):
    exported[1][1].save_pretrained(tmp_path)
    assert [ByteBPE.from_folder(tmp_path).encode(text) for text in FIXED] == [small.encode(text) for text in FIXED]


def test_training_is_deterministic_and_plain_bytes_work(small):
    assert ByteBPE.train(reversed(SMALL_TEXT), vocab_size=300).digest == small.digest
    plain = ByteBPE.train([], vocab_size=257)
    assert [plain.token_bytes(id) for id in plain.encode("aé")] == [b"a", b"\xc3", b"\xa9"]
    assert plain.end_id == 256
    assert sorted(plain.token_bytes(id) for id in range(256)) == [bytes([byte]) for byte in range(256)]
    assert plain.decode(plain.encode("é")[:1]) == "\ufffd"


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from("ab1! \n\t\r\x1c\u00a0\u2003'é"), max_size=80), size=st.integers(1, 20))
def test_pieces_have_the_ids_of_the_whole(small, text, size):
    pieces = list(small.split_text(text, size=size))
    assert "".join(pieces) == text
    assert list(chain(*small.encode_batch(pieces))) == small.encode_batch([text])[0]


def test_mistakes_in_text_and_ids(small):
    bad, message = "a\ud800b", r"lone surrogate \(U\+D800\) at character 1"
    with pytest.raises(UserError, match=message):
        small.encode(bad)
    with pytest.raises(UserError, match=message):
        small.encode_batch(["a", bad])
    with pytest.raises(UserError, match=message):
        ByteBPE.train(["a", bad], vocab_size=300)
    with pytest.raises(UserError, match="id 300 is not in the vocabulary of 300 tokens"):
        small.decode([300])
    with pytest.raises(UserError, match="set vocab_size to 257 or more"):
        ByteBPE.train([], vocab_size=256)
    with pytest.raises(UserError, match="yields a vocabulary of only 259 tokens, not 300; set vocab_size .* to 259"):
        ByteBPE.train(["abc abc"], vocab_size=300)


def break_file(folder: Path, name: str, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")


BYTES = dict(BYTE_OF)
ADDS_END = {"type": "TemplateProcessing", "special_tokens": {END: {"ids": [299]}}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no tokenizer"),
        ({"vocab.json": BYTES}, "merges.txt does not exist"),
        ({"vocab.json": '{"a": 1', "merges.txt": ""}, "vocab.json is not valid JSON"),
        ({"vocab.json": [1], "merges.txt": ""}, "vocab.json is not a table"),
        ({"vocab.json": {"a": 1}, "merges.txt": ""}, "vocab.json lacks the tokens of 255 of the 256 bytes"),
        ({"vocab.json": BYTES | {"ab": 0}, "merges.txt": ""}, "same id to two tokens"),
        ({"vocab.json": BYTES | {"ab": "x"}, "merges.txt": ""}, "not a whole number"),
        ({"vocab.json": BYTES | {"▁a": 256}, "merges.txt": ""}, "'▁a', which is not written in GPT-2's"),
        ({"vocab.json": BYTES, "merges.txt": "#version: 0.2\na b\n"}, "merges 'a' and 'b', but lacks"),
        ({"vocab.json": BYTES, "merges.txt": "a b\na\n"}, r"line 2 of \S*merges.txt is not a pair"),
        ({"tokenizer.json": "{"}, "tokenizer.json is not valid JSON"),
        ({"tokenizer.json": {"model": {}}}, "tokenizer.json does not have the layout"),
        ({"tokenizer.json": []}, "tokenizer.json does not have the layout"),
    ],
)
def test_broken_folders(tmp_path, files, message):
    for name, content in files.items():
        break_file(tmp_path, name, content)
    with pytest.raises(UserError, match=message) as caught:
        ByteBPE.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["model"].update(type="WordPiece"), "its model is WordPiece"),
        (lambda content: content["model"].update(ignore_merges=True), "its model sets ignore_merges"),
        (lambda content: content["pre_tokenizer"].update(add_prefix_space=True), "into words in another way"),
        (lambda content: content.update(normalizer={"type": "NFC"}), "it normalizes text"),
        (lambda content: content.update(post_processor=ADDS_END), "adds tokens around"),
        (lambda content: content.update(post_processor={"type": "RobertaProcessing"}), "adds tokens around"),
        (lambda content: content["added_tokens"][0].update(special=False), "finds the added token"),
    ],
)
def test_other_kinds_of_tokenizer_are_refused(exported, tmp_path, change, message):
    content = json.loads((exported[0] / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    break_file(tmp_path, "tokenizer.json", content)
    with pytest.raises(UserError, match=message):
        ByteBPE.from_folder(tmp_path)


def test_a_vocabulary_without_end_mark_opens_and_says_so(tmp_path):
    break_file(tmp_path, "vocab.json", BYTES)
    break_file(tmp_path, "merges.txt", "")
    tokenizer = ByteBPE.from_folder(tmp_path)
    assert tokenizer.decode(tokenizer.encode("né")) == "né"
    assert tokenizer.end_id == -1
    with pytest.raises(UserError, match="has no token that ends a text"):
        end_mark(tokenizer)
