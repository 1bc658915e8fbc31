"""Every architecture writes with weights in fewer bits what the same weights give without cache or kernels."""

import pytest
import torch

from bedplate.generate.engine import Engine, Request
from bedplate.generate.prompt import reads_a_source
from bedplate.generate.sample import Sampling
from bedplate.generate.text import IdsOnly
from bedplate.models import MODEL_TYPES
from bedplate.nn.linear import quantize
from bedplate.verify.target import SMALL, find_target

WRITERS = [name for name in MODEL_TYPES if hasattr(find_target(name)[0], "new_state")]
PROMPT = [3, 4, 5, 6]


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("name", WRITERS)
def test_likeliest_tokens(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SMALL, "dim", 96)  # groups of 32 numbers share a scale
    torch.manual_seed(0)
    model, _ = find_target(name)
    model = model.eval()
    quantize(model, kind)
    engine = Engine(model, IdsOnly(199), slots=1)
    engine.submit(Request(prompt=PROMPT, max_new_tokens=5, sampling=Sampling(temperature=0)))
    found = None
    while engine.busy:
        found = next((update.generation for update in engine.step() if update.generation), found)
    assert found is not None and len(found.ids) == 5
    start = getattr(model.config, "start_id", 0)
    written = [start, *found.ids] if reads_a_source(model) else [*PROMPT, *found.ids]
    with torch.inference_mode():
        ids = torch.tensor([written])
        logits = model(torch.tensor([PROMPT]), ids) if reads_a_source(model) else model(ids)
    expected = logits[0, -6:-1].log_softmax(-1)
    scores = expected[torch.arange(5), torch.tensor(found.ids)]
    torch.testing.assert_close(scores, torch.tensor(found.logprobs), rtol=0, atol=2e-3)
    assert bool((expected.max(dim=-1).values - scores < 4e-3).all())
