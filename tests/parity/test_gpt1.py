"""GPT-1 against transformers: logits, every gradient, cached decoding and what is generated."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import assert_close
from torch.nn.functional import cross_entropy
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel, PreTrainedModel

from bedplate.generate.beam import Beams, beam_search
from bedplate.models import from_pretrained, table_of
from bedplate.objectives.next_token import NextToken

SMALL = {"vocab_size": 101, "n_positions": 40, "n_embd": 24, "n_layer": 3, "n_head": 3}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "like the published": {},  # afn "gelu", which is the tanh form in this model alone
    "relu": {"afn": "relu"},
    "silu": {"afn": "silu"},
    "silu, other name": {"afn": "swish"},
    "untied head": {"tie_word_embeddings": False},
    "seven heads": {"n_embd": 35, "n_head": 7},
    "one layer, one head": {"n_layer": 1, "n_head": 1},
    "large epsilon, no dropout": {"layer_norm_epsilon": 1e-2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}
every_configuration = pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)


def reference_model(kind: type[PreTrainedModel] = OpenAIGPTLMHeadModel, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = kind(OpenAIGPTConfig(**SMALL | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms away from 0 and 1, so that none can be left out
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@every_configuration
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_logits_and_every_gradient(changes: dict[str, Any], tmp_path: Path, dtype: torch.dtype, bound: float) -> None:
    reference = reference_model(**changes)
    reference.save_pretrained(tmp_path)
    ours, reference = from_pretrained(tmp_path, dtype=dtype), reference.to(dtype)
    ids = torch.randint(101, (3, 41), generator=torch.Generator().manual_seed(0))
    expected = reference(ids[:, :-1]).logits
    assert_close(ours(ids[:, :-1]), expected, bound=bound, name="logits")
    loss = NextToken().loss(ours, {"ids": ids[:, :-1], "targets": ids[:, 1:]}, None, 0)
    (loss.total / loss.count).backward()
    cross_entropy(expected.flatten(0, 1), ids[:, 1:].flatten()).backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    found = table_of(ours).to_theirs(gradients, ours.config)
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert found.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert_close(found[name], gradient, bound=bound, name=f"gradient of {name}")


@every_configuration
def test_cached_decoding(changes: dict[str, Any], tmp_path: Path) -> None:
    reference = reference_model(**changes)
    reference.save_pretrained(tmp_path)
    ours, ids = from_pretrained(tmp_path, dtype=torch.float64), torch.randint(101, (2, 20))
    with torch.no_grad():
        state = ours.new_state(2)
        actual = torch.cat([ours(part, state=state) for part in ids.split([7, 5, *[1] * 8], dim=1)], dim=1)
        torch.testing.assert_close(actual, reference.double()(ids).logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("width", [1, 4])
def test_generated_tokens(width: int, tmp_path: Path) -> None:
    reference = reference_model()
    reference.save_pretrained(tmp_path)
    for prompt in ([5, 9, 77], [7], [1, 2, 3, 4, 5, 6, 7, 8]):
        options = {"do_sample": False, "max_new_tokens": 14, "num_beams": width, "pad_token_id": 0}
        theirs = reference.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **options)
        model = from_pretrained(tmp_path)
        (ours,) = beam_search(model, [prompt], max_new_tokens=14, beams=Beams(width=width), end_ids=[])
        assert ours[0].ids == theirs[0, len(prompt) :].tolist()
