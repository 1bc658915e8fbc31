"""What `bedplate export` writes: a folder for other programs, with golden prompts that tell whether they agree."""

import dataclasses
from pathlib import Path

import torch

from bedplate.errors import UserError, nearest
from bedplate.evaluate.golden import FILE, golden_prompts
from bedplate.files import write_json
from bedplate.language_model import load, replacing
from bedplate.models import save_gguf
from bedplate.weights.gguf import ENCODINGS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GGUF = "model.gguf"


def export(target: str | Path, folder: str | Path, *, format: str = "hf", dtype: str = "float32") -> list[Path]:
    """Write what `bedplate.load(target)` opens into a folder; returns the files.

    hf: Hugging Face layout, as transformers and vLLM open it, in float32, bfloat16 or float16.
    gguf: one file as llama.cpp opens it, in these, or in q8_0 or q4_0 (8 or 4 bits in blocks of 32 with a scale each).
    `golden.json` beside it says what the model answers: for hf in this number format, for gguf in float32, since only
    the matrices are rounded there.
    """
    known = {"hf": list(DTYPES), "gguf": list(ENCODINGS)}
    if format not in known:
        raise UserError(f"there is no format {format!r}", fix=nearest(format, known))
    if dtype not in known[format]:
        raise UserError(f"there is no number format {dtype!r} for {format}", fix=nearest(dtype, known[format]))
    language_model = load(target, dtype=DTYPES[dtype] if format == "hf" else torch.float32)
    golden = dataclasses.asdict(golden_prompts(language_model))
    if format == "hf":
        language_model.save(folder)
        write_json(Path(folder) / FILE, golden)
    else:
        with replacing(Path(folder), owned=(GGUF, FILE), mark=GGUF) as temporary:
            name, path = Path(target).resolve().name, temporary / GGUF
            save_gguf(language_model.model, language_model.tokenizer, path, name=name, encoding=dtype)
            write_json(temporary / FILE, golden)
    return sorted(Path(folder).iterdir())
