"""GPT-1 with the head of a task against transformers' two such models: scores, gradients and files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.test_gpt1 import reference_model
from tests.support import assert_close
from transformers import OpenAIGPTDoubleHeadsModel, OpenAIGPTForSequenceClassification

from bedplate.models import from_pretrained, save_pretrained, table_of

BOUNDS = [(torch.float64, 1e-10), (torch.float32, 1e-4)]
LENGTHS = torch.tensor([[20, 13, 7], [9, 20, 18]])  # of three answers to each of two items


def at_the_end(features: torch.Tensor) -> torch.Tensor:
    vectors = [features[row, length - 1] for row, length in enumerate(LENGTHS.flatten().tolist())]
    return torch.stack(vectors).unflatten(0, LENGTHS.shape)


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"summary_first_dropout": 0.3, "n_head": 4}])
def test_a_choice_is_double_heads(changes: dict[str, object], dtype: torch.dtype, bound: float, tmp_path: Path) -> None:
    reference = reference_model(OpenAIGPTDoubleHeadsModel, **changes)
    reference.save_pretrained(tmp_path)
    ours, reference = from_pretrained(tmp_path, dtype=dtype), reference.to(dtype)
    ids = torch.randint(101, (2, 3, 20))
    theirs = reference(ids, mc_token_ids=LENGTHS - 1)
    features = ours.features(ids.flatten(0, 1))
    scores = ours.classify(at_the_end(features))
    assert_close(scores, theirs.mc_logits, bound=bound, name="scores")
    assert_close(ours.logits(features).unflatten(0, (2, 3)), theirs.logits, bound=bound, name="logits")
    weights = torch.randn_like(scores)
    (scores * weights).sum().backward()
    (theirs.mc_logits * weights).sum().backward()
    gradients = {name: value.grad for name, value in ours.named_parameters() if value.grad is not None}
    found, largest = table_of(ours).to_theirs(gradients, ours.config), 0.0
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None and name not in ("lm_head.weight", "transformer.tokens_embed.weight"):
            assert_close(found[name], parameter.grad, bound=bound, name=f"gradient of {name}")
            largest = max(largest, float(parameter.grad.abs().max()))
    assert largest > 0.1
    embedding = reference.get_input_embeddings().weight.grad
    assert_close(ours.token_embedding.weight.grad, embedding, bound=bound, name="gradient of the embedding")


@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
def test_classes_are_those_of_sequence_classification(dtype: torch.dtype, bound: float, tmp_path: Path) -> None:
    reference = reference_model(OpenAIGPTForSequenceClassification, num_labels=5, pad_token_id=0)
    reference.save_pretrained(tmp_path)
    ours = from_pretrained(tmp_path, dtype=dtype)
    ids = torch.randint(1, 101, (6, 20)) * (torch.arange(20) < LENGTHS.flatten()[:, None])
    expected = reference.to(dtype)(ids).logits
    assert_close(ours.classify(at_the_end(ours.features(ids)).reshape(6, 1, -1)), expected, bound=bound, name="scores")


@pytest.mark.parametrize("kind", [OpenAIGPTDoubleHeadsModel, OpenAIGPTForSequenceClassification])
@pytest.mark.parametrize("kept", [("tokens_embed",), ("lm_head",), ("tokens_embed", "lm_head")], ids=str)
def test_files_both_ways_with_either_tied_tensor_or_both(kind: type, kept: tuple[str, ...], tmp_path: Path) -> None:
    reference = reference_model(kind, **({} if kind is OpenAIGPTDoubleHeadsModel else {"num_labels": 3}))
    reference.save_pretrained(tmp_path)
    tensors, names = load_file(tmp_path / "model.safetensors"), {"lm_head": "lm_head.weight"}
    tied = [tensors.pop(name) for name in list(tensors) if name.endswith(("lm_head.weight", "tokens_embed.weight"))]
    tensors |= {names.get(name, f"transformer.{name}.weight"): tied[0].clone() for name in kept}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "ours").mkdir()
    save_pretrained(from_pretrained(tmp_path), tmp_path / "ours")
    again, report = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    assert all(torch.equal(again.state_dict()[name], value) for name, value in reference.state_dict().items())
