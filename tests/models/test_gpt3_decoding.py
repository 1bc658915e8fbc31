"""GPT-3 token by token through the kernels: what bands leave out is not read, and each sequence stands alone."""

import pytest
import torch

from bedplate.models import gpt2 as gpt2_module
from bedplate.models.gpt3 import GPT3, Config, GPTNeo, NeoConfig
from bedplate.nn.linear import quantize

SIZES = {"vocab_size": 50, "context_length": 60, "dim": 64, "num_layers": 3, "num_heads": 2, "window": 6}
LENGTHS = [1, 5, 23, 50]  # shorter than the band, and longer


def build(kind: str, form: str) -> GPT3:
    torch.manual_seed(0)
    model = GPT3(Config(**SIZES)) if kind == "GPT-3" else GPTNeo(NeoConfig(**SIZES))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    if form != "float32":
        quantize(model, form)
    return model.eval()


@pytest.mark.parametrize("form", ["float32", "int4"])
@pytest.mark.parametrize("kind", ["GPT-3", "GPT-Neo"])
@torch.no_grad()
def test_token_by_token_equals_the_whole_text(kind: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = build(kind, form), torch.randint(50, (4, 60), generator=torch.Generator().manual_seed(0))
    kernel, seen = gpt2_module.kernels().one_token, []
    whole = kernel.one_token
    monkeypatch.setattr(kernel, "one_token", lambda *block: (found := whole(*block), seen.append(found is None))[0])
    state = model.new_state(4)
    for row, length in enumerate(LENGTHS):
        model.features(ids[row : row + 1, :length], state=[layer.view([row]) for layer in state])
    new = [torch.stack([ids[row, length + step] for row, length in enumerate(LENGTHS)])[:, None] for step in range(9)]
    found = torch.cat([model(each, state=state) for each in new], dim=1)
    assert len(seen) == 3 * (9 + 1)  # the prompt of one token too
    assert not any(seen) or kind == "GPT-Neo"  # without biases attention alone has a kernel
    for row, length in enumerate(LENGTHS):
        expected = model(ids[row : row + 1, : length + 9])[:, length:]
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["GPT-3", "GPT-Neo"])
@torch.no_grad()
def test_neighbors_change_no_bit(kind: str) -> None:
    model, ids = build(kind, "float32"), torch.randint(50, (4, 60), generator=torch.Generator().manual_seed(0))
    found = []
    for rows in ([0, 1, 2, 3], [0], [1], [2], [3]):
        state = model.new_state(len(rows))
        for place, row in enumerate(rows):
            own = [layer.view([place]) for layer in state]
            model.features(ids[row : row + 1, : LENGTHS[row]], state=own)
        new = [torch.stack([ids[row, LENGTHS[row] + step] for row in rows])[:, None] for step in range(5)]
        found.append(torch.cat([model(each, state=state) for each in new], dim=1))
    assert torch.equal(found[0], torch.cat(found[1:]))
