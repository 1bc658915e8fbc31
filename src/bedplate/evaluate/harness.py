"""EleutherAI's lm-evaluation-harness on our models: its tasks, with the numbers that its own `hf` model gives.

One difference is meant: `<|endoftext|>` written out in a task is plain characters here, and a special token for `hf`.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import bedplate
from bedplate.data.tokenize.tokenizer import end_mark
from bedplate.errors import UserError, nearest, require
from bedplate.evaluate.golden import model_digest
from bedplate.evaluate.language import score_continuations
from bedplate.generate.sample import Sampling

logger = logging.getLogger(__name__)
AUTOMATIC = 16  # requests at a time for batch_size=auto
MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names that tasks use, in order
Load = Callable[..., Any]  # bedplate.load, which this module may not import


class Adapter:
    """What lm-eval's `TemplateLM` asks of a model. `model_class` joins the two."""

    cache_hook: Any  # made by TemplateLM
    prefix_token_id: int

    def __init__(self, language_model: Any, *, batch_size: int | str = 1, max_gen_toks: int = 256) -> None:
        """`max_gen_toks`: of an answer, where a task does not say."""
        super().__init__()
        self.language_model = language_model
        automatic = str(batch_size).startswith("auto")
        if not automatic and not (str(batch_size).isdecimal() and int(batch_size) > 0):
            raise UserError(f"--batch_size is {batch_size!r}", fix="give a number from 1 up, or auto")
        self.batch_size = AUTOMATIC if automatic else int(batch_size)
        self.max_gen_toks = max_gen_toks
        self._said: set[str] = set()

    @property
    def eot_token_id(self) -> int:
        """Begins what has no context, and ends answers."""
        return end_mark(self.language_model.tokenizer)

    @property
    def max_length(self) -> int:
        """Tokens that the model reads at a time."""
        return self.language_model.config.context_length

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.language_model.model.parameters()).device

    @property
    def tokenizer_name(self) -> str:
        """Part of the key under which lm-eval keeps requests."""
        return self.language_model.tokenizer.digest

    def get_model_info(self) -> dict[str, Any]:
        """Joins the receipt of the results."""
        parameters = list(self.language_model.model.parameters())
        return {
            "model_num_parameters": sum(parameter.numel() for parameter in parameters),
            "model_dtype": str(parameters[0].dtype),
            "model_sha": model_digest(self.language_model.model),
            "bedplate": bedplate.__version__,
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text; ours add no special tokens."""
        return self.language_model.tokenizer.encode(string)

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], **_: Any) -> str:
        """These models continue text."""
        raise UserError("this model has no chat template", fix="leave out --apply_chat_template")

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts in nats: disjoint windows of the context's length, each with one token before it."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows, owners = [], []
        for owner, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            cut = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            windows += [(None, *make_disjoint_window(window)) for window in cut]
            owners += [owner] * (len(windows) - len(owners))
        totals = [0.0] * len(requests)
        for owner, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            totals[owner] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Score continuations, the longest rows first; of rows that are too long the beginning is dropped."""
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        pairs = [self._fitted(context, continuation) for _, context, continuation in requests]
        by_length = sorted(range(len(pairs)), key=lambda place: -sum(map(len, pairs[place])))
        for places in self._batches(by_length, disable_tqdm):
            group = [pairs[place] for place in places]
            scores = score_continuations(self.language_model.model, group, batch_size=len(group))
            for place, score in zip(places, scores, strict=True):
                results[place] = tuple(score)
                if requests[place][0] is not None:  # a window of a longer text has no key of its own
                    self.cache_hook.add_partial("loglikelihood", requests[place][0], results[place])
        return results

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers up to a stop string, all requests with the same settings together."""
        results = [""] * len(requests)
        settings = [self._settings(request.args[1]) for request in requests]
        lengths = [len(self.tok_encode(request.args[0])) for request in requests]
        for length, setting in zip(lengths, settings, strict=True):
            if length > self.max_length - setting["max_new_tokens"]:
                self._say_once("contexts leave no room for an answer: their beginnings are dropped")
        for setting in {repr(setting): setting for setting in settings}.values():
            places = [place for place, other in enumerate(settings) if other == setting]
            for group in self._batches(sorted(places, key=lambda place: -lengths[place]), disable_tqdm):
                prompts = [requests[place].args[0] for place in group]
                answers = self.language_model.generate(prompts, seeds=group, truncate=True, **setting)
                for place, answer in zip(group, answers, strict=True):
                    results[place] = answer.text
                    self.cache_hook.add_partial("generate_until", requests[place].args, answer.text)
        return results

    def _settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A task's generation settings as options of `LanguageModel.generate`."""
        given = dict(given)
        lengths = [value for name in MAX_TOKENS if (value := given.pop(name, None)) is not None]
        until, sample = given.pop("until", None) or [], given.pop("do_sample", None)
        sampling = {"temperature": 0.0} | {name: given.pop(name) for name in Sampling.__annotations__ if name in given}
        if sample is False:
            sampling["temperature"] = 0.0
        if given:
            raise UserError(f"there is no setting {min(given)!r}", fix=nearest(min(given), Sampling.__annotations__))
        length = int(lengths[0]) if lengths else self.max_gen_toks
        if not 0 < length < self.max_length:
            cause = f"answers of {length} tokens leave no room in a context of {self.max_length}"
            raise UserError(cause, fix="set max_gen_toks lower, in --gen_kwargs, in --model_args or in the task")
        stop = [text for text in [until] * isinstance(until, str) or until if text]
        end = self.language_model.tokenizer.tokens[self.eot_token_id]
        return {"max_new_tokens": length, "stop": [*stop, end], **sampling}

    def _fitted(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        if not 0 < len(continuation) <= self.max_length:
            cause = f"a continuation has {len(continuation)} tokens, the context of the model holds {self.max_length}"
            raise UserError(cause, fix="leave this task out")
        room = self.max_length + 1 - len(continuation)  # the last token is only predicted
        if len(context) > room:
            self._say_once("contexts are longer than the model reads: their beginnings are dropped")
        return context[-room:], continuation

    def _batches(self, places: Sequence[int], disable_tqdm: bool) -> Any:
        from tqdm import tqdm

        starts = range(0, len(places), self.batch_size)
        return tqdm([places[start : start + self.batch_size] for start in starts], disable=disable_tqdm, unit="batch")

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            logger.warning(message)


def model_class(load: Load) -> type:
    """The class that lm-eval knows as `bedplate`; `load` opens its `target`."""
    require("lm_eval", extra="eval")
    from lm_eval.api.model import TemplateLM

    class Bedplate(Adapter, TemplateLM):
        def __init__(self, target: str = "", *, dtype: str = "float32", device: str | None = None, **options: Any):
            super().__init__(_open(load, target, dtype, options), **options)
            if device and (torch.cuda.is_available() or not device.startswith("cuda")):  # lm-eval's default: cuda:0
                self.language_model.model.to(device)

    return Bedplate


def _open(load: Load, target: str, dtype: str, options: dict[str, Any]) -> Any:
    """The model that --model_args names; takes out of `options` what only other models of lm-eval need."""
    known = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
    names = ("target", "dtype", "device", "batch_size", "max_gen_toks")
    options.pop("max_batch_size", None)
    if unknown := sorted(options.keys() - set(names)):
        raise UserError(f"--model_args has no {unknown[0]!r}", fix=nearest(unknown[0], names))
    if dtype not in known:
        raise UserError(f"there is no number format {dtype!r}", fix=nearest(dtype, known))
    if not target:
        raise UserError("no model is named", fix="add --model_args target=MODEL: a run, a folder or a shipped name")
    return load(target, dtype=known[dtype])


def run(words: Sequence[str], load: Load) -> None:
    """lm-eval's own command line, with `--model bedplate` added: it looks for models in its own package only."""
    model = model_class(load)
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import model_registry

    if "bedplate" not in model_registry:
        model_registry.register("bedplate", target=model)
    before, sys.argv = sys.argv, ["bedplate lm-eval", *words]
    try:
        cli_evaluate()
    except ValueError as error:
        if str(error).startswith("Tasks not found"):
            raise UserError(str(error), fix="list them with: bedplate lm-eval ls tasks") from error
        raise
    finally:
        sys.argv = before
