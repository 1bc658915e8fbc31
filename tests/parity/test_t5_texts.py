"""T5, T5 1.1 and mT5 against transformers: files of all ages both ways, greedy and beam texts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.test_t5 import END, reference, reference_model
from transformers import AutoModelForSeq2SeqLM

from bedplate.generate.beam import Beams, beam_search
from bedplate.generate.engine import Engine, Request
from bedplate.generate.sample import Sampling
from bedplate.generate.text import IdsOnly
from bedplate.models import from_pretrained, save_pretrained

__all__ = ["reference"]  # the fixture
SOURCES = [[5, 9, 33, 20, 7, 8, END], [12, END], [40, 41, 42, 43, END]]


def test_files_keep_every_bit_both_ways(reference: Any, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    save_pretrained(from_pretrained(tmp_path), tmp_path / "ours", end_id=END)
    again, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(again) is type(reference) and not any(report.values()), report
    for name, value in reference.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = reference(input_ids=ids, decoder_input_ids=ids).logits
        assert torch.equal(again(input_ids=ids, decoder_input_ids=ids).logits, expected)


def test_greedy_and_beam_texts_are_theirs(reference: Any, tmp_path: Path) -> None:
    ours = from_pretrained(tmp_path)
    engine, likeliest = Engine(ours, IdsOnly(61, END), slots=2), Sampling(temperature=0)
    numbers = [engine.submit(Request(prompt=ids, max_new_tokens=12, sampling=likeliest)) for ids in SOURCES]
    found = {}
    while engine.busy:
        found |= {update.number: update.generation for update in engine.step() if update.generation}
    beams = beam_search(ours, SOURCES, max_new_tokens=12, beams=Beams(), end_ids=[END])
    for number, ids, (best, *_) in zip(numbers, SOURCES, beams, strict=True):
        for width, mine in ((1, found[number].ids), (4, best.ids)):
            options = {"max_new_tokens": 12, "num_beams": width, "use_cache": False}  # its cache wants equal depths
            theirs = reference.generate(torch.tensor([ids]), **options)[0, 1:].tolist()
            assert mine == theirs, width


def rewrite(folder: Path, **changes: Any) -> None:
    """config.json as transformers 4 wrote it: without what version 5 adds."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    del values["scale_decoder_outputs"]
    path.write_text(json.dumps(values | {"n_positions": 512, "output_past": True} | changes))


@pytest.mark.parametrize("gated", [False, True])
def test_folders_of_transformers_4_open(tmp_path: Path, gated: bool) -> None:
    """What the hub holds: tensors stored twice for the first T5, and "tie_word_embeddings": false for T5 1.1."""
    changes = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if gated else {}
    reference = reference_model(changes)
    reference.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", *([] if gated else ["lm_head.weight"])):
        tensors[name] = tensors["shared.weight"].clone()
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.zeros(32, 3)
    save_file(tensors, tmp_path / "model.safetensors")
    rewrite(tmp_path, tie_word_embeddings=not gated)
    ours = from_pretrained(tmp_path)
    assert ours.config.tied is not gated and ours.config.scale_output is not gated
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = reference(input_ids=ids, decoder_input_ids=ids).logits
        torch.testing.assert_close(ours(ids, ids), expected, rtol=1e-5, atol=1e-5)
