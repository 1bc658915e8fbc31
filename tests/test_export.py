"""Exported folders: transformers opens them and gives every golden token; what is replaced, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.generate.tiny import random_model, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from bedplate.cli import main
from bedplate.errors import UserError
from bedplate.evaluate.golden import FILE, PROMPTS, golden_prompts, read_golden
from bedplate.export import export
from bedplate.language_model import LanguageModel, load


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    export("gpt2-tiny", folder)
    return folder


def reference_logprobs(reference: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return reference(torch.tensor([ids])).logits[0].float().log_softmax(-1)


def test_transformers_gives_every_golden_token(exported: Path) -> None:
    reference: Any = AutoModelForCausalLM.from_pretrained(exported).eval()
    words = AutoTokenizer.from_pretrained(exported)
    golden = read_golden(exported / FILE)
    assert [prompt.name for prompt in golden.prompts] == list(PROMPTS)
    for prompt in golden.prompts:
        before, after = ([token.id for token in part] for part in (prompt.prompt, prompt.continuation))
        assert before == (words(prompt.text)["input_ids"] if prompt.text else [words.bos_token_id])
        given = reference.generate(torch.tensor([before]), max_new_tokens=16, do_sample=False, pad_token_id=0)
        assert given[0].tolist() == [*before, *after]
        assert words.decode(after) == prompt.continuation_text
        logprobs = reference_logprobs(reference, [*before, *after])
        assert prompt.prompt[0].logprob is None
        for place, token in enumerate([*prompt.prompt, *prompt.continuation][1:]):
            assert token.logprob == pytest.approx(logprobs[place, token.id].item(), abs=1e-4)
            assert token.text == words.decode([token.id])
        for place, token in enumerate(prompt.continuation, start=len(before) - 1):
            assert token.runner_up is not None
            assert [token.id, token.runner_up.id] == logprobs[place].topk(2).indices.tolist()


def test_half_precision_is_written_and_answered_in(tmp_path: Path) -> None:
    export("gpt2-tiny", tmp_path / "half", dtype="bfloat16")
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto").eval()
    assert reference.dtype == torch.bfloat16
    golden = read_golden(tmp_path / "half" / FILE)
    assert golden.receipt["dtype"] == "bfloat16"
    exact = golden_prompts(load("gpt2-tiny"))
    differences = [
        abs(mine.logprob - other.logprob)
        for half, whole in zip(golden.prompts, exact.prompts, strict=True)
        for mine, other in zip(half.prompt, whole.prompt, strict=True)
        if mine.logprob is not None and other.logprob is not None
    ]
    assert 0.01 < max(differences) < 0.5


def test_the_receipt_names_the_model(exported: Path) -> None:
    receipt = read_golden(exported / FILE).receipt
    opened = load("gpt2-tiny")
    again = golden_prompts(load(exported))
    assert again == read_golden(exported / FILE)
    assert receipt["tokenizer_sha256"] == opened.tokenizer.digest and receipt["dtype"] == "float32"
    with torch.no_grad():
        opened.model.final_norm.bias[3] += 1e-6
    assert golden_prompts(opened).receipt["model_sha256"] != receipt["model_sha256"]


def test_prompts_without_room_are_left_out() -> None:
    small = LanguageModel(random_model(dtype=torch.float32, context_length=8), tokenizer())
    (prompt,) = golden_prompts(small).prompts
    assert prompt.name == "empty" and len(prompt.prompt) + len(prompt.continuation) <= 8


def test_an_answer_that_ends_is_marked() -> None:
    model = random_model(dtype=torch.float32)
    with torch.no_grad():
        model.final_norm.weight.zero_()
        model.final_norm.bias.copy_(model.token_embedding.weight[tokenizer().end_id])
        model.token_embedding.weight[tokenizer().end_id] *= 3
    for prompt in golden_prompts(LanguageModel(model, tokenizer())).prompts:
        assert prompt.ended and [token.id for token in prompt.continuation] == [tokenizer().end_id]
        assert prompt.continuation_text == ""


def test_an_export_is_replaced_whole(exported: Path, tmp_path: Path) -> None:
    for dtype in ("float32", "float16"):
        files = export(exported, tmp_path / "copy", dtype=dtype)
        assert FILE in {path.name for path in files}
    assert read_golden(tmp_path / "copy" / FILE).receipt["dtype"] == "float16"
    load(exported).save(tmp_path / "copy")  # another model's answers would be wrong
    assert not (tmp_path / "copy" / FILE).exists()
    for _ in range(2):
        files = export(exported, tmp_path / "one", format="gguf")
        assert [path.name for path in files] == [FILE, "model.gguf"]
    with pytest.raises(UserError, match="other files"):
        export(exported, tmp_path / "one")
    with pytest.raises(UserError, match="other files"):
        export(exported, tmp_path / "copy", format="gguf")


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: Any) -> None:
    assert main(["export", "gpt2-tiny", str(tmp_path / "out"), "--format", "gguf", "--dtype", "q8_0"]) == 0
    output = capsys.readouterr().out
    assert "model.gguf" in output and "bedplate diff" in output
    assert len(json.loads((tmp_path / "out" / FILE).read_text())["prompts"]) == len(PROMPTS)
    for words, said in (
        (["--format", "onnx"], "no format 'onnx'"),
        (["--dtype", "q8_0"], "no number format 'q8_0' for hf"),
        (["--dtype", "float12"], "did you mean 'float32'?"),
    ):
        assert main(["export", "gpt2-tiny", str(tmp_path / "other"), *words]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "other").exists()
