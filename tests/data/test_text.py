"""Corpora: deterministic text, a stable split, and a clear line for whatever cannot be read."""

import hashlib
import json
import os
import sys
import tracemalloc
from itertools import islice
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from bedplate.data import python_library, text
from bedplate.data.text import Document, open_corpus, split
from bedplate.errors import UserError

LINES = "".join(f"line {number}\n" for number in range(100))


def test_pydocs():
    corpus = open_corpus("pydocs")
    names = [document.name for document in (*corpus.train, *corpus.held_out)]
    assert len(names) == len(set(names))
    texts = {document.name: document.text for document in (*corpus.train, *corpus.held_out)}
    assert texts["topics/while"].startswith('The "while" statement')
    decoder = texts["modules/json.decoder"]
    assert decoder.startswith("json.decoder\n============\n\nImplementation of JSONDecoder\n\nclass JSONDecodeError(")
    assert "def JSONDecoder.decode(self, s, _w=WHITESPACE.match)\n\n    Return the Python representation" in decoder
    assert not any("test" in name.split(".")[1:] or "site-packages" in name for name in names)
    receipt = corpus.receipt()
    assert receipt["bytes"] > 2_000_000
    assert 0.03 < receipt["held_out_bytes"] / receipt["bytes"] < 0.25
    assert receipt["python"] == ".".join(map(str, sys.version_info[:3]))
    assert open_corpus("pydocs").receipt() == receipt


def test_pydocs_without_the_topics(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    few = list(islice(python_library._sources(), 30))
    monkeypatch.setattr(python_library, "_sources", lambda: few)
    corpus = open_corpus("pydocs")
    assert all(document.name.startswith("modules/") for document in (*corpus.train, *corpus.held_out))


def test_stdlib():
    corpus = open_corpus("stdlib")
    texts = {document.name: document.text for document in (*corpus.train, *corpus.held_out)}
    assert texts["json/decoder.py"] == Path(json.decoder.__file__).read_text(encoding="utf-8")
    assert not any({"test", "tests", "site-packages"} & set(name.split("/")) for name in texts)
    assert open_corpus("stdlib").receipt() == corpus.receipt()


def test_no_library_sources(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(UserError, match="holds no readable documents"):
        open_corpus("stdlib")


def test_one_file_is_cut_on_a_line(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes(b"\xef\xbb\xbf" + LINES.encode())
    corpus = open_corpus(path)
    assert (corpus.name, corpus.source) == ("lines.txt", str(path))
    (head,), (tail,) = corpus.train, corpus.held_out
    assert head.text + tail.text == LINES
    assert head.text.endswith("line 89\n")
    receipt = corpus.receipt()
    assert receipt["bytes"] == receipt["characters"] == len(LINES)
    assert receipt["held_out_bytes"] == len(tail.text)


def test_line_ends_are_kept(tmp_path):
    (tmp_path / "a.md").write_bytes(b"one\r\ntwo\rthree\n" * 9)
    corpus = open_corpus(tmp_path / "a.md")
    (head,), (tail,) = corpus.train, corpus.held_out
    assert (head.text + tail.text).encode() == b"one\r\ntwo\rthree\n" * 9


@given(st.dictionaries(st.text(min_size=1, max_size=9), st.text(min_size=1, max_size=30), min_size=1, max_size=40))
def test_split_loses_nothing_and_goes_by_name(texts):
    documents = [Document(name, text) for name, text in texts.items()]
    train, held_out = split(lambda: documents)
    joined = dict.fromkeys(texts, "")
    for document in (*train, *held_out):
        assert document.text
        joined[document.name] += document.text
    assert joined == texts
    late = {name for name in texts if hashlib.sha256(name.encode()).digest()[0] >= 231}
    sure = {name for name in texts if hashlib.sha256(name.encode()).digest()[0] < 230}
    if late and sure:
        assert late <= {document.name for document in held_out}
        assert sure <= {document.name for document in train}


def test_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.txt").write_text("hidden")
    (tmp_path / ".x.txt").write_text("hidden")
    (tmp_path / "picture.png").write_bytes(b"\0")
    (tmp_path / "empty.py").write_text(" \n")
    (tmp_path / "b.TXT").write_text("b\n")
    (tmp_path / "sub" / "a.py").write_text("a = 1\n")
    (tmp_path / "c.jsonl").write_text('{"text": "c\\u2028one"}\n\n{"text": ""}\n{"text": "c two", "more": 1}\r\n')
    table = pyarrow.table({"id": [1, 2, 3], "text": ["row one", None, "row three"]})
    parquet.write_table(table, tmp_path / "d.parquet")
    corpus = open_corpus(str(tmp_path))
    names = list(dict.fromkeys(document.name for document in (*corpus.train, *corpus.held_out)))
    assert sorted(names) == ["b.TXT", "c.jsonl:1", "c.jsonl:4", "d.parquet:0", "d.parquet:2", "sub/a.py"]
    assert corpus.receipt()["skipped"] == {"hidden": 2, "of another kind": 1, "empty": 3}
    assert open_corpus(tmp_path).receipt() == corpus.receipt()


CASES = {
    "absent.txt": (None, "absent.txt does not exist; check the path, or name a built-in corpus"),
    "empty.txt": (b"", "empty.txt is empty"),
    "blank.txt": (b" \n\t\n", "blank.txt is empty"),
    "short.txt": (b"x", "holds too little text to split"),
    "binary.txt": (b"abc\0def", r"binary.txt is binary \(byte 3 is NUL\)"),
    "latin.txt": ("caf\u00e9".encode("latin-1"), r"latin.txt is not UTF-8 text \(byte 3 is 0xe9\); convert it: iconv"),
    "cut.txt": ("é".encode()[:1], r"cut.txt is not UTF-8 text \(byte 0 is 0xc3\)"),
    "wide.txt": ("text".encode("utf-16"), "wide.txt is UTF-16 text; convert it: iconv -f UTF-16"),
    "picture.png": (b"\x89PNG", "picture.png has the suffix '.png', which is not known as text"),
    "none": (b"text", "none has the suffix ''"),
    "a.jsonl": (b'{"text": "a"}\n{"text": \n', "line 2 of .*a.jsonl is not valid JSON"),
    "b.jsonl": (b'{"body": "a", "id": 1}\n', r'line 1 of .*b.jsonl has no field "text" \(it has the fields body, id\)'),
    "c.jsonl": (b"3\n", r'line 1 of .*c.jsonl has no field "text" \(it is not an object\)'),
    "d.jsonl": (b'{"text": 3}\n', '"text" in line 1 of .*d.jsonl is not a string but int'),
    "e.jsonl": (b'{"text": "\\ud800"}\n', '"text" in line 1 of .*e.jsonl holds half of a surrogate pair'),
    "f.jsonl": (b"[" * 100_000, "line 1 of .*f.jsonl is not valid JSON"),
    "g.jsonl": (b"\n\n", "g.jsonl is empty"),
    "h.parquet": (b"PAR1 no", "h.parquet is not a readable parquet file"),
    "i.parquet": (b"", "i.parquet is not a readable parquet file"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("given", ["file", "folder"])
def test_bad_files(tmp_path, name, given):
    content, message = CASES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    if given == "folder" and (content is None or not content.strip() or "suffix" in message) and "parquet" not in name:
        message = "holds no readable documents"
    with pytest.raises(UserError, match=message) as caught:
        open_corpus(tmp_path if given == "folder" else tmp_path / name)
    assert "\n" not in str(caught.value)


def test_parquet_without_text(tmp_path):
    parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r'a.parquet has no column "text" \(it has body\)'):
        open_corpus(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": [1]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r'"text" in row 0 of .*b.parquet is not a string but int'):
        open_corpus(tmp_path / "b.parquet")


def test_parquet_without_its_library(tmp_path, monkeypatch):
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r'pip install "bedplate\[data\]"'):
        open_corpus(tmp_path / "a.parquet")


def test_special_files_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "broken.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"pipe.txt is not a regular file"):
        open_corpus(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=r"broken.txt cannot be read \(No such file"):
        open_corpus(tmp_path / "sub")


@pytest.mark.parametrize("name", ["file.txt", "folder"])
def test_forbidden(tmp_path, monkeypatch, name):
    """As root no file is forbidden, so the system's refusal is raised in its place."""
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "folder").mkdir()

    def refuse(path, *rest):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=rf"{name} cannot be read \(Permission denied\)"):
        open_corpus(tmp_path / name)


def test_a_large_corpus_is_read_a_file_at_a_time(tmp_path):
    """Sixteen files of 7 MB: what is held is a few copies of one of them, however often they are read."""
    for number in range(16):
        (tmp_path / f"{number}.txt").write_text(f"{number} and so on, line after line\n" * 250_000)
    tracemalloc.start()
    corpus = open_corpus(tmp_path)
    receipt = corpus.receipt()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert receipt["bytes"] > 110e6 and receipt["documents"] == 16
    assert peak < 40e6
    assert [document.name for document in corpus.train] == [document.name for document in corpus.train]


def test_built_in_text_is_made_once(monkeypatch):
    calls = []
    monkeypatch.setitem(text.BUILT_IN, "pydocs", lambda skipped: calls.append(1) or [(str(n), "x") for n in range(99)])
    corpus = open_corpus("pydocs")
    assert len(list(corpus.train)) + len(list(corpus.held_out)) == corpus.receipt()["documents"] == 99
    assert len(calls) == 1
