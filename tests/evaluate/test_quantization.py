"""Quantized models: what they cost is measured on text that was never trained on."""

import pytest

from bedplate.cli import main
from bedplate.errors import UserError
from bedplate.language_model import load


@pytest.mark.parametrize(("kind", "least", "most", "share"), [
    ("bf16", -0.001, 0.001, 0.55), ("int8", -0.001, 0.002, 0.35), ("int4", 0.001, 0.04, 0.25),
])  # fmt: skip
def test_the_shipped_model_loses_little(kind: str, least: float, most: float, share: float) -> None:
    language_model = load("gpt2-tiny")
    cost = language_model.quantize(kind)
    assert least < cost.after / cost.before - 1 < most
    assert cost.memory_after < share * cost.memory_before
    assert 1 < cost.before < 2 and cost.text_bytes > 4000
    assert language_model.generate("The open function", max_new_tokens=5, temperature=0).text


def test_quantized_models_are_not_saved(tmp_path: object) -> None:
    language_model = load("gpt2-tiny")
    language_model.quantize("int8")
    with pytest.raises(UserError, match="load it again and save that"):
        language_model.save(f"{tmp_path}/out")


def test_the_commands_print_the_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "def read(", "--weights", "int8", "--max-new-tokens", "3"]) == 0
    assert "int8 weights: 1.6" in capsys.readouterr().err
    assert main(["generate", "def read(", "--weights", "int7"]) == 2
    assert "did you mean" in capsys.readouterr().err
