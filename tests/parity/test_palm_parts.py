"""Parts of PaLM beside transformers: multi-query attention of GPTBigCode, gated MLP and rotary positions of Llama."""

from typing import Any

import torch
from tests.support import assert_close
from torch import Tensor
from transformers import GPTBigCodeConfig, LlamaConfig
from transformers.models.gpt_bigcode.modeling_gpt_bigcode import GPTBigCodeAttention
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from bedplate.models.palm import Block, Config
from bedplate.nn.attention import Attention
from bedplate.nn.position import CAUSAL, turns
from bedplate.nn.rotary import frequencies

TINY = Config(vocab_size=101, context_length=64, dim=24, num_layers=2, num_heads=3, head_dim=8)
X = torch.randn(2, 33, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def random(module: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(std=0.3) if not name.endswith("norm.bias") else parameter.zero_()
    return module.double().eval()


def assert_equal(ours: Tensor, theirs: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Outputs, and gradients of the weights, which are [ours, theirs] or parts of these."""
    assert_close(ours, theirs, bound=1e-10, name="output")
    weights = torch.randn(ours.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mine, other = ((each * weights).sum() for each in (ours, theirs))
    gradients = [torch.autograd.grad(each, [pair[i] for pair in pairs]) for i, each in enumerate((mine, other))]
    for place, (one, two) in enumerate(zip(*gradients, strict=True)):
        assert_close(one, two, bound=1e-10, name=f"gradient {place}")


def test_multi_query_attention_is_that_of_gpt_bigcode() -> None:
    config = GPTBigCodeConfig(n_embd=24, n_head=3, multi_query=True, attn_pdrop=0.0, resid_pdrop=0.0)
    config._attn_implementation = "sdpa"
    reference = random(GPTBigCodeAttention(config, layer_idx=0))
    ours = Attention(24, 3, num_kv_heads=1).double()
    rows = zip(*(reference.c_attn.get_parameter(name).split([24, 8, 8]) for name in ("weight", "bias")), strict=True)
    for part, (weight, bias) in zip((ours.query, ours.key, ours.value), rows, strict=True):
        part.load_state_dict({"weight": weight, "bias": bias})
    ours.out.load_state_dict(reference.c_proj.state_dict())
    pairs = [(ours.out.weight, reference.c_proj.weight), (ours.out.bias, reference.c_proj.bias)]
    assert_equal(ours(X, bias=CAUSAL), reference(X)[0], pairs)


def test_gated_mlp_and_rotary_positions_are_those_of_llama() -> None:
    sizes = {"hidden_size": 24, "intermediate_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1}
    config = LlamaConfig(**sizes, head_dim=8, attn_implementation="sdpa")
    reference, ours = random(LlamaDecoderLayer(config, 0)), Block(TINY).double()
    names = {f"attention.{part}": f"self_attn.{part[0]}_proj" for part in ("query", "key", "value", "out")}
    names |= {f"mlp.{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
    pairs = [(ours.get_submodule(m).weight, reference.get_submodule(t).weight) for m, t in names.items()]
    for mine, other in pairs:
        mine.data.copy_(other)
    positions = torch.arange(33)[None] + 1000
    places = LlamaRotaryEmbedding(config)(X, positions)
    attended = ours.attention(X, bias=CAUSAL, rotary=turns(positions, frequencies(8)))
    assert_equal(attended, reference.self_attn(X, position_embeddings=places)[0], pairs[:4])
    assert_equal(ours.mlp(X), reference.mlp(X), pairs[4:])
