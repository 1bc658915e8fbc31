"""GGUF files: read back tensor by tensor, and computed by llama.cpp where it is installed."""

import copy
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.generate.tiny import random_model, tokenizer
from torch import Tensor

from bedplate.errors import UserError
from bedplate.evaluate.golden import read_golden
from bedplate.export import export
from bedplate.language_model import LanguageModel, load

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
FORMATS = ["float32", *HALVES, "q8_0", "q4_0"]
try:
    import llama_cpp
except ImportError:
    llama_cpp = None
needs_llama = pytest.mark.skipif(
    llama_cpp is None, reason="llama-cpp-python is not installed (it is compiled from source: pip install it by hand)"
)


def small(vocab_size: int = 300, **changes: int) -> LanguageModel:
    return LanguageModel(random_model(vocab_size=vocab_size, dtype=torch.float32, **changes), tokenizer())


def exported(language_model: LanguageModel, folder: Path, dtype: str) -> Path:
    """The file that `bedplate export` makes of this model."""
    language_model.save(folder / "model")
    export(folder / "model", folder / "exported", format="gguf", dtype=dtype)
    return folder / "exported" / "model.gguf"


def read(path: Path) -> tuple[gguf.GGUFReader, dict[str, Tensor]]:
    reader = gguf.GGUFReader(path)
    values = {entry.name: gguf.quants.dequantize(entry.data, entry.tensor_type) for entry in reader.tensors}
    return reader, {name: torch.from_numpy(np.array(value)) for name, value in values.items()}


def as_in_gguf(model: torch.nn.Module) -> dict[str, Tensor]:
    """Our tensors under GGUF's names."""
    ours = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    names = {"token_embedding": "token_embd", "position_embedding": "position_embd", "final_norm": "output_norm"}
    inside = {"attention_norm": "attn_norm", "attention.out": "attn_output"}
    inside |= {"mlp_norm": "ffn_norm", "mlp.up": "ffn_up", "mlp.down": "ffn_down"}
    expected = {}
    for kind in ("weight", "bias"):
        expected |= {f"{new}.{kind}": ours[f"{old}.{kind}"] for old, new in names.items() if f"{old}.{kind}" in ours}
        for layer in range(model.config.num_layers):
            own, their = f"blocks.{layer}", f"blk.{layer}"
            expected |= {f"{their}.{new}.{kind}": ours[f"{own}.{old}.{kind}"] for old, new in inside.items()}
            parts = [ours[f"{own}.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            expected[f"{their}.attn_qkv.{kind}"] = torch.cat(parts)
    return expected


@pytest.mark.parametrize("dtype", FORMATS)
def test_every_tensor_is_there_and_equal(dtype: str, tmp_path: Path) -> None:
    language_model = small()
    _, found = read(exported(language_model, tmp_path, dtype))
    expected = as_in_gguf(language_model.model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        matrix = value.ndim == 2 and not name.startswith("position")
        if dtype == "q8_0" and matrix:
            # Blocks of 32 with a float16 scale: off by half a step, and by the scale's rounding.
            step = value.reshape(-1, 32).abs().amax(1, keepdim=True) / 127
            assert ((found[name] - value).reshape(-1, 32).abs() <= step * (0.5 + 127 * 2**-11)).all(), name
        elif dtype == "q4_0" and matrix:
            step = value.reshape(-1, 32).abs().amax(1, keepdim=True) / 8  # the far end of the other sign has one less
            assert ((found[name] - value).reshape(-1, 32).abs() <= step * (1 + 8 * 2**-11)).all(), name
        else:
            rounded = value.to(HALVES[dtype]).float() if dtype in HALVES and matrix else value
            assert torch.equal(found[name], rounded), name


def test_an_output_layer_of_its_own_is_written(tmp_path: Path) -> None:
    language_model = small(tied=False)
    _, found = read(exported(language_model, tmp_path, "float32"))
    assert torch.equal(found["output.weight"], language_model.model.head.weight.detach())


def test_settings_and_vocabulary_are_those_of_the_model(tmp_path: Path) -> None:
    language_model = small(vocab_size=320)  # twenty ids pad the vocabulary
    reader, _ = read(exported(language_model, tmp_path, "float16"))
    content = {name: field.contents() for name, field in reader.fields.items()}
    assert content["general.architecture"] == "gpt2" and content["general.file_type"] == 1
    sizes = {"context_length": 48, "embedding_length": 32, "block_count": 2, "feed_forward_length": 128}
    assert {name: content[f"gpt2.{name}"] for name in sizes} == sizes
    assert content["gpt2.attention.head_count"] == 2
    assert content["gpt2.attention.layer_norm_epsilon"] == pytest.approx(1e-5)
    vocabulary, end = tokenizer().vocabulary, tokenizer().end_id
    tokens, kinds = content["tokenizer.ggml.tokens"], content["tokenizer.ggml.token_type"]
    assert {token: id for id, token in enumerate(tokens[:300])} == dict(vocabulary.ids)
    assert tokens[300:] == [f"[PAD{id}]" for id in range(300, 320)]
    normal, control, unused = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.UNUSED
    assert kinds == [normal] * end + [control] + [normal] * (299 - end) + [unused] * 20
    assert content["tokenizer.ggml.merges"] == [" ".join(pair) for pair in vocabulary.merges]
    assert content["tokenizer.ggml.eos_token_id"] == end and content["tokenizer.ggml.add_bos_token"] is False


@pytest.mark.parametrize(
    ("changes", "dtype", "words"),
    [
        ({"dim": 24}, "q8_0", "q8_0 packs 32 numbers at a time, the rows of transformer.wte.weight have 24"),
        ({"activation": "relu"}, "float32", "activation_function 'relu'"),
        ({"scale_by_layer": True}, "float32", "scale_attn_by_inverse_layer_idx True"),
        ({}, "int4", "no number format 'int4' for gguf"),
    ],
)
def test_what_llama_cpp_would_not_compute_is_refused(
    changes: dict[str, int], dtype: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        exported(small(**changes), tmp_path, dtype)
    assert not (tmp_path / "exported").exists()


def llama_logprobs(path: Path, ids: Sequence[int], context: int) -> Tensor:
    """Log-probabilities after each token as llama.cpp computes them, its cache in float32."""
    assert llama_cpp is not None
    kinds = dict.fromkeys(("type_k", "type_v"), llama_cpp.GGML_TYPE_F32)
    opened = llama_cpp.Llama(str(path), n_ctx=context, logits_all=True, verbose=False, n_threads=1, **kinds)
    try:
        opened.eval(list(ids))
        return torch.tensor(np.array(opened.scores[: len(ids)])).log_softmax(-1)
    finally:
        opened.close()


def gelu_by_table(x: Tensor) -> Tensor:
    """llama.cpp's GELU: looked up in a table of float16 between -10 and 10."""
    looked_up = F.gelu(x.half().float(), approximate="tanh").half().float()
    return torch.where(x.abs() < 10, looked_up, x.clamp(min=0))


@needs_llama
def test_llama_cpp_computes_the_same_but_for_its_gelu(tmp_path: Path) -> None:
    language_model = small()
    ids = torch.randint(300, (40,), generator=torch.Generator().manual_seed(0))
    ours = copy.deepcopy(language_model.model)
    for block in ours.blocks:
        block.mlp.activation = gelu_by_table
    expected = ours(ids[None])[0].detach().log_softmax(-1)
    actual = llama_logprobs(exported(language_model, tmp_path, "float32"), ids.tolist(), context=48)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)  # measured: 3e-6


@needs_llama
@pytest.mark.parametrize(
    ("dtype", "bound"), [("float32", 0.01), ("float16", 0.02), ("bfloat16", 0.2), ("q8_0", 0.3)]
)  # measured: 0.004, 0.013, 0.13, 0.16
def test_llama_cpp_answers_the_golden_prompts(dtype: str, bound: float, tmp_path: Path) -> None:
    assert llama_cpp is not None
    export("gpt2-tiny", tmp_path / "tiny", format="gguf", dtype=dtype)
    path = tmp_path / "tiny" / "model.gguf"
    opened = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for prompt in read_golden(tmp_path / "tiny" / "golden.json").prompts:
        before, after = ([token.id for token in part] for part in (prompt.prompt, prompt.continuation))
        if prompt.text:
            assert opened.tokenize(prompt.text.encode(), add_bos=False) == before
        logprobs = llama_logprobs(path, [*before, *after], context=256)[:-1]
        chosen = logprobs.gather(1, torch.tensor([*before, *after])[1:, None]).squeeze(1)
        expected = torch.tensor([token.logprob for token in [*prompt.prompt, *prompt.continuation][1:]])
        assert (chosen - expected).abs().max() < bound
        behind = (logprobs.amax(1) - chosen)[len(before) - 1 :]  # of the likeliest token at each place
        assert behind.max() < (2 * bound if dtype == "q8_0" else 1e-9)
    opened.close()


def test_the_shipped_model_has_a_gguf_of_its_own_size(tmp_path: Path) -> None:
    export("gpt2-tiny", tmp_path / "tiny", format="gguf", dtype="q8_0")
    _, found = read(tmp_path / "tiny" / "model.gguf")
    assert sum(value.numel() for value in found.values()) == sum(
        p.numel() for p in load("gpt2-tiny").model.parameters()
    )
