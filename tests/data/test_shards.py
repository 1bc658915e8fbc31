"""Token shards: what was written comes back, damage is noticed, and processes do not trip over each other."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bedplate.data import shards as module
from bedplate.data.shards import TokenShards, cached, write_ids, write_shards
from bedplate.data.text import Document, open_corpus
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.errors import UserError
from bedplate.files import sha256_file

DOCUMENTS = [Document(f"d{number}", f"document {number}: naïve\n" * number or "x") for number in range(100)]


@pytest.fixture(scope="module")
def tokenizer() -> ByteBPE:
    return ByteBPE.train([document.text for document in DOCUMENTS], vocab_size=280)


@pytest.fixture
def written(tokenizer, tmp_path) -> TokenShards:
    return write_shards(DOCUMENTS, tokenizer, tmp_path / "shards", receipt={"name": "test"}, shard_tokens=1000)


def test_what_was_written_comes_back(written, tokenizer):
    expected = [[*tokenizer.encode(document.text), tokenizer.end_id] for document in DOCUMENTS]
    stream = list(chain.from_iterable(expected))
    again = TokenShards.open(written.folder).check()
    assert again.manifest == written.manifest
    assert again.num_tokens == len(stream) > 5000
    assert again.read(0, again.num_tokens).tolist() == stream
    for start, stop in ((0, 0), (5, 6), (990, 1010), (999, 3001), (1000, 2000), (len(stream) - 3, len(stream))):
        assert again.read(start, stop).tolist() == stream[start:stop]
    manifest = again.manifest
    assert (manifest["num_documents"], manifest["dtype"], manifest["corpus"]) == (100, "<u2", {"name": "test"})
    assert manifest["tokenizer_sha256"] == tokenizer.digest
    assert {path.stat().st_size for path in sorted(written.folder.glob("tokens-*"))[:-1]} == {2000}


def test_long_documents_are_whole(tokenizer, tmp_path):
    text = "".join(f"word{number} and  some\n\n" for number in range(60_000))
    written = write_shards([Document("long", text), Document("short", "x")], tokenizer, tmp_path / "shards")
    (long, short), end = tokenizer.encode_batch([text, "x"]), tokenizer.end_id
    assert written.read(0, written.num_tokens).tolist() == [*long, end, *short, end]


def test_bytes_of_tokens(written, tokenizer):
    ids = written.read(0, written.num_tokens)
    assert written.token_bytes[ids].sum() == sum(len(document.text.encode()) for document in DOCUMENTS)
    assert written.token_bytes[tokenizer.end_id] == 0


def test_large_vocabularies_use_more_bits(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "vocab_size", 2**16 + 1)
    monkeypatch.setattr(tokenizer, "end_id", 2**16)
    written = write_shards(DOCUMENTS[:3], tokenizer, tmp_path / "shards")
    assert written.manifest["dtype"] == "<u4"
    assert written.read(written.num_tokens - 1, written.num_tokens).tolist() == [2**16]


@pytest.mark.parametrize("name", ["tokens-00000.bin", "tokens-00001.bin", "token_bytes.bin"])
def test_damage(written, name):
    path = written.folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:7] + bytes([whole[7] ^ 1]) + whole[8:])
    with pytest.raises(UserError, match=rf"{name} was altered \(its hash differs\); delete"):
        TokenShards.open(written.folder).check()
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"{name} has {len(whole) - 1} bytes instead of {len(whole)}; delete"):
        TokenShards.open(written.folder)
    path.unlink()
    with pytest.raises(UserError, match=f"{name} has 0 bytes"):
        TokenShards.open(written.folder)


def test_damaged_manifest(written):
    path = written.folder / "manifest.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(UserError, match="manifest.json is not valid JSON"):
        TokenShards.open(written.folder)
    path.write_text("{}")
    with pytest.raises(UserError, match="manifest.json is not a manifest of token shards"):
        TokenShards.open(written.folder)


def test_a_failure_leaves_nothing(tokenizer, tmp_path, monkeypatch):
    def fill_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", fill_disk)
    with pytest.raises(UserError, match=r"cannot write token shards at .* \(No space left on device\); free space"):
        write_shards(DOCUMENTS, tokenizer, tmp_path / "shards")
    assert list(tmp_path.iterdir()) == []


def test_other_shards_are_not_overwritten(written, tokenizer):
    same = write_shards(DOCUMENTS, tokenizer, written.folder, shard_tokens=1000)
    assert same.manifest == written.manifest
    with pytest.raises(UserError, match="already holds something else"):
        write_shards(DOCUMENTS[:5], tokenizer, written.folder, shard_tokens=1000)
    assert TokenShards.open(written.folder).check().num_tokens == written.num_tokens
    assert [path.name for path in written.folder.parent.iterdir()] == ["shards"]


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {number} of the text\n" for number in range(2000)))
    return path


def test_cache(text, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("BEDPLATE_CACHE", str(tmp_path / "cache"))
    corpus = open_corpus(text)
    train, held_out = cached(corpus, tokenizer)
    assert train.folder.is_relative_to(tmp_path / "cache")
    assert tokenizer.decode(train.read(0, train.num_tokens - 1).tolist()) == next(iter(corpus.train)).text
    assert tokenizer.decode(held_out.read(0, held_out.num_tokens - 1).tolist()) == next(iter(corpus.held_out)).text
    assert train.manifest["corpus"] == corpus.receipt()
    monkeypatch.setattr(module, "write_shards", None)  # not needed again
    assert cached(corpus, tokenizer)[0].manifest == train.manifest
    path = train.folder / "tokens-00000.bin"
    path.write_bytes(path.read_bytes()[:-2] + b"zz")
    with pytest.raises(UserError, match="was altered"):
        cached(corpus, tokenizer)


def test_other_text_or_vocabulary_has_another_place(text, tokenizer, tmp_path):
    first = cached(open_corpus(text), tokenizer, tmp_path)[0].folder
    assert cached(open_corpus(text), ByteBPE.train([], vocab_size=257), tmp_path)[0].folder != first
    text.write_text(text.read_text() + "more\n")
    assert cached(open_corpus(text), tokenizer, tmp_path)[0].folder != first


SCRIPT = """
import sys
from bedplate.data.shards import cached
from bedplate.data.text import open_corpus
from bedplate.data.tokenize.byte_bpe import ByteBPE
corpus, tokenizer = open_corpus(sys.argv[1]), ByteBPE.from_folder(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
print([side.check().num_tokens for side in cached(corpus, tokenizer, sys.argv[3])])
"""


def test_processes_at_once(text, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    command = [sys.executable, "-c", SCRIPT, str(text), str(tmp_path / "tokenizer"), str(tmp_path / "cache")]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda process: process.communicate("go\n"), processes))
    assert [process.returncode for process in processes] == [0, 0, 0], results
    assert len({output for output, _ in results}) == 1
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_threads_at_once(text, tokenizer, tmp_path):
    corpus = open_corpus(text)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: cached(corpus, tokenizer, tmp_path / "cache")[0].manifest, range(16)))
    assert len({json.dumps(manifest) for manifest in results}) == 1


def settle(shards: TokenShards) -> None:
    """Make the files as old as those of yesterday."""
    for path in shards.folder.iterdir():
        os.utime(path, (0, 0))


def test_hashes_are_compared_once(written, monkeypatch):
    hashed = []
    monkeypatch.setattr(module, "sha256_file", lambda path: hashed.append(path.name) or sha256_file(path))
    monkeypatch.setattr(module, "SETTLED", 0)
    files = sorted(written.manifest["files"])
    settle(written)
    written.check()
    assert sorted(hashed) == files
    hashed.clear()
    TokenShards.open(written.folder).check()
    assert hashed == []
    (written.folder / "tokens-00001.bin").touch()
    TokenShards.open(written.folder).check()
    assert hashed == ["tokens-00001.bin"]


def test_a_file_that_was_altered_after_it_was_compared(written, monkeypatch):
    monkeypatch.setattr(module, "SETTLED", 0)
    settle(written)
    path = written.check().folder / "tokens-00001.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:7] + bytes([whole[7] ^ 1]) + whole[8:])
    os.utime(path, (0, 0))  # with the size and the time that it had; the time of its last change cannot be set
    with pytest.raises(UserError, match="tokens-00001.bin was altered"):
        TokenShards.open(written.folder).check()


def test_a_file_as_young_as_its_check_is_compared_again(written):
    written.check()
    assert not (written.folder / "checked.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"tokens-00000.bin": 3}', "\x00"])
def test_a_damaged_note_of_what_was_compared(written, content):
    (written.folder / "checked.json").write_text(content)
    path = written.check().folder / "tokens-00000.bin"
    path.write_bytes(path.read_bytes()[:-2] + b"zz")
    with pytest.raises(UserError, match="was altered"):
        written.check()


def test_a_file_that_is_cut_or_lost_while_training(written):
    path = written.folder / "tokens-00001.bin"
    assert len(written.read(1000, 2000)) == 1000
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"tokens-00001.bin ends too early; delete"):
        written.read(1000, 2000)
    assert len(written.read(0, 1000)) == 1000
    path.unlink()
    with pytest.raises(UserError, match=r"tokens-00001.bin cannot be read \(No such file"):
        written.read(1000, 2000)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_windows_from_anywhere(written, data):
    whole = written.read(0, written.num_tokens)
    length = data.draw(st.integers(0, 2500))
    starts = data.draw(st.lists(st.integers(0, written.num_tokens - length), max_size=9))
    rows = written.read_windows(np.array(starts, np.int64), length=length)
    assert rows.shape == (len(starts), length) and rows.dtype == np.int64
    assert rows.tolist() == [whole[start : start + length].tolist() for start in starts]


@pytest.mark.parametrize("stretch", [1, 7, 999, 10**6])
def test_ids_in_stretches_of_any_length_make_the_same_shards(written, tokenizer, tmp_path, stretch):
    ids = written.read(0, written.num_tokens)
    stretches = [ids[start : start + stretch] for start in range(0, len(ids), stretch)]
    again = write_ids([*stretches, ids[:0]], tokenizer, tmp_path / "again", shard_tokens=1000)
    assert again.manifest["files"] == written.manifest["files"]
    assert again.manifest["num_documents"] == len(DOCUMENTS)
