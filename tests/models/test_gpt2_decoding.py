"""GPT-2 block by block in one call, as in decoding: the kernel against the modules, and when it must stand aside."""

import copy
from collections.abc import Iterator

import pytest
import torch

from bedplate.models import gpt2 as gpt2_module
from bedplate.models.gpt2 import GPT2, Config
from bedplate.nn.linear import quantize
from bedplate.objectives.next_token import NextToken

FORMS = ["float32", "bf16", "int8", "int4"]


def build(form: str = "float32", *, dim: int = 64, heads: int = 2, tied: bool = True) -> GPT2:
    torch.manual_seed(0)
    config = Config(vocab_size=50, context_length=40, dim=dim, num_layers=2, num_heads=heads, tied=tied)
    model = GPT2(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases and norms too
    if form != "float32":
        quantize(model, form)
    return model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Whether each block that took one token was computed by the kernel."""
    kernel = gpt2_module.kernels().one_token
    plain, seen = kernel.one_token, []

    def watch(*arguments: object) -> object:
        output = plain(*arguments)
        seen.append(output is not None)
        return output

    monkeypatch.setattr(kernel, "one_token", watch)
    yield seen


@torch.no_grad()
def decode(model: GPT2, lengths: list[int], *, steps: int = 3, kernel: bool = True) -> torch.Tensor:
    """Logits of sequences of these lengths, token by token."""
    generator = torch.Generator().manual_seed(1)
    state = model.new_state(len(lengths))
    for row, length in enumerate(lengths):
        if length:
            model.features(
                torch.randint(50, (1, length), generator=generator), state=[each.view([row]) for each in state]
            )
    found = []
    for _ in range(steps):
        ids = torch.randint(50, (len(lengths), 1), generator=generator)
        if kernel:
            found.append(model(ids, state=state))
        else:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(gpt2_module, "kernels", lambda: None)
                found.append(model(ids, state=state))
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dim", "heads"), [(64, 2), (32, 1), (96, 2), (160, 2)])
def test_the_kernel_equals_the_modules(form: str, dim: int, heads: int, calls: list[bool]) -> None:
    model = build(form, dim=dim, heads=heads)
    lengths = [0, 3, 17, 36]
    torch.testing.assert_close(decode(model, lengths), decode(model, lengths, kernel=False), rtol=1e-4, atol=1e-4)
    assert len(calls) == 6 and all(calls)


@pytest.mark.parametrize("form", FORMS)
def test_neighbors_change_no_bit(form: str) -> None:
    model = build(form)
    together = decode(model, [5, 5, 5, 5, 5])
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(50, (1, 5), generator=generator) for _ in range(5)]
    new = [torch.randint(50, (5, 1), generator=generator) for _ in range(3)]
    for row in range(5):
        state = model.new_state(1)
        with torch.no_grad():
            model.features(prompts[row], state=state)
            alone = torch.cat([model(ids[row : row + 1], state=state) for ids in new], dim=1)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("dim", [24, 40])
def test_other_sizes_are_left_to_the_modules(dim: int, calls: list[bool]) -> None:
    decode(build(dim=dim), [2, 4])
    assert calls and not any(calls)


def test_a_full_cache_is_refused_as_ever() -> None:
    model = build()
    with pytest.raises(ValueError, match="context length of 40"):
        decode(model, [40])


def test_watched_modules_are_called(calls: list[bool]) -> None:
    model = build()
    seen: list[int] = []
    model.blocks[1].mlp.up.register_forward_hook(lambda *_: seen.append(1))
    decode(model, [0], steps=2)
    assert calls == [True, False, True, False] and len(seen) == 2


def test_changed_weights_and_modules_are_seen(calls: list[bool]) -> None:
    model = build()
    first = decode(model, [4])
    with torch.no_grad():
        model.blocks[0].mlp.up.weight.mul_(3)
        model.blocks[1].attention.out = copy.deepcopy(model.blocks[1].attention.out)
        model.blocks[1].attention.out.bias.add_(1)
    changed = decode(model, [4])
    assert (changed - first).abs().max() > 0.01 and all(calls)
    torch.testing.assert_close(changed, decode(model, [4], kernel=False), rtol=1e-4, atol=1e-4)
    quantize(model, "int8")
    torch.testing.assert_close(decode(model, [4]), decode(model, [4], kernel=False), rtol=1e-4, atol=1e-4)
    other = build()
    model = build()
    decode(model, [4])
    model.load_state_dict({name: 2 * value for name, value in other.state_dict().items()})
    torch.testing.assert_close(decode(model, [4]), decode(model, [4], kernel=False), rtol=1e-4, atol=1e-4)


def test_a_model_that_decoded_is_what_it_was(calls: list[bool]) -> None:
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    decode(model, [4])
    duplicate = copy.deepcopy(model)
    assert all(torch.equal(value, before[name]) for name, value in duplicate.state_dict().items())
    duplicate.train()(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    assert all(parameter.grad is not None for parameter in duplicate.parameters())
    assert decode(model.double(), [4]).dtype == torch.float64 and len(calls) == 6


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("form", FORMS[1:])
def test_quantized_models_have_a_likelihood(form: str, tied: bool) -> None:
    plain, model = build(tied=tied), build(form, tied=tied)
    ids = torch.randint(50, (2, 30), generator=torch.Generator().manual_seed(0))
    batch = {"ids": ids[:, :-1], "targets": ids[:, 1:]}
    with torch.no_grad():
        expected, found = (NextToken().loss(each, batch, None, 0).total for each in (plain, model))
    assert found != expected
    torch.testing.assert_close(found, expected, rtol=0.05 if form == "int4" else 0.005, atol=0)


def test_dropout_stays_where_a_model_is_in_training(calls: list[bool]) -> None:
    model = build().train()
    decode(model, [4])
    assert not any(calls)


def test_a_changed_activation_and_precision_are_seen() -> None:
    model = build("int4")
    decode(model, [4])
    for block in model.blocks:
        block.mlp.activation = torch.tanh
    torch.testing.assert_close(decode(model, [4]), decode(model, [4], kernel=False), rtol=1e-4, atol=1e-4)
    model = build("int4").float()  # scales too: then the kernels cannot read them
    torch.testing.assert_close(decode(model, [4]), decode(model, [4], kernel=False), rtol=1e-4, atol=1e-4)


def test_default_types_change_nothing() -> None:
    model = build()
    expected = decode(model, [4, 9])
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(decode(model, [4, 9]), expected)
    finally:
        torch.set_default_dtype(torch.float32)
