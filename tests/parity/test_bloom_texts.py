"""BLOOM's texts against transformers: greedy and beam search, alone and beside others, and packed documents."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.test_bloom import reference_model

from bedplate.generate.beam import Beams, beam_search
from bedplate.generate.engine import Engine, Request
from bedplate.generate.sample import Sampling
from bedplate.generate.text import IdsOnly
from bedplate.models import from_pretrained

PROMPTS = [[5, 9, 33, 20, 7, 8], [12], [40, 41, 42, 43]]
END = 2


@pytest.mark.parametrize(
    "changes", [{}, {"n_head": 3}, {"apply_residual_connection_post_layernorm": True, "tie_word_embeddings": False}]
)
def test_greedy_and_beam_texts_are_theirs(changes: dict[str, Any], tmp_path: Path) -> None:
    reference = reference_model(**changes)
    reference.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path)
    engine, likeliest = Engine(ours, IdsOnly(101, END), slots=2), Sampling(temperature=0)
    numbers = [engine.submit(Request(prompt=ids, max_new_tokens=12, sampling=likeliest)) for ids in PROMPTS]
    found = {}
    while engine.busy:
        found |= {update.number: update.generation for update in engine.step() if update.generation}
    beams = beam_search(ours, PROMPTS, max_new_tokens=12, beams=Beams(), end_ids=[END])
    for number, ids, (best, *_) in zip(numbers, PROMPTS, beams, strict=True):
        for width, mine in ((1, found[number].ids), (4, best.ids)):
            prompt = torch.tensor([ids])
            options = {"max_new_tokens": 12, "num_beams": width, "do_sample": False, "pad_token_id": 3}
            theirs = reference.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[0, len(ids) :]
            assert mine == theirs.tolist(), width


def test_packed_documents_give_what_padded_ones_give_there(tmp_path: Path) -> None:
    reference = reference_model(n_head=6)
    reference.save_pretrained(tmp_path)
    ours, texts = from_pretrained(tmp_path), [torch.randint(101, (length,)) for length in (9, 1, 5)]
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor([9, 1, 5]))[None]
    padded = torch.stack([torch.nn.functional.pad(text, (9 - len(text), 0)) for text in texts])
    mask = torch.stack([torch.arange(9) >= 9 - len(text) for text in texts]).long()
    with torch.no_grad():
        packed = ours(torch.cat(texts)[None], documents=documents)[0]
        theirs = reference(padded, attention_mask=mask).logits
    expected = torch.cat([row[9 - len(text) :] for row, text in zip(theirs, texts, strict=True)])
    torch.testing.assert_close(packed, expected, rtol=1e-4, atol=1e-4)
