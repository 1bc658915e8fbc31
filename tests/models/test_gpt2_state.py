"""GPT-2 in pieces: chunks, ragged batches and packed documents give what whole, single ones give."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.models import build
from bedplate.models.gpt2 import GPT2, SIZES, Config

CONTEXT = 16
CONFIGS = {
    "published": Config(vocab_size=50, context_length=CONTEXT, dim=16, num_layers=2, num_heads=2),
    "untied, by layer": Config(
        vocab_size=50, context_length=CONTEXT, dim=15, num_layers=3, num_heads=3, tied=False, scale_by_layer=True
    ),
    "not scaled": Config(
        vocab_size=50, context_length=CONTEXT, dim=8, num_layers=1, num_heads=1, scale_by_head_dim=False, mlp_dim=7
    ),
}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS, scope="module")
def model(request: pytest.FixtureRequest) -> GPT2:
    torch.manual_seed(0)
    model = GPT2(request.param).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.requires_grad_(False)


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(50, shape, generator=torch.Generator().manual_seed(sum(shape)))


@settings(deadline=None, max_examples=25)
@given(cuts=st.sets(st.integers(1, CONTEXT - 1)))
def test_chunks_are_the_whole(model: GPT2, cuts: set[int]) -> None:
    ids, borders = random_ids(2, CONTEXT), [0, *sorted(cuts), CONTEXT]
    state = model.new_state(2)
    sizes = [end - start for start, end in zip(borders, borders[1:], strict=False)]
    parts = [model(part, state=state) for part in ids.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), rtol=0, atol=1e-10)
    assert all(layer.lengths == [CONTEXT, CONTEXT] for layer in state)


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(1, CONTEXT - 4), min_size=1, max_size=4), kept=st.data())
def test_a_ragged_batch_is_each_sequence_alone(model: GPT2, lengths: list[int], kept: st.DataObject) -> None:
    rows = random_ids(len(lengths), CONTEXT)
    state = model.new_state(len(lengths), capacity=max(lengths) + 4)
    model(rows[:, : max(lengths)], state=state)
    indices = kept.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=4))
    for layer in state:
        layer.truncate(lengths)
        layer.select(indices)
    following = torch.stack([rows[index, lengths[index] : lengths[index] + 4] for index in indices])
    together = torch.cat([model(part, state=state) for part in following.split([1, 2, 1], dim=1)], dim=1)
    for row, index in enumerate(indices):
        alone = model(rows[index : index + 1, : lengths[index] + 4])[0, -4:]
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5).filter(lambda lengths: sum(lengths) <= CONTEXT))
def test_packed_documents_are_each_alone(model: GPT2, lengths: list[int]) -> None:
    ids = random_ids(1, sum(lengths))
    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]
    packed = model(ids, documents=documents).split(lengths, dim=1)
    for part, logits in zip(ids.split(lengths, dim=1), packed, strict=True):
        torch.testing.assert_close(logits, model(part), rtol=0, atol=1e-10)


def test_rows_pack_differently(model: GPT2) -> None:
    ids = random_ids(2, 8)
    documents = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2], [0] * 8])
    together = model(ids, documents=documents)
    for row in range(2):
        alone = model(ids[row : row + 1], documents=documents[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(together[1:], model(ids[1:]), rtol=0, atol=1e-10)


def test_forward_is_features_then_logits(model: GPT2) -> None:
    ids = random_ids(2, 5)
    assert torch.equal(model(ids), model.logits(model.features(ids)))


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model, ids = GPT2(CONFIGS["published"]), random_ids(1, 9)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_run_without_memory(size: str) -> None:
    """On the meta device, where only shapes exist."""
    with torch.device("meta"):
        model = build(SIZES[size])
        ids = torch.zeros(2, 1024, dtype=torch.long)
        assert model(ids).shape == (2, 1024, 50257)
        assert model.features(ids, documents=ids).shape == (2, 1024, SIZES[size].dim)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("name", ["mlp_dim", "norm_eps"])
def test_widths_and_epsilons_are_positive(name: str) -> None:
    from bedplate.errors import UserError

    with pytest.raises(UserError, match=name):
        Config(**{name: 0 if name == "mlp_dim" else 0.0})
