"""Put a trained run into the package: `python tools/ship_checkpoint.py runs/gpt2.tiny gpt2-tiny`.

Weights in bfloat16, the tokenizer as one file, and a receipt: the run's record and what the shipped weights measure.
"""

import sys
from pathlib import Path

import torch

from bedplate.evaluate.language import likelihood
from bedplate.files import write_json
from bedplate.language_model import CHECKPOINTS, load
from bedplate.recipes.recipe import find_recipe
from bedplate.recipes.text import prepare
from bedplate.train.run import read_run

RECEIPT = "receipt.json"


def main(run: Path, name: str) -> None:
    """Write `src/bedplate/checkpoints/<name>/`."""
    language_model = load(run)
    language_model.model.to(torch.bfloat16)
    folder = CHECKPOINTS / name
    (folder / RECEIPT).unlink(missing_ok=True)  # of the checkpoint that is replaced
    language_model.save(folder)
    for repeated in ("vocab.json", "merges.txt"):  # tokenizer.json holds both
        (folder / repeated).unlink()
    record = read_run(run)
    prepared = prepare(find_recipe(record["recipe"], record["settings"]), tokenizer=language_model.tokenizer)
    measured = likelihood(load(folder).model, prepared.held_out_windows())
    held_out = {"bits_per_byte": measured.bits_per_byte, "tokens": measured.tokens, "bytes": measured.bytes}
    write_json(folder / RECEIPT, {"held_out": held_out, "run": record})
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size:,} bytes, {measured.bits_per_byte:.3f} held-out bits per byte")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python tools/ship_checkpoint.py RUN NAME")
    main(Path(sys.argv[1]), sys.argv[2])
