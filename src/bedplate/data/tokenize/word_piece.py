"""WordPiece: BERT's tokenizer (Devlin et al. 2018, section 3; Wu et al. 2016, section 4.1).

Text is cleaned, for uncased vocabularies lower-cased and freed of accents, and cut at white space and around
punctuation and Chinese characters. Each word is then taken apart from the left, always by the longest piece of the
vocabulary; `##` begins pieces within a word. A word that cannot be written, or has over 100 characters, is `[UNK]` as a
whole.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from bedplate.data.tokenize.library import LibraryTokenizer, content_of, learn
from bedplate.data.tokenize.tokenizer import check_learned
from bedplate.errors import UserError
from bedplate.files import read_json_object, write_text

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MARKS = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))


class WordPiece(LibraryTokenizer):
    """A WordPiece tokenizer. `[SEP]`, which BERT puts behind each text, is its end mark."""

    family = "a WordPiece vocabulary as BERT's"
    hugging_face_class = "BertTokenizer"
    end_role = "sep_token"

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int, lower_case: bool = True) -> "WordPiece":
        """Learn pieces from texts; `vocab_size` counts the five special tokens too.

        The library chooses what to join by how often two pieces meet, where Wu et al. choose by likelihood; text is
        encoded by the longest match all the same.
        """
        choices = {"do_lower_case": lower_case}
        trainer = partial(_trainer, vocab_size=vocab_size)
        learned = learn(_library(models.WordPiece(), choices), trainer, texts, SPECIAL)["vocab"]
        check_learned(len(learned), vocab_size)
        library = _library(models.WordPiece(vocab=learned, unk_token="[UNK]"), choices)
        return cls(_content(library), marks=MARKS, source="the trained vocabulary")

    @classmethod
    def from_folder(cls, folder: Path | str) -> "WordPiece":
        """Read tokenizer.json, or vocab.txt with `do_lower_case` of tokenizer_config.json (true where it is absent)."""
        folder = Path(folder)
        if (folder / "tokenizer.json").exists():
            return cls.from_json(folder / "tokenizer.json")
        path = folder / "tokenizer_config.json"
        return cls.from_vocabulary(folder / "vocab.txt", **_choices(read_json_object(path) if path.exists() else {}))

    @classmethod
    def from_json(cls, path: Path) -> "WordPiece":
        """Read a tokenizer.json; a mark that no file names has BERT's name."""
        read = super().from_json(path)
        read.marks = {role: token for role, token in MARKS.items() if token in read.ids} | read.marks
        return read

    @classmethod
    def from_vocabulary(cls, path: Path | str, **choices: Any) -> "WordPiece":
        """Read a file of one token a line. Choices: do_lower_case (true), strip_accents, tokenize_chinese_chars."""
        try:
            with Path(path).open(encoding="utf-8") as file:
                ids = {line.rstrip("\n"): id for id, line in enumerate(file)}
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not a readable list of tokens ({error})", fix="restore the file") from error
        if missing := [token for token in SPECIAL if token not in ids]:
            raise UserError(f"{path} has no token {missing[0]}", fix="give the vocabulary of a BERT")
        library = _library(models.WordPiece(vocab=ids, unk_token="[UNK]"), choices)
        return cls(_content(library), marks=MARKS, source=str(path))

    def difference(self) -> str | None:
        """What makes its ids differ from those of BERT's tokenizer, if anything."""
        model, cleaning = self.content["model"], self.content["normalizer"] or {}
        if model["type"] != "WordPiece" or model["continuing_subword_prefix"] != "##":
            return "it writes pieces in another way"
        if model["max_input_chars_per_word"] != 100:
            return f"words have up to {model['max_input_chars_per_word']} characters, not 100"
        if self.content["pre_tokenizer"] != {"type": "BertPreTokenizer"}:
            return "it splits text into words in another way"
        if cleaning.get("type") != "BertNormalizer" or not cleaning["clean_text"]:
            return "it cleans text in another way"
        return None

    @property
    def pad_id(self) -> int:
        """`[PAD]`, which fills up rows."""
        return self.id_of(self.marks["pad_token"])

    @property
    def start_id(self) -> int:
        """`[CLS]`, which begins every text and stands for the whole of it."""
        return self.id_of(self.marks["cls_token"])

    @property
    def mask_id(self) -> int:
        """`[MASK]`, which stands where a token is to be guessed."""
        return self.id_of(self.marks["mask_token"])

    def plain_bytes(self, token: str) -> bytes:
        """A piece, with a space before it where it begins a word."""
        return token[2:].encode() if token.startswith("##") else f" {token}".encode()

    def settings(self) -> dict[str, Any]:
        """How text is cleaned, as transformers calls it."""
        cleaning = self.content["normalizer"]
        names = {"do_lower_case": "lowercase", "strip_accents": "strip_accents"}
        names |= {"tokenize_chinese_chars": "handle_chinese_chars"}
        return {theirs: cleaning[name] for theirs, name in names.items()}

    def save(self, folder: Path | str) -> None:
        """Write a folder that `load_tokenizer` and transformers open, with the same ids; also vocab.txt."""
        super().save(folder)
        lines = [self.tokens.get(id, f"[unused{id}]") for id in range(self.vocab_size)]
        write_text(Path(folder) / "vocab.txt", "".join(f"{line}\n" for line in lines))


def _trainer(*, vocab_size: int, special_tokens: list[str]) -> trainers.WordPieceTrainer:
    return trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special_tokens, show_progress=False)


def _choices(settings: dict[str, Any]) -> dict[str, Any]:
    names = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
    return {name: settings[name] for name in names if name in settings}


def _library(model: models.WordPiece, choices: dict[str, Any]) -> Library:
    library = Library(model)
    library.normalizer = normalizers.BertNormalizer(
        lowercase=choices.get("do_lower_case", True),
        strip_accents=choices.get("strip_accents"),  # where nothing is said, as lower-casing
        handle_chinese_chars=choices.get("tokenize_chinese_chars", True),
    )
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(prefix="##")
    return library


def _content(library: Library) -> dict[str, Any]:
    """With BERT's templates (section 3, figure 2): [CLS] a [SEP], and [CLS] a [SEP] b [SEP] with segments 0 and 1."""

    def special(token: str, segment: int = 0) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": segment}}

    first, second = ({"Sequence": {"id": name, "type_id": segment}} for segment, name in enumerate("AB"))
    named = {token: {"id": token, "ids": [library.token_to_id(token)], "tokens": [token]} for token in SPECIAL[2:4]}
    single = [special("[CLS]"), first, special("[SEP]")]
    template = {"single": single, "pair": [*single, second, special("[SEP]", 1)], "special_tokens": named}
    return content_of(library, special=SPECIAL, post_processor={"type": "TemplateProcessing", **template})
