"""The contract with transformers, whose models are made as exact as their weights: what differs is no rounding."""

import functools
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bedplate.generate.prompt import reads_a_source
from bedplate.models import save_pretrained, table_of
from bedplate.nn.mlp import gelu_tanh
from bedplate.nn.position import alibi_slopes
from bedplate.verify.inputs import NotApplicable, context_of, double, random_ids
from bedplate.verify.trace import Pairs


def equals_reference(model: Any) -> Pairs:
    """Logits and input gradients of the exported folder in transformers = ours."""
    if importlib.util.find_spec("transformers") is None:
        raise NotApplicable("transformers is not installed")
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if table_of(model).model_type not in CONFIG_MAPPING:
        raise NotApplicable("transformers has no such model")
    model = double(model)
    ids = random_ids(model, (2, min(24, context_of(model))))
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, Path(folder), end_id=0)
        library = AutoModelForSeq2SeqLM if reads_a_source(model) else AutoModelForCausalLM
        reference = as_exact_as_weights(library.from_pretrained(folder, dtype=torch.float64).eval())
    if reads_a_source(model):
        source = ids.flip(1)
        ours, theirs = model(source, ids), reference(input_ids=source, decoder_input_ids=ids).logits
    else:
        ours, theirs = model(ids), reference(ids, attention_mask=torch.ones_like(ids)).logits
    (ours.logsumexp(-1).sum()).backward()
    (theirs.logsumexp(-1).sum()).backward()
    gradient = model.token_embedding.weight.grad
    return [("logits", ours, theirs), ("embedding gradient", gradient, reference.get_input_embeddings().weight.grad)]


def as_exact_as_weights(reference: Any) -> Any:
    """transformers computes RMS norms in float32 even in a float64 model, BLOOM's softmax and slopes too, and GPT-Neo's
    scores, and a constant of BLOOM's GELU has 8 digits; with this, all are as wide as the weights. BLOOM then needs an
    attention mask.
    """
    for module in reference.modules():
        changed: Any = module
        if type(module).__name__.endswith(("RMSNorm", "T5LayerNorm")):
            settings: Any = {"weight": module.weight, "eps": module.variance_epsilon}
            changed.forward = functools.partial(F.rms_norm, normalized_shape=module.weight.shape, **settings)
        elif type(module).__name__ == "BloomGelu":
            changed.forward = gelu_tanh
        elif type(module).__name__ in ("BloomModel", "GPTNeoModel"):
            changed.build_alibi_tensor = _exact_biases  # BLOOM's alone
            changed.forward = functools.partial(_as_wide_as_weights, module.forward)
    return reference


def _exact_biases(
    attention_mask: Int[Tensor, "batch key"], num_heads: int, dtype: torch.dtype
) -> Float[Tensor, "batch_heads 1 key"]:
    positions = (attention_mask.cumsum(dim=-1) - 1) * attention_mask
    biases = alibi_slopes(num_heads)[None, :, None] * positions[:, None]
    return biases.flatten(0, 1)[:, None].to(dtype)


class _Wide(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.softmax:
            return args[0].softmax(dim=-1)
        if func is Tensor.to and args[1:] == (torch.float32,):
            return args[0]
        return func(*args, **kwargs or {})


def _as_wide_as_weights(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    with _Wide():
        return forward(*inputs, **options)
