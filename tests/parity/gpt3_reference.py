"""GPT-3 and GPT-Neo beside models of transformers with the same weights.

transformers has no GPT-3; its GPT-2 becomes one when the mask of every other layer is a band.
"""

from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoConfig, GPTNeoForCausalLM, PreTrainedModel

from bedplate.models import gpt2
from bedplate.models.gpt3 import GPT3, HF, Config, GPTNeo, NeoConfig
from bedplate.verify.reference import as_exact_as_weights
from bedplate.weights.checkpoint import Checkpoint

CONFIGURATIONS: dict[str, dict[str, Any]] = {  # in our words
    "like the published": {},
    "banded first": {"pattern": "banded,dense"},
    "all banded, one token": {"pattern": "banded", "window": 1},
    "all dense": {"pattern": "dense"},
    "wider than the text": {"window": 99},
    "a third pattern": {"pattern": "dense,banded,banded", "num_layers": 5, "window": 7},
    "one layer, one head": {"num_layers": 1, "num_heads": 1},
    "odd widths": {"dim": 35, "num_heads": 7, "mlp_dim": 37, "window": 4},
    "untied, relu, large epsilon": {"tied": False, "activation": "relu", "norm_eps": 1e-2},
}
SMALL: dict[str, Any] = {"vocab_size": 101, "context_length": 40, "dim": 24, "num_layers": 3, "num_heads": 3}
SMALL |= {"window": 5, "dropout": 0.0}
Pair = tuple[GPT3, PreTrainedModel, Checkpoint]


def models(kind: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Pair:
    """Ours with the weights of transformers' model, that model, and the table between them."""
    torch.manual_seed(0)
    if kind == "GPT-Neo":
        config, table = NeoConfig(**SMALL | changes), HF[1]
        ours, reference = GPTNeo(config), GPTNeoForCausalLM(GPTNeoConfig(**_words(table, config)))
    else:
        config, table = Config(**SMALL | changes), gpt2.HF
        ours = GPT3(config)
        reference = GPT2LMHeadModel(GPT2Config(**_words(table, config), attn_implementation="eager"))
        for layer, module in zip(config.kinds, reference.transformer.h, strict=True):
            module.attn.register_forward_pre_hook(_Band(config.window if layer == "banded" else 40), with_kwargs=True)
    for parameter in reference.parameters():  # biases and norms away from 0 and 1, so that none can be left out
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    theirs = {
        name: value for name, value in reference.state_dict().items() if name not in table.tied or not config.tied
    }
    ours.load_state_dict(table.to_ours(theirs, config))
    return ours.to(dtype).eval(), as_exact_as_weights(reference.to(dtype).eval()), table


def _words(table: Checkpoint, config: Config) -> dict[str, Any]:
    values = {key: value for key, value in table.config_to(config).items() if key != "model_type"}
    return values | {"bos_token_id": 0, "eos_token_id": 0}


class _Band:
    """Lets an attention layer see so many tokens."""

    def __init__(self, window: int) -> None:
        self.window = window

    def __call__(self, module: nn.Module, inputs: Any, options: Any) -> Any:
        x = inputs[0]
        distance = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        seen = (distance >= 0) & (distance < self.window)
        mask = torch.zeros(seen.shape, dtype=x.dtype).masked_fill(~seen, -torch.inf)
        return inputs, options | {"attention_mask": mask[None, None]}
