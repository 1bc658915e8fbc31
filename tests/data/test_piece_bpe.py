"""Llama-2's pieces: ids of both published layouts as transformers gives them, bytes for what is foreign, safe cuts."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.hard_texts import BORDERS, HARD, LINES, SPECIALS, TRAINING
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bedplate.data.tokenize import load_tokenizer
from bedplate.data.tokenize.library import added_tokens
from bedplate.data.tokenize.piece_bpe import PieceBPE
from bedplate.errors import UserError

SPECIAL = ["<unk>", "<s>", "</s>"]
MARKS = dict(zip(("unk_token", "bos_token", "eos_token"), SPECIAL, strict=True))


def library() -> Library:
    """Pieces learned within words, as SentencePiece does, then merged across the whole text."""
    learner = Library(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=370, special_tokens=SPECIAL + bytes_, show_progress=False)
    learner.train_from_iterator([*TRAINING, "x  y   z    w " * 20], trainer)
    learned = json.loads(learner.to_str())["model"]
    vocabulary = learned["vocab"] | {"▁▁": 370, "▁▁▁▁": 371}
    merges = [tuple(pair) for pair in learned["merges"]] + [("▁", "▁"), ("▁▁", "▁▁")]
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    made = Library(model)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    return made


@pytest.fixture(scope="module", params=["legacy", "first", "always"])
def folder(request, tmp_path_factory: pytest.TempPathFactory):
    made = library()
    if request.param == "legacy":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=request.param, split=False)
    path = tmp_path_factory.mktemp(request.param)
    content = json.loads(made.to_str())
    start, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    named = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    template = {"type": "TemplateProcessing", "single": [start, text], "pair": [start, text], "special_tokens": named}
    content |= {"added_tokens": added_tokens(made.get_vocab(), SPECIAL), "post_processor": template}
    (path / "tokenizer.json").write_text(json.dumps(content))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **MARKS}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def test_ids_are_those_of_transformers(folder, tmp_path):
    ours, theirs = load_tokenizer(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    assert isinstance(ours, PieceBPE) and (ours.end_id, ours.special_ids) == (2, [0, 1, 2])
    ours.save(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*HARD, *LINES):
        ids = ours.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids
        assert again.encode(text) == ours.single(ids) == [1, *ids]
    assert load_tokenizer(tmp_path).digest == ours.digest


def test_what_is_foreign_is_written_in_bytes(folder):
    ours = load_tokenizer(folder)
    ids = ours.encode("the 👍 house")
    assert [ours.tokens[id] for id in ids if ours.tokens[id].startswith("<0x")] == [
        "<0xF0>",
        "<0x9F>",
        "<0x91>",
        "<0x8D>",
    ]
    assert ours.decode(ids) == "the 👍 house" and b"".join(map(ours.token_bytes, ids)) == " the 👍 house".encode()
    assert not set(ours.encode(SPECIALS)) & {0, 1, 2} and ours.decode(ours.encode(SPECIALS)) == SPECIALS.replace(
        "▁", " "
    )


@settings(max_examples=300, deadline=None)
@given(text=BORDERS, size=st.integers(1, 4))
def test_pieces_have_the_ids_of_the_whole(folder, text, size):
    ours = load_kept(folder)
    pieces = list(ours.split_text(text, size=size))
    assert sum(ours.encode_batch(pieces), []) == ours.encode_batch([text])[0]


def load_kept(folder, kept: dict = {}) -> PieceBPE:  # noqa: B006 - read once, for all examples
    return kept.setdefault(folder, kept.get(folder) or load_tokenizer(folder))


def test_long_texts_are_cut_unless_a_token_spans_a_space(folder, tmp_path):
    text = "some words and  more " * 50
    assert len(list(load_tokenizer(folder).split_text(text, size=100))) > 8
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["e▁"] = 372
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert list(load_tokenizer(tmp_path).split_text(text, size=100)) == [text]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["model"].update(fuse_unk=False), "does not fall back on bytes"),
        (lambda content: content["model"].update(dropout=0.1), "merges in another way"),
        (lambda content: content["model"]["vocab"].pop("<0x00>"), "lacks the tokens of 1 of the 256 bytes"),
        (lambda content: content.update(normalizer={"type": "NFC"}), "marks spaces in another way"),
    ],
)
def test_other_kinds_are_refused(folder, tmp_path, change, message):
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)
