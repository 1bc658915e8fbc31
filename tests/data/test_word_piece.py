"""WordPiece: ids equal to transformers' on the published vocabularies, its template, and both ways through folders."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.hard_texts import BORDERS, HARD, LINES, SPECIALS, TEXTS, TRAINING, VOCABULARIES
from transformers import AutoTokenizer, BertTokenizer

from bedplate.data.tokenize import load_tokenizer
from bedplate.data.tokenize.word_piece import SPECIAL, WordPiece
from bedplate.errors import UserError


@pytest.fixture(scope="module")
def small() -> WordPiece:
    return WordPiece.train(TRAINING, vocab_size=130)


@pytest.fixture(scope="module", params=["cased", "uncased"])
def published(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[WordPiece, BertTokenizer]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "vocab.txt").write_bytes((VOCABULARIES / "bert" / f"bert-base-{request.param}-vocab.txt").read_bytes())
    settings = {"do_lower_case": request.param == "uncased"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(folder), BertTokenizer.from_pretrained(folder)


def plain(theirs: BertTokenizer, text: str) -> list[int]:
    return theirs.encode(text, add_special_tokens=False, split_special_tokens=True)


@pytest.mark.shared
@pytest.mark.parametrize("text", [*HARD, SPECIALS], ids=range(len(HARD) + 1))
def test_published_ids(published, text):
    assert published[0].encode(text) == plain(published[1], text)


@pytest.mark.shared
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_published_ids_on_drawn_texts(published, text):
    assert published[0].encode(text) == plain(published[1], text)


@pytest.mark.shared
def test_published_facts(published):
    ours, theirs = published
    assert (ours.vocab_size, ours.special_ids) in [(28996, [0, 100, 101, 102, 103]), (30522, [0, 100, 101, 102, 103])]
    assert (ours.pad_id, ours.unknown_id, ours.start_id, ours.end_id, ours.mask_id) == (0, 100, 101, 102, 103)
    first, second = ours.encode("a first text"), ours.encode("and another")
    paired = theirs("a first text", "and another")
    assert ours.pair(first, second) == (paired["input_ids"], paired["token_type_ids"])
    assert ours.single(first) == theirs("a first text")["input_ids"]
    assert ours.decode(first) == "a first text"


@pytest.mark.shared
def test_published_vocabularies_are_saved_for_transformers(published, tmp_path):
    ours, _ = published
    ours.save(tmp_path)
    theirs, again = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    assert again.digest == ours.digest
    (tmp_path / "tokenizer.json").unlink()
    for other in (theirs, BertTokenizer.from_pretrained(tmp_path)):
        assert [plain(other, text) for text in HARD] == [ours.encode(text) for text in HARD]
    assert load_tokenizer(tmp_path).digest == ours.digest


def test_pieces_are_the_longest_from_the_left(tmp_path):
    tokens = [*SPECIAL, "un", "##aff", "##able", "##a", "##ff", "una", ",", "runn", "##ing"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    ours = load_tokenizer(tmp_path)
    written = [[ours.tokens[id] for id in ours.encode(text)] for text in ("unaffable", "UN,running", "unaffablex", "ü")]
    assert written == [["una", "##ff", "##able"], ["un", ",", "runn", "##ing"], ["[UNK]"], ["[UNK]"]]
    assert ours.decode(ours.encode("unaffable, running")) == "unaffable, running"
    assert b"".join(ours.token_bytes(id) for id in ours.encode("running un")) == b" running un"


def test_trained_vocabularies_open_in_transformers(small, tmp_path):
    small.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, BertTokenizer) and len(theirs) == small.vocab_size == 130
    for text in (*HARD, *LINES):
        assert plain(theirs, text) == small.encode(text)
    names = (theirs.pad_token_id, theirs.unk_token_id, theirs.cls_token_id, theirs.sep_token_id, theirs.mask_token_id)
    assert names == (small.pad_id, small.unknown_id, small.start_id, small.end_id, small.mask_id) == (0, 1, 2, 3, 4)
    assert small.unknown_id not in small.encode(LINES[0])
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").digest == small.digest


def test_cased_vocabularies_keep_capitals_and_accents(tmp_path):
    cased = WordPiece.train(TRAINING, vocab_size=140, lower_case=False)
    assert cased.decode(cased.encode("The café")) == "The café"
    cased.save(tmp_path)
    assert load_tokenizer(tmp_path).encode("The café") == cased.encode("The café")


def test_training_is_deterministic(small):
    again = WordPiece.train(reversed(TRAINING), vocab_size=130)
    assert again.digest == small.digest
    assert small.encode("THE CAFÉ") == small.encode("the cafe")


def test_text_gives_no_special_tokens(small):
    assert not set(small.special_ids) & set(small.encode("the [SEP] mat [CLS] the")) - {small.unknown_id}


@settings(max_examples=200, deadline=None)
@given(text=BORDERS, size=st.integers(1, 4))
def test_pieces_have_the_ids_of_the_whole(small, text, size):
    pieces = list(small.split_text(text, size=size))
    assert "".join(pieces) == text
    assert sum(small.encode_batch(pieces), []) == small.encode_batch([text])[0]


def test_mistakes(small, tmp_path):
    with pytest.raises(UserError, match="yields a vocabulary of only"):
        WordPiece.train(["a b"], vocab_size=100)
    with pytest.raises(UserError, match="the characters of the text alone are 9 tokens, the vocabulary is to have 8"):
        WordPiece.train(["ab ba"], vocab_size=8)
    with pytest.raises(UserError, match="is not a readable list of tokens"):
        WordPiece.from_vocabulary(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"has no token \[PAD\]"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="id 130 is not in the vocabulary of 130 tokens"):
        small.decode([130])
    with pytest.raises(UserError, match="lone surrogate"):
        small.encode("a\ud800")
    with pytest.raises(UserError, match="has no token '<s>'"):
        small.id_of("<s>")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["model"].update(max_input_chars_per_word=200), "words have up to 200 characters"),
        (lambda content: content["model"].update(continuing_subword_prefix="@@"), "writes pieces in another way"),
        (lambda content: content.update(pre_tokenizer={"type": "Whitespace"}), "into words in another way"),
        (lambda content: content.update(normalizer={"type": "NFC"}), "cleans text in another way"),
        (lambda content: content.update(decoder=None), "has no decoder"),
        (lambda content: content["added_tokens"][0].update(special=False), "finds the added token"),
    ],
)
def test_other_kinds_are_refused(small, tmp_path, change, message):
    small.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)
