"""GGUF, the one-file layout of llama.cpp: GPT-2's weights with its byte-level BPE vocabulary.

Names, keys and number formats are those of llama.cpp's own converter (ggml-org/llama.cpp, convert_hf_to_gguf.py):
norms, biases and positions stay float32, matrices take the chosen format.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bedplate.errors import UserError, require

ENCODINGS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
FILE_TYPES = {"F32": "ALL_F32"} | {kind: f"MOSTLY_{kind}" for kind in ("F16", "BF16", "Q8_0", "Q4_0")}
# What llama.cpp's GPT-2 computes, by the keys of config.json; any other value would change the model silently.
REQUIRED = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # stored (in, out) by Hugging Face; GGUF wants (out, in)


def write_gguf(
    path: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], tokenizer: Any, *, name: str, encoding: str
) -> None:
    """Write the tensors and settings of a model in Hugging Face layout, and its `ByteBPE` tokenizer, as one file.

    Raises UserError for a model that llama.cpp would compute otherwise, and for rows that q8_0 cannot hold.
    """
    gguf: Any = require("gguf", extra="gguf")
    for key, value in REQUIRED.items():
        if settings[key] != value:
            cause = f"llama.cpp does not compute a GPT-2 with {key} {settings[key]!r}"
            raise UserError(cause, fix=f"only {value!r} can be exported to GGUF; use --format hf")
    writer = gguf.GGUFWriter(path, "gpt2")
    try:
        _add_settings(writer, settings, name=name, file_type=gguf.LlamaFileType[FILE_TYPES[ENCODINGS[encoding]]])
        _add_vocabulary(writer, tokenizer, settings["vocab_size"], gguf.TokenType)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, settings["n_layer"])
        for theirs, tensor in tensors.items():
            matrix = tensor.ndim == 2 and not theirs.endswith("wpe.weight")
            kind = gguf.GGMLQuantizationType[ENCODINGS[encoding] if matrix else "F32"]
            values = (tensor.T if theirs.endswith(CONV1D) else tensor).float().contiguous().cpu().numpy()
            _check_rows(theirs, values.shape[-1], gguf.GGML_QUANT_SIZES[kind][0], encoding)
            place = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
            writer.add_tensor(place, gguf.quants.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_settings(writer: Any, settings: Mapping[str, Any], *, name: str, file_type: int) -> None:
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_vocab_size(settings["vocab_size"])
    writer.add_context_length(settings["n_positions"])
    writer.add_embedding_length(settings["n_embd"])
    writer.add_block_count(settings["n_layer"])
    writer.add_feed_forward_length(settings["n_inner"] or 4 * settings["n_embd"])
    writer.add_head_count(settings["n_head"])
    writer.add_layer_norm_eps(settings["layer_norm_epsilon"])


def _add_vocabulary(writer: Any, tokenizer: Any, size: int, kinds: Any) -> None:
    """Tokens up to the model's size; ids that pad the model's vocabulary stand for nothing."""
    if getattr(tokenizer, "vocabulary", None) is None or tokenizer.vocabulary.words.name != "GPT-2":
        raise UserError("this tokenizer is not GPT-2's", fix="only GPT-2's can be exported to GGUF; use --format hf")
    special = tokenizer.vocabulary.special
    tokens = [tokenizer.tokens.get(id) for id in range(size)]
    types = [kinds.UNUSED if token is None else kinds.CONTROL if token in special else kinds.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"[PAD{id}]" if token is None else token for id, token in enumerate(tokens)])
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for left, right in tokenizer.vocabulary.merges])
    if tokenizer.end_id >= 0:
        writer.add_bos_token_id(tokenizer.end_id)
        writer.add_eos_token_id(tokenizer.end_id)
    writer.add_add_bos_token(False)


def _check_rows(name: str, length: int, block: int, encoding: str) -> None:
    if length % block:
        cause = f"{encoding} packs {block} numbers at a time, the rows of {name} have {length}"
        raise UserError(cause, fix="choose --dtype float16")
