"""Texts on which tokenizers differ, fixed and drawn."""

import os
from pathlib import Path

from hypothesis import strategies as st

SHARED = Path(os.environ.get("BEDPLATE_SHARED_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
VOCABULARIES = SHARED / "tokenizers"

HARD = [
    "",
    " ",
    "The house is wonderful.",
    "  leading,   inner \n\n\n and trailing   ",
    "tabs\t\tand\u00a0no-break\u3000wide\u2003em\u200bzero\u00adsoft\ufeffmark",
    "line\r\nends\r\n\r\nof\rall\x0bkinds\x0c\x85\u2028\u2029.",
    "nul\0bytes\0\0 and \x1c\x1d\x1e\x1f separators \x7f\x9f",
    "naïve café Ångström e\u0301 \u0301 İstanbul straße ŒUVRE ǆ Ελληνικά ΣΑΣ русский Ёж",
    "ﬁ ½ ﾊﾟ Ⅷ ² ① ａｂｃ ‗ ´ ¨ … ™ ㎏ Å",
    "日本語のテキスト、한국어 العربية עִבְרִית हिन्दी ไทยคำ 㐀𠀀豈",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪 🏴\U000e0067\U000e0062\U000e007f ❤️",
    "we've they're don't you'll WE'VE ’s -- a_b C++ #1 $5.00 <b>x</b> `~^|=+ «»“”¿¡",
    "x" * 100 + " " + "y" * 101 + " " + "z" * 3_000,
    "ab " * 2_000 + "!?" * 500,
    "".join(chr(code) for code in range(0x20, 0x250)),
]
SPECIALS = "</s> <s> <unk> <pad> [CLS] [SEP] [MASK] [UNK] <extra_id_0> ▁<extra_id_1> _start_ <|endoftext|> <0x41>"
PIECES = [
    "'ll",
    "'s",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "the",
    " The",
    "23",
    "_",
    "->",
    ".",
    "é",
    "e\u0301",
    "ß",
    "東京",
]
MIXED = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=40).map("".join)
TEXTS = st.text(max_size=60) | MIXED
# What may stand beside a cut: words, marks, white space of all kinds, and characters that combine with what follows or
# precedes them (U+0600 and U+0D4E with the next one, U+0301, U+0E33 and U+FF9F with the one before).
BORDERS = st.text(st.sampled_from("ab1! .(|\n\t"), max_size=16) | st.text(
    st.sampled_from("a.  \n\r\x1c\x85\u00a0\u3000\u0301\u0600\u0d4e\u0e33\uff9f▁é京।"), max_size=16
)
LINES = [
    "The house is wonderful, didn't it? The cat's hat sat on the mats.",
    "naïve café Ångström 東京 東京 ab abc abcd 1234 1999 (a|b) the then there",
    "Das Haus ist wunderbar und die Häuser sind wunderbarer. The houses are wonderful.",
]
TRAINING = ["\n".join(LINES[:2] * 20), "\n".join(LINES[2:] * 20)]
