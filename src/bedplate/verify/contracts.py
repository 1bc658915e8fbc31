"""The numeric contracts: equalities that hold for every right implementation, measured on a given model.

Each contract returns the pairs of tensors that must agree and the bound. Arithmetic contracts run in float64, where a
mistake is far larger than rounding; contracts about files and resuming ask for equal bits.
"""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bedplate.errors import UserError
from bedplate.generate.engine import Engine, Request
from bedplate.generate.prompt import reads_a_source
from bedplate.generate.sample import Sampling
from bedplate.generate.text import Generation, IdsOnly
from bedplate.models import build, from_pretrained, save_pretrained
from bedplate.objectives.objective import Objective
from bedplate.train.checkpoint import TRAINING, list_checkpoints
from bedplate.train.loop import Settings, accumulate, train
from bedplate.train.optimizer import AdamW
from bedplate.train.parallel import Work
from bedplate.verify.inputs import NotApplicable, context_of, double, random_batch, random_ids
from bedplate.verify.reference import equals_reference
from bedplate.verify.trace import Pairs, largest_error, recording
from bedplate.verify.writing import FixedBatch, as_decoder, objective_of, with_source

ROUNDING = 1e-10  # float64, relative to the largest value: some 10^5 units in the last place
EQUAL_BITS = 0.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    contract: str
    error: float | None
    bound: float | None
    verdict: str  # pass, fail, not applicable
    detail: str = ""  # the first tensor that differs, or why the contract does not apply


@dataclass(frozen=True, kw_only=True)
class Contract:
    """A name, a bound, and a function that computes what must agree."""

    name: str
    bound: float
    pairs: Callable[[nn.Module], Pairs]


def verify(model: nn.Module, *, watch: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """Measure every contract of its kind on a causal language model, which is left as it was."""
    from bedplate.verify.encoders import ENCODER_CONTRACTS

    rows = []
    for contract in CONTRACTS if hasattr(model, "new_state") else ENCODER_CONTRACTS:
        rows.append(check(contract, model))
        watch(rows[-1])
    return rows


def check(contract: Contract, model: nn.Module) -> Row:
    """Measure one contract."""
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            error, first = largest_error(contract.pairs(model), contract.bound)
    except NotApplicable as reason:
        return Row(contract=contract.name, error=None, bound=None, verdict="not applicable", detail=str(reason))
    except UserError as mistake:  # such as a saved folder that lacks a tensor: red, not the end of the table
        return Row(contract=contract.name, error=inf, bound=contract.bound, verdict="fail", detail=str(mistake))
    verdict = "fail" if error > contract.bound else "pass"
    detail = f"first difference: {first}" if first else ""
    return Row(contract=contract.name, error=error, bound=contract.bound, verdict=verdict, detail=detail)


def cached_equals_uncached(model: Any) -> Pairs:
    """One forward pass over a sequence = a prefill, a chunk and single tokens through the cache."""
    model = as_decoder(double(model))
    ids = random_ids(model, (2, min(24, context_of(model))))
    half = ids.shape[1] // 2
    with torch.no_grad(), recording(model) as whole:
        model(ids)
    state = model.new_state(2, capacity=ids.shape[1])
    with torch.no_grad(), recording(model) as cached:
        for part in (ids[:, :half], ids[:, half : half + 3], *ids[:, half + 3 :].split(1, dim=1)):
            model(part, state=state)
    expected = whole.joined()
    return [(name, actual, expected[name]) for name, actual in cached.joined().items()]


def batched_equals_single(model: Any) -> Pairs:
    """Sequences of different lengths decoded together = each alone."""
    model = as_decoder(double(model))
    new = 3
    lengths = torch.tensor([min(length, context_of(model) - new) for length in (2, 11, 7)])
    if context_of(model) < 6:
        raise NotApplicable("sequences of different lengths need a context of 6 tokens")
    ids = random_ids(model, (3, int(lengths.max()) + new))
    state = model.new_state(3, capacity=ids.shape[1])
    with torch.no_grad():
        _read_ragged(model, ids, lengths.tolist(), state)
        with recording(model) as batched:
            for step in range(new):
                model(ids.gather(1, lengths[:, None] + step), state=state)
    pairs: Pairs = []
    for row, length in enumerate(lengths.tolist()):
        with torch.no_grad(), recording(model) as single:
            model(ids[row : row + 1, : length + new])
        alone = single.joined()
        together = {name: value[row : row + 1] for name, value in batched.joined().items()}
        pairs += [(f"{name} of sequence {row}", value, alone[name][:, length:]) for name, value in together.items()]
    return pairs


def _read_ragged(model: Any, ids: Tensor, lengths: list[int], state: list[Any]) -> None:
    """Bring sequences of different lengths into one state: all at once and cut back, or where a state cannot go back
    each by itself.
    """
    if all(layer.goes_back for layer in state):
        model(ids[:, : max(lengths)], state=state)
        for layer in state:
            layer.truncate(lengths)
    else:
        for row, length in enumerate(lengths):
            model(ids[row : row + 1, :length], state=[layer.view([row]) for layer in state])


def served_equals_alone(model: Any) -> Pairs:
    """Requests that join and leave an engine = each in an engine of its own: tokens and log-probabilities, in float32
    with the weights packed as for decoding, bit for bit.
    """
    if context_of(model) < 6:
        raise NotApplicable("requests that overlap need a context of 6 tokens")
    model = copy.deepcopy(model).float()
    new = min(6, context_of(model) // 2)
    lengths = [min(length, context_of(model) - new) for length in (5, 300, 1, 17, 140, 3)]
    prompts = [random_ids(model, (1, length))[0].tolist() for length in lengths]
    drawn = Sampling(temperature=1.0, top_p=0.9)
    samplings = [drawn, Sampling(temperature=0)] * 3
    requests = [
        Request(prompt=prompt, max_new_tokens=new - place % 2, sampling=sampling, seed=place)
        for place, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True))
    ]
    together = _served(model, requests, slots=3)
    pairs: Pairs = []
    for place, request in enumerate(requests):
        (alone,) = _served(model, [request], slots=1)
        for name in ("ids", "logprobs"):
            ours, expected = (torch.tensor(getattr(each, name)).double() for each in (together[place], alone))
            pairs.append((f"{name} of request {place}", ours, expected))
    return pairs


def _served(model: Any, requests: list[Request], *, slots: int) -> list[Generation]:
    """Requests handed in two at a time, one step apart."""
    engine = Engine(model, IdsOnly(model.config.vocab_size), slots=slots)
    coming, numbers, results = list(requests), [], {}
    while coming or engine.busy:
        numbers += [engine.submit(request) for request in coming[:2]]
        del coming[:2]
        results |= {update.number: update.generation for update in engine.step() if update.generation}
    return [results[number] for number in numbers]


def packed_equals_unpacked(model: nn.Module) -> Pairs:
    """Documents packed into one row = each in a row of its own."""
    if reads_a_source(model):
        raise NotApplicable("pairs of source and target are not packed")
    model = double(model)
    if context_of(model) < 3:
        raise NotApplicable("three packed documents need a context of 3 tokens")
    lengths = [min(length, context_of(model) // 3) for length in (9, 1, 5)]
    ids = random_ids(model, (1, sum(lengths)))
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    with torch.no_grad(), recording(model) as packed:
        model(ids, documents=documents)
    pairs: Pairs = []
    for index, part in enumerate(ids.split(lengths, dim=1)):
        with torch.no_grad(), recording(model) as alone:
            model(part)
        start = sum(lengths[:index])
        row = {name: value[:, start : start + lengths[index]] for name, value in packed.joined().items()}
        pairs += [(f"{name} of document {index}", row[name], value) for name, value in alone.joined().items()]
    return pairs


def accumulated_equals_whole(model: nn.Module) -> Pairs:
    """Gradients of a batch computed row by row = at once, also when rows count different numbers of tokens."""
    batch = with_source(model, random_batch(model, rows=4))
    batch["targets"][1, 2:] = -100
    return accumulated_as_whole(model, objective_of(model), batch)


def accumulated_as_whole(model: nn.Module, objective: Objective, batch: dict[str, Tensor]) -> Pairs:
    """The same of any objective and batch of four rows."""
    model = double(model)
    gradients = [_gradients(model, objective, batch, micro_batch_size=size) for size in (1, 4)]
    return [(f"gradient of {name}", gradients[0][name], value) for name, value in gradients[1].items()]


def loaded_equals_saved(model: nn.Module) -> Pairs:
    """A folder written and read again holds the same bits."""
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, Path(folder))
        dtype = next(model.parameters()).dtype
        loaded = from_pretrained(Path(folder), dtype=dtype).state_dict()
        return [(name, loaded[name].double(), value.double()) for name, value in model.state_dict().items()]


def resumed_equals_uninterrupted(model: nn.Module) -> Pairs:
    """Training stopped and resumed from its checkpoint = never stopped: weights and optimizer, bit for bit."""
    batch = with_source(model, random_batch(model, rows=2))
    return resumed_as_uninterrupted(model, objective_of(model), batch, dims=1)


def resumed_as_uninterrupted(model: nn.Module, objective: Objective, batch: dict[str, Tensor], *, dims: int) -> Pairs:
    """The same of any objective and batch, which each step turns along `dims`."""
    settings = Settings(steps=4, micro_batch_size=2, optimizer=AdamW(lr=1e-3), checkpoint_every=2)
    source = FixedBatch(batch, dims)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        straight = copy.deepcopy(model).float().requires_grad_(True)
        train(straight, source, objective, settings=settings, folder=folder)
        last = list_checkpoints(folder)[-1]
        expected = load_file(last / TRAINING)
        last.rename(folder / "kept")
        resumed = build(model.config)
        train(resumed, source, objective, settings=settings, folder=folder, resume=True)
        actual = load_file(list_checkpoints(folder)[-1] / TRAINING)
    weights = resumed.state_dict()
    pairs: Pairs = [(name, weights[name], value) for name, value in straight.state_dict().items()]
    return pairs + [(f"optimizer {name}", actual[name], value) for name, value in expected.items()]


CONTRACTS = (
    Contract(name="cached = uncached", bound=ROUNDING, pairs=cached_equals_uncached),
    Contract(name="batched = single", bound=ROUNDING, pairs=batched_equals_single),
    Contract(name="served = alone", bound=EQUAL_BITS, pairs=served_equals_alone),
    Contract(name="packed = unpacked", bound=ROUNDING, pairs=packed_equals_unpacked),
    Contract(name="accumulated = whole batch", bound=ROUNDING, pairs=accumulated_equals_whole),
    Contract(name="loaded = saved", bound=EQUAL_BITS, pairs=loaded_equals_saved),
    Contract(name="resumed = uninterrupted", bound=EQUAL_BITS, pairs=resumed_equals_uninterrupted),
    Contract(name="reference", bound=ROUNDING, pairs=equals_reference),
)


def _gradients(
    model: nn.Module, objective: Objective, batch: dict[str, Tensor], *, micro_batch_size: int
) -> dict[str, Tensor]:
    model.zero_grad()
    sums = accumulate(Work(model), objective, batch, 0, Settings(steps=1, micro_batch_size=micro_batch_size))
    return {name: p.grad.clone() / sums["count"].item() for name, p in model.named_parameters() if p.grad is not None}
