"""The Transformer against transformers' MarianMT: files both ways, greedy and beam texts."""

from pathlib import Path

import torch
from tests.parity.test_transformer import END, PAD, padded, reference
from transformers import MarianMTModel

from bedplate.generate.beam import Beams, beam_search
from bedplate.generate.engine import Engine, Request
from bedplate.generate.sample import Sampling
from bedplate.generate.text import IdsOnly
from bedplate.models import from_pretrained, save_pretrained

__all__ = ["reference"]  # the fixture


def test_files_keep_every_bit_both_ways(reference: MarianMTModel, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    save_pretrained(from_pretrained(tmp_path), tmp_path / "ours", end_id=END)
    again, report = MarianMTModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    for name, value in reference.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_greedy_and_beam_texts_are_theirs(reference: MarianMTModel, tmp_path: Path) -> None:
    ours = from_pretrained(tmp_path)
    source, mask = padded([8, 3, 5])
    sources = [row[kept].tolist() for row, kept in zip(source, mask, strict=True)]
    options = {"attention_mask": mask.long(), "max_new_tokens": 12}
    greedy = reference.generate(source, num_beams=1, **options)[:, 1:].tolist()
    engine = Engine(ours, IdsOnly(PAD, END), slots=2)
    numbers = [
        engine.submit(Request(prompt=ids, max_new_tokens=12, sampling=Sampling(temperature=0))) for ids in sources
    ]
    found = {}
    while engine.busy:
        found |= {update.number: update.generation for update in engine.step() if update.generation}
    for number, expected in zip(numbers, greedy, strict=True):
        assert found[number].ids == [each for each in expected if each != PAD]
    for penalty in (1.0, 0.6):
        beams = reference.generate(source, num_beams=4, length_penalty=penalty, **options)[:, 1:].tolist()
        searched = beam_search(
            ours, sources, max_new_tokens=12, beams=Beams(length_penalty=penalty), end_ids=[END], vocab_size=PAD
        )
        assert [best.ids for best, *_ in searched] == [[each for each in ids if each != PAD] for ids in beams]
