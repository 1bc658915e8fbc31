"""A folder's files decide which tokenizer opens it, and every tokenizer keeps the protocol."""

import json
from pathlib import Path

import pytest
from tests.data.hard_texts import LINES, TRAINING

from bedplate.data.shards import write_shards
from bedplate.data.source import sequential_windows
from bedplate.data.text import Document
from bedplate.data.tokenize import Tokenizer, load_tokenizer
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.data.tokenize.unigram import Unigram
from bedplate.data.tokenize.vocabulary import BYTE_OF
from bedplate.data.tokenize.word_bpe import WordBPE
from bedplate.data.tokenize.word_piece import WordPiece
from bedplate.errors import UserError

TRAINED = {
    "byte": ByteBPE.train(TRAINING, vocab_size=300),
    "word piece": WordPiece.train(TRAINING, vocab_size=130),
    "word": WordBPE.train(TRAINING, vocab_size=130).with_special("<end>", end="<end>"),
    "unigram": Unigram.train(TRAINING, vocab_size=85, num_sentinels=10),
}
DOCUMENTS = [
    Document(f"d{number}", text)
    for number, text in enumerate([*LINES, "  two  spaces\n\n", "\n", "Ünknown ✓ 한국어", "THE  HOUSE " * 40])
]


@pytest.mark.parametrize("name", TRAINED)
def test_every_tokenizer_keeps_the_protocol(name, tmp_path):
    tokenizer = TRAINED[name]
    assert isinstance(tokenizer, Tokenizer)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert type(again) is type(tokenizer) and again.digest == tokenizer.digest
    assert (again.end_id, again.unknown_id, again.vocab_size) == (
        tokenizer.end_id, tokenizer.unknown_id, tokenizer.vocab_size,
    )  # fmt: skip
    assert sorted(tokenizer.tokens) == list(range(tokenizer.vocab_size))
    assert tokenizer.end_id in tokenizer.special_ids
    spelled = b"".join(tokenizer.token_bytes(id) for id in tokenizer.encode("the house")).decode()
    assert spelled.strip() == "the house" == tokenizer.decode(tokenizer.encode("the house"))
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(UserError, match="is not in the vocabulary"):
            tokenizer.token_bytes(wrong)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(("length", "batch_size"), [(7, 3), (64, 8), (1000, 1)])
def test_bits_per_byte_count_the_bytes_of_the_text(name, length, batch_size, tmp_path):
    """Whatever a tokenizer loses (capitals, accents, repeated spaces) or adds (a space before the text)."""
    tokenizer = TRAINED[name]
    shards = write_shards(DOCUMENTS, tokenizer, tmp_path / "shards")
    windows = list(sequential_windows(shards, length=length, batch_size=batch_size))
    size = sum(len(document.text.encode()) for document in DOCUMENTS)
    assert sum(int(batch["bytes"].sum()) for batch in windows) == size == shards.manifest["num_bytes"]
    assert all((batch["bytes"] >= 0).all() for batch in windows)
    assert shards.manifest["num_documents"] == len(DOCUMENTS)
    spelled = shards.token_bytes[shards.read(0, shards.num_tokens)].sum()
    assert shards.manifest["spelled_bytes"] == spelled
    assert (spelled == size) == (name == "byte")


def test_a_vocabulary_without_end_mark_cannot_end_documents(tmp_path):
    with pytest.raises(UserError, match="has no token that ends a text; add one"):
        write_shards(DOCUMENTS, WordBPE.train(TRAINING, vocab_size=130), tmp_path / "shards")


def test_files_of_old_versions_do_not_say_their_type(tmp_path):
    for name in ("word piece", "unigram", "word", "byte"):
        TRAINED[name].save(tmp_path / name)
        path = tmp_path / name / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        del content["model"]["type"]
        path.write_text(json.dumps(content))
        assert load_tokenizer(tmp_path / name).encode(LINES[0]) == TRAINED[name].encode(LINES[0])


def test_folders_that_hold_no_language_model_s_tokenizer(tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    clip = {name: id for id, name in enumerate([*BYTE_OF, *(f"{name}</w>" for name in BYTE_OF)])}
    (tmp_path / "vocab.json").write_text(json.dumps(clip), encoding="utf-8")
    with pytest.raises(UserError, match="as CLIP's"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(UserError, match="does not have the layout"):
        load_tokenizer(tmp_path)


def test_roles_are_read_from_both_files(tmp_path: Path):
    TRAINED["unigram"].save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path).end_id == -1
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "</s>"}, "unk_token": null}')
    assert load_tokenizer(tmp_path).end_id == 1
