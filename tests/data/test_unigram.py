"""Unigram pieces: ids equal to transformers' T5, sentinels, byte fallback, training, and both ways through folders."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.hard_texts import BORDERS, HARD, LINES, SPECIALS, TEXTS, TRAINING, VOCABULARIES
from tokenizers import Tokenizer as Library
from transformers import AutoTokenizer, T5Tokenizer
from transformers.utils import sentencepiece_model_pb2_new as protobuf

from bedplate.data.tokenize import load_tokenizer
from bedplate.data.tokenize.sentence_piece import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, read_sentence_piece
from bedplate.data.tokenize.unigram import Unigram
from bedplate.errors import UserError

T5 = VOCABULARIES / "t5"


@pytest.fixture(scope="module")
def small() -> Unigram:
    return Unigram.train(TRAINING, vocab_size=85, num_sentinels=10)


@pytest.fixture(scope="module")
def published() -> Unigram:
    return load_tokenizer(T5)


@pytest.fixture(scope="module")
def hugging_face(published) -> T5Tokenizer:
    """What transformers makes of the file, which it reads by the protobuf library."""
    model = parsed(T5 / "sentencepiece.model")
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    pieces += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(100))]
    return T5Tokenizer(vocab=pieces, _spm_precompiled_charsmap=model.normalizer_spec.precompiled_charsmap)


def parsed(path: Path) -> protobuf.ModelProto:
    model = protobuf.ModelProto()
    model.ParseFromString(path.read_bytes())
    return model


def plain(theirs: T5Tokenizer, text: str) -> list[int]:
    return theirs.encode(text, add_special_tokens=False, split_special_tokens=True)


@pytest.mark.shared
@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
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
def test_published_facts(published, hugging_face):
    house = published.encode("The house is wonderful.")
    assert house == [37, 629, 19, 1627, 5] and published.single(house) == [*house, 1]
    paired = hugging_face("The house is wonderful.", "The house")["input_ids"]
    assert published.pair(house, house[:2])[0] == [*house, 1, *house[:2], 1] == paired
    assert (published.vocab_size, published.pad_id, published.end_id, published.unknown_id) == (32100, 0, 1, 2)
    assert published.sentinel_ids == list(range(32099, 31999, -1))
    assert published.sentinel_ids == hugging_face.convert_tokens_to_ids([f"<extra_id_{n}>" for n in range(100)])
    assert published.decode(house) == "The house is wonderful."
    assert not set(published.special_ids) & set(published.encode(SPECIALS)) - {published.unknown_id}


@pytest.mark.shared
def test_the_published_file_is_read_as_protobuf_reads_it():
    ours, theirs = read_sentence_piece(T5 / "sentencepiece.model"), parsed(T5 / "sentencepiece.model")
    assert list(zip(ours.pieces, ours.scores, ours.kinds, strict=True)) == [
        (piece.piece, piece.score, piece.type) for piece in theirs.pieces
    ]
    assert ours.character_map == theirs.normalizer_spec.precompiled_charsmap
    assert ours.unknown_id == theirs.trainer_spec.unk_id == 2


@pytest.mark.shared
def test_published_vocabularies_go_both_ways(published, hugging_face, tmp_path):
    published.save(tmp_path / "ours")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert [plain(theirs, text) for text in HARD] == [published.encode(text) for text in HARD]
    assert theirs("The house is wonderful.")["input_ids"] == [37, 629, 19, 1627, 5, 1]
    hugging_face.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        assert load_tokenizer(tmp_path / folder).digest == published.digest


def test_trained_vocabularies_go_both_ways(small, tmp_path):
    assert (small.vocab_size, small.pad_id, small.end_id, small.unknown_id) == (85, 0, 1, 2)
    assert small.sentinel_ids == [84, 83, 82, 81, 80, 79, 78, 77, 76, 75]
    small.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert [plain(theirs, text) for text in (*HARD, *LINES)] == [small.encode(text) for text in (*HARD, *LINES)]
    assert (theirs.eos_token_id, theirs.pad_token_id, theirs.unk_token_id) == (1, 0, 2)
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").digest == load_tokenizer(tmp_path).digest == small.digest


def test_training_is_deterministic_and_useful(small):
    assert Unigram.train(reversed(TRAINING), vocab_size=85, num_sentinels=10).digest == small.digest
    ids = small.encode(LINES[0])
    assert small.decode(ids) == LINES[0] and len(ids) < len(LINES[0]) / 1.5
    assert small.encode("ﬁ ＡＢ  x") == small.encode("fi AB x")
    with pytest.raises(UserError, match="yields a vocabulary of only"):
        Unigram.train(["a b"], vocab_size=500)
    for size, message in ((50, "too small for 100 sentinels"), (110, "not large enough to contain all chars")):
        with pytest.raises(UserError, match=message):
            Unigram.train(TRAINING, vocab_size=size)
    with pytest.raises(UserError, match="lone surrogate"):
        Unigram.train(["a\ud800"], vocab_size=200)


def model_file(path: Path, *, fallback: bool, **settings: int) -> protobuf.ModelProto:
    """A model as mT5's: special pieces, bytes, words, and sentinels that the file itself holds."""
    model = protobuf.ModelProto()
    named = [("<pad>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN)]
    named += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)] if fallback else []
    words = ["▁the", "▁house", "▁", "t", "h", "e", "s", "<", ">", "0", "x", "4", "1", "!", "▁<"]
    named += [(word, -1.0 - place / 8, NORMAL) for place, word in enumerate(words)]
    named += [(f"▁<extra_id_{number}>", 0.0, USER_DEFINED) for number in (2, 1, 0)]
    for piece, score, kind in named:
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.byte_fallback, model.trainer_spec.unk_id = fallback, 2
    model.trainer_spec.model_type = settings.pop("model_type", 1)
    for name, value in settings.items():
        setattr(model.normalizer_spec, name, value)
    path.write_bytes(model.SerializeToString())
    return model


def test_byte_fallback_and_sentinels_of_the_file(tmp_path):
    model_file(tmp_path / "spiece.model", fallback=True)
    ours = load_tokenizer(tmp_path)
    assert (ours.vocab_size, ours.sentinel_ids) == (277, [276, 275, 274])
    ids = ours.encode("the 東京 house 👍")
    written = [ours.tokens[id] for id in ids]
    assert written[:8] == ["▁the", "▁", *(f"<0x{byte:02X}>" for byte in "東京".encode())]
    assert ours.unknown_id not in ids and ours.decode(ids) == "the 東京 house 👍"
    assert b"".join(map(ours.token_bytes, ids)).decode() == " the 東京 house 👍"
    for text in ("<0x41>!", "the <extra_id_0> </s>", "▁<extra_id_1>"):
        assert ours.decode(ours.encode(text)) == text.replace("▁", "")
        assert not set(ours.encode(text)) & {ours.id_of("<0x41>"), *ours.special_ids}
    ours.save(tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert plain(theirs, "the 東京 house 👍") == ids
    assert load_tokenizer(tmp_path / "saved").digest == ours.digest


def test_without_byte_fallback_what_is_foreign_is_unknown(tmp_path):
    model_file(tmp_path / "spiece.model", fallback=False)
    ours = load_tokenizer(tmp_path)
    assert [ours.tokens[id] for id in ours.encode("the 東京 house")] == ["▁the", "▁", "<unk>", "▁house"]


def test_the_number_of_sentinels_is_read(small, tmp_path):
    model = model_file(tmp_path / "spiece.model", fallback=False)
    del model.pieces[-3:]
    (tmp_path / "spiece.model").write_bytes(model.SerializeToString())
    assert load_tokenizer(tmp_path).vocab_size == 18 + 100
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": 7}')
    ours = load_tokenizer(tmp_path)
    assert (ours.vocab_size, ours.sentinel_ids) == (18 + 7, [24, 23, 22, 21, 20, 19, 18])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": 2}, "is not a unigram model"),
        ({"add_dummy_prefix": 0}, "adds no space before a text"),
        ({"remove_extra_whitespaces": 0}, "keeps repeated spaces"),
        ({"escape_whitespaces": 0}, "does not mark spaces"),
    ],
)
def test_other_models_are_refused(tmp_path, settings, message):
    model_file(tmp_path / "spiece.model", fallback=False, **settings)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_damaged_models_are_user_errors(tmp_path):
    path = tmp_path / "spiece.model"
    model_file(path, fallback=True)
    whole = path.read_bytes()
    for data in (b"", whole[:-1], b"not a model", whole[:1000] + b"\xff" * 20, b"\x0a\x02\x0a\x00\x07"):
        path.write_bytes(data)
        with pytest.raises(UserError, match="is not a SentencePiece model"):
            load_tokenizer(tmp_path)


@settings(max_examples=300, deadline=None)
@given(text=BORDERS, size=st.integers(1, 4))
def test_pieces_have_the_ids_of_the_whole(small, text, size):
    pieces = list(small.split_text(text, size=size))
    assert "".join(pieces) == text
    assert sum(small.encode_batch(pieces), []) == small.encode_batch([text])[0]


@pytest.mark.shared
@settings(max_examples=300, deadline=None)
@given(text=BORDERS | TEXTS, size=st.integers(1, 4))
def test_pieces_have_the_published_ids_of_the_whole(published, text, size):
    pieces = list(published.split_text(text, size=size))
    assert sum(published.encode_batch(pieces), []) == published.encode_batch([text])[0]


@pytest.mark.shared
def test_no_character_combines_with_the_space_at_a_cut(published):
    """The library normalizes what Unicode counts as one character (U+0600 and the space after it) together."""
    normalize = Library.from_str(json.dumps(published.content)).normalizer.normalize_str
    for code in (*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)):
        before, after = f"a{chr(code)}", f" {chr(code)}b"
        assert normalize(f"{before} b") == normalize(before) + normalize(" b")
        assert normalize(f"a{after}") == normalize("a") + normalize(after)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["model"].update(unk_id=None), "has no unknown token"),
        (lambda content: content.update(pre_tokenizer={"type": "Whitespace"}), "into words in another way"),
        (lambda content: content.update(normalizer={"type": "Lowercase"}), "normalizes text in another way"),
    ],
)
def test_other_kinds_are_refused(small, tmp_path, change, message):
    small.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)
