"""Token shards of generated documents, for tests of what BERT learns from."""

from pathlib import Path

import numpy as np

from bedplate.data.masking import Marks
from bedplate.data.shards import TokenShards, write_ids
from bedplate.data.tokenize.byte_bpe import ByteBPE

PAD, START, MASK, FIRST = 100, 101, 102, 200  # ids of bytes that stand for marks here; words begin at FIRST
LENGTHS = (40, 7, 1, 0, 95, 2, 33, 61)


def make_shards(folder: Path, *, shard_tokens: int = 64) -> tuple[TokenShards, Marks]:
    """Documents whose tokens count upwards from a place of their own, so that what follows what can be told."""
    tokenizer = ByteBPE.train(["a b a b a b"], vocab_size=258)
    documents = [FIRST + (17 * number + np.arange(length)) % 50 for number, length in enumerate(LENGTHS)]
    stretches = [np.append(document, tokenizer.end_id) for document in documents]
    shards = write_ids(stretches, tokenizer, folder, shard_tokens=shard_tokens)
    continues = np.arange(tokenizer.vocab_size) % 3 == 1
    marks = Marks(start=START, separator=shards.end_id, mask=MASK, pad=PAD, vocab_size=258, continues=continues)
    return shards, marks
