"""Which tokens of a row are hidden, and what stands in their place: BERT's 80/10/10 (appendix A.1, figure in A.2)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from bedplate.errors import UserError
from bedplate.nn.fast.linear_cross_entropy import IGNORE

Ids = Int64[np.ndarray, " length"]


@dataclass(frozen=True, kw_only=True)
class Marks:
    """The special ids that BERT's rows are made with, and what of the vocabulary masking must know."""

    start: int  # [CLS]
    separator: int  # [SEP]
    mask: int  # [MASK]
    pad: int  # [PAD]
    vocab_size: int
    continues: Bool[np.ndarray, " vocab"] | None = None  # ids that go on with a word, as `##ing`; none: each is a word

    @classmethod
    def of(cls, tokenizer: Any) -> "Marks":
        """Those of a WordPiece tokenizer."""
        continues = np.zeros(tokenizer.vocab_size, dtype=bool)
        for id, token in tokenizer.tokens.items():
            continues[id] = token.startswith("##")
        return cls(
            start=tokenizer.start_id, separator=tokenizer.end_id, mask=tokenizer.mask_id, pad=tokenizer.pad_id,
            vocab_size=tokenizer.vocab_size, continues=continues,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How much is hidden and how. The released code's numbers."""

    share: float = 0.15
    most: int = 20  # tokens hidden in a row at most: enough for 128 tokens; 512 need 77
    masked: float = 0.8  # of the hidden ones: [MASK] stands there
    kept: float = 0.1  # the token itself stands there; what remains is any token of the vocabulary, special ones too
    whole_words: bool = False  # all pieces of a word are hidden or none (released in 2019)

    def __post_init__(self) -> None:
        for name in ("share", "masked", "kept"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"data.masking {name} is {getattr(self, name)}", fix="give a share from 0 to 1")
        if self.masked + self.kept > 1:
            raise UserError(f"masked {self.masked} and kept {self.kept} are more than all", fix="lower one of them")
        if self.most < 1:
            raise UserError(f"most is {self.most}", fix="give a number from 1 up")

    def hide(self, ids: Ids, marks: Marks, chance: np.random.Generator) -> tuple[Ids, Ids]:
        """The row as the model sees it, and its targets: the true ids where one is hidden, else `IGNORE`.

        [CLS] and [SEP] are never hidden. The budget is a share of the row's own tokens, those two marks included, as in
        the released code.
        """
        budget = min(self.most, max(1, round(self.share * len(ids))))
        hidden = self._choose(ids, budget, marks, chance)
        draws = chance.random(len(hidden))
        anything = chance.integers(marks.vocab_size, size=len(hidden))
        seen, targets = ids.copy(), np.full_like(ids, IGNORE)
        targets[hidden] = ids[hidden]
        seen[hidden] = np.where(
            draws < self.masked, marks.mask, np.where(draws < self.masked + self.kept, ids[hidden], anything)
        )
        return seen, targets

    def _choose(self, ids: Ids, budget: int, marks: Marks, chance: np.random.Generator) -> Int64[np.ndarray, " hidden"]:
        places = np.flatnonzero((ids != marks.start) & (ids != marks.separator))
        if not self.whole_words or marks.continues is None:
            return np.sort(chance.permutation(places)[:budget])
        begins = ~marks.continues[ids[places]] | (np.diff(places, prepend=0) > 1)  # a mark ends a word, too
        words = np.split(places, np.flatnonzero(begins))
        chosen: list[int] = []
        for number in chance.permutation(len(words)):
            if len(chosen) + len(words[number]) <= budget:  # a word that does not fit is passed over
                chosen += words[number].tolist()
        return np.sort(np.array(chosen, dtype=np.int64))
