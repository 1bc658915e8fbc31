"""Tokenizers that are a `tokenizer.json`: whatever was published, its settings are read from the file and obeyed."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import Tokenizer as Library

from bedplate.data.tokenize.tokenizer import PIECE, checked, cut
from bedplate.errors import UserError
from bedplate.files import read_json_object, write_json

# Between a visible character and what every tokenizer takes for white space, with which no normalization combines.
WORD_END = re.compile(r"(?<=\S)(?=[ \n\t])")
MARKS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
Content = Mapping[str, Any]


class LibraryTokenizer:
    """A tokenizer of the `tokenizers` library, without its habit of finding special tokens in text.

    `content` is the content of a tokenizer.json, `marks` the roles of its special tokens (eos_token: "</s>").
    """

    family: ClassVar[str]  # for messages
    hugging_face_class: ClassVar[str] = "PreTrainedTokenizerFast"
    end_role: ClassVar[str] = "eos_token"
    border: re.Pattern[str] = WORD_END

    def __init__(self, content: Content, *, marks: Mapping[str, str], source: str = "the vocabulary") -> None:
        self.content, self.marks, self.source = _complete(content, source), dict(marks), source
        if difference := "it has no decoder" if self.content["decoder"] is None else self.difference():
            cause = f"{source} is not {self.family}: {difference}"
            raise UserError(cause, fix="use a tokenizer of a known family (docs/parts/tokenizers.md)")
        added = {token["content"]: token["id"] for token in self.content["added_tokens"]}
        self.ids: dict[str, int] = self.model_ids() | added
        self.tokens = {id: token for token, id in self.ids.items()}
        if len(self.tokens) < len(self.ids):
            raise UserError(f"{source} gives the same id to two tokens", fix="restore the file from its source")
        self.vocab_size = max(self.tokens) + 1
        self.special_ids = sorted(added.values())
        self._special = frozenset(self.special_ids)
        self._encoder = Library.from_str(json.dumps(self.encoding(), ensure_ascii=False))

    @classmethod
    def from_json(cls, path: Path) -> Any:
        """Read a tokenizer.json, with the roles of special tokens from the files beside it."""
        return cls(read_json_object(path), marks=read_marks(path.parent), source=str(path))

    def difference(self) -> str | None:
        """What makes this content differ from the family, if anything."""
        raise NotImplementedError

    def model_ids(self) -> dict[str, int]:
        """Tokens and ids of the model itself."""
        return dict(self.content["model"]["vocab"])

    def encoding(self) -> dict[str, Any]:
        """The content that text is encoded with: no special tokens are found in it or put around it."""
        return {**self.content, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}

    def plain_bytes(self, token: str) -> bytes:
        """The bytes of a token that is not special."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What tokenizer_config.json says besides the class and the special tokens."""
        return {}

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises UserError when it holds a lone surrogate."""
        return list(chain.from_iterable(self.encode_batch(list(self.split_text(checked(text))))))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores."""
        encodings = self._encoder.encode_batch_fast([checked(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def split_text(self, text: str, *, size: int = PIECE) -> Iterator[str]:
        """A long text in pieces of about `size` characters, whose ids, joined, are those of the whole."""
        return cut(text, self.border, size=size)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, as the decoder of the vocabulary joins it."""
        return self._encoder.decoder.decode([self.token(id) for id in ids])

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one id adds to a text."""
        token = self.token(id)
        return token.encode() if id in self._special else self.plain_bytes(token)

    def token(self, id: int) -> str:
        """The token of an id; raises UserError for one that is not in the vocabulary."""
        if id not in self.tokens:
            cause = f"id {id} is not in the vocabulary of {self.vocab_size} tokens"
            raise UserError(cause, fix="use the tokenizer that belongs to the model")
        return self.tokens[id]

    def id_of(self, token: str) -> int:
        """The id of a token; raises UserError for one that the vocabulary lacks."""
        if token not in self.ids:
            raise UserError(f"{self.source} has no token {token!r}", fix="use a tokenizer that has it")
        return self.ids[token]

    @cached_property
    def end_id(self) -> int:
        """The id that ends a text; -1 where the vocabulary has none."""
        return self.ids.get(self.marks.get(self.end_role, ""), -1)

    @cached_property
    def unknown_id(self) -> int:
        """The id of what the vocabulary cannot write; -1 where there is none."""
        return self.ids.get(self.content["model"].get("unk_token") or "", -1)

    def single(self, ids: Sequence[int]) -> list[int]:
        """A text as the model reads it: with the ids that the published template puts around it."""
        return fill_template(self.content["post_processor"], "single", ids)[0]

    def pair(self, first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
        """Two texts as the model reads them together: ids, and for each the segment it belongs to."""
        return fill_template(self.content["post_processor"], "pair", first, second)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all that decides which ids a text has."""
        parts = [self.content[part] for part in ("normalizer", "pre_tokenizer", "added_tokens")]
        model = {key: value for key, value in self.content["model"].items() if value or value == 0}  # None means ""
        text = json.dumps([*parts, model, self.end_id], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, folder: Path | str) -> None:
        """Write a folder that `load_tokenizer` and transformers open, with the same ids."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "tokenizer.json", self.content)
        settings = {"tokenizer_class": self.hugging_face_class, **self.settings(), **self.marks}
        write_json(folder / "tokenizer_config.json", settings | {"clean_up_tokenization_spaces": False})


def fill_template(
    processor: Content | None, kind: str, first: Sequence[int], second: Sequence[int] = ()
) -> tuple[list[int], list[int]]:
    """Ids and segments of one text ("single") or two ("pair") in the template among these steps, if there is one."""
    steps = [] if processor is None else processor.get("processors", [processor])
    template = next((step for step in steps if step["type"] == "TemplateProcessing"), None)
    if template is None:
        return [*first, *second], [0] * len(first) + [1] * len(second)
    ids: list[int] = []
    segments: list[int] = []
    for part in template[kind]:
        ((what, named),) = part.items()
        texts = {"A": first, "B": second}
        added = texts[named["id"]] if what == "Sequence" else template["special_tokens"][named["id"]]["ids"]
        ids += added
        segments += [named["type_id"]] * len(added)
    return ids, segments


def read_marks(folder: Path) -> dict[str, str]:
    """The roles of special tokens, from tokenizer_config.json or the older special_tokens_map.json."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            settings |= read_json_object(folder / name)
    named = {role: settings[role] for role in MARKS if settings.get(role)}
    return {role: token["content"] if isinstance(token, dict) else token for role, token in named.items()}


def added_tokens(ids: Mapping[str, int], tokens: Iterable[str]) -> list[dict[str, Any]]:
    """Entries of `added_tokens` for special tokens, in the order of their ids."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": ids[token], "content": token, **flags} for token in sorted(tokens, key=ids.__getitem__)]


def content_of(library: Library, *, special: Iterable[str], post_processor: Content | None = None) -> dict[str, Any]:
    """The content of a tokenizer.json with these special tokens, which are part of the model's vocabulary."""
    added = added_tokens(library.get_vocab(), special)
    return json.loads(library.to_str()) | {"added_tokens": added, "post_processor": post_processor}


def learn(library: Library, trainer: Callable[..., Any], texts: Iterable[str], special: Sequence[str]) -> Content:
    """The model that `trainer(special_tokens=..., vocab_size=...)` makes of texts, the same in every run.

    The library numbers marked letters (`##a`, `a</w>`) in the order of a hash table, and breaks ties by number; so they
    are found by a first training, and given in order to a second one. The texts are held in memory.
    """
    held = [checked(text) for text in texts]
    library.train_from_iterator(held, trainer(special_tokens=list(special), vocab_size=0))
    letters = sorted(token for token in library.get_vocab() if token not in special)
    library.train_from_iterator(held, trainer(special_tokens=[*special, *letters]))
    return json.loads(library.to_str())["model"]


def piece_bytes(token: str) -> bytes:
    """The bytes of a SentencePiece token, which writes a space as U+2581 and a lone byte as `<0x41>`."""
    if re.fullmatch("<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def _complete(content: Content, source: str) -> dict[str, Any]:
    """The content as the library writes it: old files leave out what has a default, and have other names for some."""
    try:
        whole: dict[str, Any] = json.loads(Library.from_str(json.dumps(content)).to_str())
    except Exception as error:  # the library raises nothing more precise
        cause = f"{source} does not have the layout of the tokenizers library ({error})"
        raise UserError(cause, fix="restore the file from its source") from error
    for token in whole["added_tokens"]:
        if not token["special"]:
            cause = f"{source} finds the added token {token['content']!r} in text"
            raise UserError(cause, fix="use a tokenizer whose added tokens are special")
    return whole
