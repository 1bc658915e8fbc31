"""Llama, Mistral and Qwen2 decode as transformers does: through the cache, greedily and by beams; the engine too."""

from pathlib import Path

import pytest
import torch
from tests.parity.test_llama import CONFIGURATIONS, reference_model
from transformers import PreTrainedModel

from bedplate.generate.beam import Beams, beam_search
from bedplate.generate.engine import Engine, Request
from bedplate.generate.sample import Sampling
from bedplate.generate.text import IdsOnly
from bedplate.models import from_pretrained
from bedplate.verify.reference import as_exact_as_weights

PROMPT = [5, 9, 77, 3, 41]
DECODED = ["grouped heads", "wide heads", "biases", "yarn", "llama3", "mistral", "qwen2 tied"]


@pytest.fixture(params=[CONFIGURATIONS[name] for name in DECODED], ids=DECODED)
def reference(request: pytest.FixtureRequest) -> PreTrainedModel:
    return reference_model(*request.param)


def test_cached_decoding(reference: PreTrainedModel, tmp_path: Path) -> None:
    reference.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path, dtype=torch.float64)
    ids = torch.randint(101, (2, 60))
    with torch.no_grad():
        expected = as_exact_as_weights(reference.double())(ids).logits
        state = ours.new_state(2)
        actual = torch.cat([ours(part, state=state) for part in ids.split([30, 20, *[1] * 10], dim=1)], dim=1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_greedy_and_beam_tokens(reference: PreTrainedModel, tmp_path: Path) -> None:
    reference.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path)
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": [7, 8]}
    prompt = torch.tensor([PROMPT])
    expected = reference.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)[0, 5:].tolist()
    engine = Engine(ours, IdsOnly(101), slots=2)
    engine.submit(Request(prompt=PROMPT, max_new_tokens=12, sampling=Sampling(temperature=0)))
    found = []
    while engine.busy:
        found += [update.token.id for update in engine.step() if update.token]
    assert found[: len(expected)] == expected
    theirs = reference.generate(
        prompt, attention_mask=torch.ones_like(prompt), num_beams=4, num_return_sequences=4, **settings
    )
    (beams,) = beam_search(ours, [PROMPT], max_new_tokens=12, beams=Beams(width=4), end_ids=[7, 8])
    for each, row in zip(beams, theirs[:, 5:].tolist(), strict=True):
        assert each.ids == row[: len(each.ids)] and not any(row[len(each.ids) :])
