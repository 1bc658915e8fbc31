"""PaLM is Falcon 7B (parallel blocks on one norm, multi-query attention, rotary positions) but for the gated MLP."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tests.parity.test_palm_parts import TINY, assert_equal, random
from transformers import FalconConfig, FalconForCausalLM

from bedplate.models.palm import PaLM
from bedplate.nn.mlp import MLP


@pytest.mark.parametrize("heads", [3, 1])
def test_parallel_blocks_on_one_norm_are_falcons(heads: int) -> None:
    """Whole models, with Falcon's MLP in the place of PaLM's, and its logits scaled down."""
    sizes = {"vocab_size": 101, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": heads}
    reference = random(FalconForCausalLM(FalconConfig(**sizes, layer_norm_epsilon=1e-6, bos_token_id=0)))
    reference.transformer.ln_f.bias.data.zero_()
    ours = PaLM(replace(TINY, num_heads=heads, head_dim=24 // heads)).double()
    pairs = [("token_embedding", "word_embeddings"), ("final_norm", "ln_f")]
    for layer, block in enumerate(ours.blocks):
        block.mlp = MLP(24, 96, activation=F.gelu, bias=False).double()
        theirs = reference.transformer.h[layer]
        rows = theirs.self_attention.query_key_value.weight.split([24, 24 // heads, 24 // heads])
        for part, weight in zip((block.attention.query, block.attention.key, block.attention.value), rows, strict=True):
            part.weight.data.copy_(weight)
        names = [("norm", "input_layernorm"), ("attention.out", "self_attention.dense")]
        names += [("mlp.up", "mlp.dense_h_to_4h"), ("mlp.down", "mlp.dense_4h_to_h")]
        pairs += [(f"blocks.{layer}.{mine}", f"h.{layer}.{other}") for mine, other in names]
    weights = [
        (ours.get_submodule(mine).weight, reference.transformer.get_submodule(other).weight) for mine, other in pairs
    ]
    for mine, other in weights:
        mine.data.copy_(other)
    ids = torch.randint(101, (2, 33))
    assert_equal(ours(ids), reference(ids).logits / 24**0.5, weights)
