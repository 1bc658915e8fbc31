"""Fertility: counts that can be done by hand, files that are read, and the command."""

import json
import lzma

import pytest
from tests.conftest import SHARED

from bedplate.cli import main
from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.data.tokenize.word_piece import WordPiece
from bedplate.errors import UserError
from bedplate.evaluate.fertility import compare, read_samples

TREEBANK = """# text = du pain
1-2\tdu\t_
1\tde\tde
2\tle\tle
3\tpain\tpain
3.1\tleft\tout

# sent_id = 2
# text = 早上好。
1\t早上\t_
2\t好\t_
3\t。\t_
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "en.txt").write_text("the cat\n\nthe  bat\n", encoding="utf-8")
    (tmp_path / "mixed.conllu.xz").write_bytes(lzma.compress(TREEBANK.encode()))
    (tmp_path / "mixed.conllu").write_text(TREEBANK, encoding="utf-8")
    (tmp_path / "notes.md").write_text("not a language")
    return tmp_path


def test_files_become_samples(folder):
    english, plain, packed = read_samples(folder)
    assert (english.language, list(english.texts), english.num_words) == ("en", ["the cat", "the  bat"], 4)
    assert plain == packed and (plain.language, list(plain.texts)) == ("mixed", ["du pain", "早上好。"])
    assert (plain.num_words, plain.num_bytes) == (2 + 3, 7 + 12)
    assert read_samples(folder / "en.txt") == [english]


def test_counts(folder):
    bytes_ = ByteBPE.train([], vocab_size=257)
    pieces = WordPiece.train(["the cat the bat"] * 9, vocab_size=20)
    rows = compare({"bytes": bytes_, "pieces": pieces}, read_samples(folder))
    assert [(row["language"], row["tokenizer"]) for row in rows[:2]] == [("en", "bytes"), ("en", "pieces")]
    english, mixed = rows[0], rows[2]
    assert (english["tokens"], english["bytes"], english["words"]) == (15, 15, 4)
    assert (english["tokens a word"], english["tokens a byte"], english["unknown"]) == (15 / 4, 1, 0)
    assert (mixed["tokens"], mixed["tokens a word"]) == (19, 19 / 5)
    assert rows[1]["unknown"] == 0 and rows[3]["unknown"] == 1  # `早上好。` is three characters and a mark, each a word
    assert rows[3]["tokens"] == 6


def test_the_command(folder, tmp_path, capsys):
    one = tmp_path / "one"
    ByteBPE.train([], vocab_size=257).save(one)
    path = tmp_path / "table.json"
    assert main(["fertility", str(one), "gpt2-tiny", "--data", str(folder / "en.txt"), "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [row["tokenizer"] for row in rows] == [str(one), "gpt2-tiny"]
    assert rows[0]["tokens a word"] == 3.75 > rows[1]["tokens a word"]
    assert "3.75" in (printed := capsys.readouterr().out) and "one " in printed and str(tmp_path) not in printed


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfe", "is not UTF-8 text"),
        ("a.conllu.xz", b"plain", "is not UTF-8 text"),
        ("a.txt", b" \n", "holds no text"),
        ("a.md", b"text", "holds no text; give one file for each language"),
    ],
)
def test_mistakes(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_samples(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_samples(tmp_path / "nowhere")


@pytest.mark.shared
def test_ten_languages_of_one_text(tmp_path):
    """English, which GPT-2's vocabulary was made for, takes the fewest tokens; every language the same sentences."""
    folder = SHARED / "text_pud"
    main(["fertility", str(SHARED / "tokenizers" / "gpt2"), "--data", str(folder), "--json", str(tmp_path / "f.json")])
    rows = {row["language"]: row for row in json.loads((tmp_path / "f.json").read_text())}
    assert len(rows) == 10 and all(row["unknown"] == 0 for row in rows.values())
    assert min(rows, key=lambda name: rows[name]["tokens a word"]) == "en_pud"
    assert min(rows, key=lambda name: rows[name]["tokens"]) == "en_pud"
    assert rows["en_pud"]["tokens a word"] < 1.2 < 3 < rows["hi_pud"]["tokens a word"]
