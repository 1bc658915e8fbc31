"""A new model that begins where a trained one ended, with more tokens or another head."""

import torch
from torch import Tensor, nn

from bedplate.errors import UserError

HEADS = {"pooler", "masked_head", "next_sentence_head", "task_head"}


@torch.no_grad()
def start_from(model: nn.Module, trained: nn.Module) -> None:
    """Copy a trained model into a new one. Tokens and heads that the trained one lacks stay as they were initialized.

    Of a matrix with a row for each token the first rows are copied (GPT-1, section 3.1: delimiters are new rows). Heads
    that the new one lacks are left behind (BERT, figure 1). Raises UserError for all other differences.
    """
    ours, left = model.state_dict(), HEADS - {name for name, _ in model.named_children()}
    copied = {name: each for name, each in trained.state_dict().items() if name.partition(".")[0] not in left}
    for name, tensor in copied.items():
        if name not in ours:
            raise UserError(f"the trained model has {name!r}, the new one has not", fix="use the same architecture")
        _check(name, ours[name], tensor)
    for name, tensor in copied.items():
        ours[name][: len(tensor)].copy_(tensor)


def _check(name: str, ours: Tensor, trained: Tensor) -> None:
    grown = len(ours) - len(trained) if name.startswith(("token_embedding.", "head.")) else 0
    fits = grown >= 0 and ours.shape == (len(trained) + grown, *trained.shape[1:])
    if not fits:
        cause = f"{name!r} has shape {list(trained.shape)} in the trained model, {list(ours.shape)} in the new one"
        raise UserError(cause, fix="give both the same sizes (the vocabulary may grow)")
