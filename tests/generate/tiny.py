"""Small models and tokenizers on which generation is tried."""

from functools import cache

import torch

from bedplate.data.tokenize.byte_bpe import ByteBPE
from bedplate.models.gpt2 import GPT2, Config

TEXTS = [
    "The quick brown fox jumps over the lazy dog. ",
    "Größe, naïveté, 日本語, 🙂🙃 and the rest of the text.\n",
] * 40


@cache
def tokenizer() -> ByteBPE:
    """Bytes, some merges, end of text."""
    return ByteBPE.train(TEXTS, vocab_size=300)


@cache
def plain_bytes() -> ByteBPE:
    """A token is a byte, so that most characters outside ASCII are cut."""
    return ByteBPE.train(TEXTS, vocab_size=257)


def random_model(seed: int = 0, *, vocab_size: int = 300, dtype: torch.dtype = torch.float64, **changes: int) -> GPT2:
    """Random weights, spread so that no two tokens are about equally likely."""
    sizes = {"context_length": 48, "dim": 32, "num_layers": 2, "num_heads": 2} | changes
    torch.manual_seed(seed)
    model = GPT2(Config(vocab_size=vocab_size, **sizes)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def varied_model(seed: int = 0, **changes: int) -> GPT2:
    """Random weights whose likeliest tokens change from position to position, instead of repeating one for ever."""
    model = random_model(seed, **changes | {"tied": False})
    with torch.no_grad():
        model.position_embedding.weight.mul_(6)
    return model


def reciting_model(ids: list[int], *, vocab_size: int = 300) -> GPT2:
    """A model that says ids[i] at position i whatever it reads: nothing but its positions reaches the output."""
    model = random_model(vocab_size=vocab_size, dim=64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.down.weight", "bias")):
                parameter.zero_()
        model.final_norm.weight.fill_(1.0)
        model.token_embedding.weight.normal_()
        model.position_embedding.weight[: len(ids) - 1] = 1e3 * model.token_embedding.weight[ids[1:]]
    return model
