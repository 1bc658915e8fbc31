"""`bedplate plan`: what a training run will take, before it is started: memory, time, messages, energy.

The formulas are those of the page `docs/guides/plan.md`, which also compares them with published runs.
"""

from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any

from bedplate.bench.devices import Device
from bedplate.bench.shape import Shape, shape_of
from bedplate.errors import UserError, nearest
from bedplate.nn.fast.linear_cross_entropy import ROWS
from bedplate.recipes.recipe import Recipe

STRATEGIES = {
    "ddp": "every rank holds everything",
    "zero1": "ranks share the moments",
    "zero2": "ranks share moments and gradients",
    "fsdp": "ranks share moments, gradients and weights (ZeRO-3)",
    "tp": "ranks split every layer (tensor parallel)",
}
BYTES = {"fp32": 4, "bf16": 2}
SHARED = {"zero1": ("optimizer",), "zero2": ("optimizer", "gradients"), "fsdp": ("optimizer", "gradients", "weights")}
TIMES = (("days", 24), ("h", 1), ("minutes", 1 / 60))
HEADROOM = 0.05  # of the device's memory, left free


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training job: what is trained, on what, and how it is spread."""

    shape: Shape
    device: Device
    gpus: int = 1
    batch: int = 32  # sequences an update
    micro_batch: int = 0  # sequences that a rank holds at a time; 0: all of its share
    length: int = 0  # tokens a sequence; 0: the context length
    precision: str = "bf16"
    strategy: str = "ddp"
    tensor: int = 1  # ranks that split every layer
    pipeline: int = 1  # ranks that hold different blocks
    checkpointing: bool = False
    masters: bool = False  # weights and gradients in bf16, float32 masters with the moments, as Megatron has them
    utilization: float = 0.0  # share of the matrix rate; 0: what the device usually reaches
    tokens: float = 0.0  # of the whole run; 0: one update

    def __post_init__(self) -> None:
        for name in ("gpus", "batch", "tensor", "pipeline"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} makes no job", fix="give a number from 1 up")
        if self.strategy not in STRATEGIES:
            raise UserError(f"there is no strategy {self.strategy!r}", fix=nearest(self.strategy, STRATEGIES))
        if self.precision not in BYTES or not self.device.rates.get(self.precision):
            raise UserError(
                f"{self.device.name} has no rate in {self.precision!r}", fix=f"use one of {', '.join(BYTES)}"
            )
        if not 0 <= self.utilization <= 1:
            raise UserError(f"utilization {self.utilization} is no share", fix="give a number above 0 and up to 1")
        if self.gpus % (self.split * self.pipeline):
            cause = f"{self.gpus} devices cannot be split into {self.split} x {self.pipeline}"
            raise UserError(cause, fix=f"use a multiple of {self.split * self.pipeline} devices")
        if self.pipeline > self.shape.num_layers:
            cause = f"{self.shape.num_layers} blocks cannot be spread over {self.pipeline} devices"
            raise UserError(cause, fix=f"use --pipeline {self.shape.num_layers} or less")
        if self.masters and self.precision != "bf16":
            raise UserError("float32 masters go with weights in bf16", fix="leave --masters out, or use bf16")
        if not 0 <= self.tokens < inf:
            raise UserError(f"tokens={self.tokens} is no number of tokens", fix="give a number such as 300e9")
        if self.shape.positions and self.window > self.shape.context_length:
            cause = f"{self.window} tokens are more than the {self.shape.context_length} positions of the model"
            raise UserError(cause, fix=f"use --length {self.shape.context_length} or less")
        if self.shape.num_heads % self.split:
            cause = f"{self.shape.num_heads} heads cannot be split over {self.split} devices"
            raise UserError(cause, fix="choose a number that divides the number of heads")
        if self.batch < self.replicas:
            cause = f"a batch of {self.batch} gives nothing to some of {self.replicas} ranks"
            raise UserError(cause, fix=f"use a batch of at least {self.replicas}")

    @property
    def split(self) -> int:
        """Over how many ranks every layer is split."""
        return self.gpus if self.strategy == "tp" else self.tensor

    @property
    def share(self) -> float:
        """Of the matrix rate, that is assumed to be reached; the device's usual share is of the time not waited."""
        return self.utilization or self.device.utilization * (1 - self.idle)

    @property
    def idle(self) -> float:
        """Share of the time that ranks wait for others in the pipeline (Narayanan et al. 2021, section 2.2)."""
        return (self.pipeline - 1) / (self.rounds + self.pipeline - 1)

    @property
    def held(self) -> float:
        """Share of the blocks on the ranks of a pipeline that hold most."""
        return ceil(self.shape.num_layers / self.pipeline) / self.shape.num_layers

    @property
    def replicas(self) -> int:
        """How many groups of ranks see different sequences."""
        return self.gpus // (self.split * self.pipeline)

    @property
    def sequences(self) -> int:
        """Sequences that a rank holds at a time."""
        share = ceil(self.batch / self.replicas)
        return min(self.micro_batch or share, share)

    @property
    def state(self) -> dict[str, int]:
        """Bytes a parameter: bedplate keeps all of it in float32."""
        gradients, optimizer = (2, 12) if self.masters else (4, 8)
        return {"weights": gradients, "gradients": gradients, "optimizer": optimizer}

    @property
    def stream(self) -> int:
        """Bytes of a number on the residual path, which autocast leaves in float32."""
        return BYTES[self.precision] if self.masters else 4

    @property
    def rounds(self) -> int:
        """Micro-batches of an update."""
        return ceil(self.batch / (self.replicas * self.sequences))

    @property
    def window(self) -> int:
        """Tokens a sequence."""
        return self.length or self.shape.context_length


def job_of(recipe: Recipe, device: Device, **given: Any) -> Job:
    """What a recipe will do on a device; `given` replaces fields."""
    length = given.get("length") or recipe.model.context_length
    usual: dict[str, Any] = {
        "batch": recipe.batch_size,
        "micro_batch": recipe.micro_batch_size,
        "precision": recipe.precision,
        "tokens": recipe.steps * recipe.batch_size * length,
    }
    return Job(shape=shape_of(recipe.model), device=device, **usual | given)


def memory(job: Job) -> dict[str, float]:
    """GB on each device, by term; `peak` is the most that is held at once, which is less than the sum.

    Gradients come while activations go, so an update of one micro-batch has its peak either where the backward pass
    begins or where it ends. Dropout's masks and messages under way are not counted.
    """
    shape, size, tokens = job.shape, BYTES[job.precision], job.sequences * job.window
    held, embedding = shape.parameters * job.held / job.split, shape.embedding / job.split
    shares = {name: job.replicas if name in SHARED.get(job.strategy, ()) else 1 for name in job.state}
    terms = {name: held * each / shares[name] for name, each in job.state.items()}
    autocast, copies = job.stream != size, 0.0
    if shares["weights"] > 1:  # two blocks together, and the embedding from beginning to end
        copies = size * (2 * shape.block / job.split + embedding)
    elif autocast:  # of all matrices in blocks, kept for the backward pass
        copies = size * _layers(job) * shape.block_matrix / job.split
    chunk = min(ROWS, tokens) * shape.vocab_size / job.split * (8 + (size if autocast else 0))
    head = 4 * embedding + chunk + (size * embedding if autocast else 0)
    terms |= {"activations": activations(job), "output layer and loss": head, "copies of weights": copies}
    resting = terms["weights"] + terms["optimizer"] + copies
    accumulating = terms["gradients"] if job.rounds > 1 else 0.0
    around = tokens * shape.block_gradients(size, stream=job.stream, split=job.split)
    forward = resting + accumulating + terms["activations"] + max(head, 8 * embedding + around)
    backward = resting + terms["gradients"] + 4 * embedding
    terms["process"] = job.device.process * 1e9
    terms["peak"] = max(forward, backward) + terms["process"]
    return {name: value / 1e9 for name, value in terms.items()}


def activations(job: Job) -> float:
    """Bytes that blocks keep for their backward pass; with checkpointing, their inputs and one block's own."""
    tokens = job.sequences * job.window
    sizes = {"stream": job.stream, "length": job.window, "split": job.split}
    block = tokens * job.shape.block_activations(BYTES[job.precision], **sizes)
    inputs = tokens * job.shape.dim * job.stream
    under_way = min(job.pipeline, job.rounds)  # micro-batches that the first ranks of a pipeline hold
    return under_way * _layers(job) * inputs + block if job.checkpointing else under_way * _layers(job) * block


def _layers(job: Job) -> int:
    return ceil(job.shape.num_layers / job.pipeline)


def seconds_of_update(job: Job) -> float:
    """How long an update takes at the assumed utilization (waiting for messages and for a pipeline included)."""
    per_token = job.shape.operations(job.window)
    if job.checkpointing:
        per_token += job.shape.recomputed_operations(job.window)
    rate = job.gpus * job.device.rates[job.precision] * 1e12 * job.share
    return per_token * job.batch * job.window / rate


def mfu(job: Job, seconds: float, *, rate: float = 0.0) -> float:
    """Model FLOPs utilization (PaLM, appendix B) of an update in so many seconds: recomputation does not count."""
    peak = job.gpus * (rate or job.device.rates[job.precision]) * 1e12
    return job.shape.operations(job.window) * job.batch * job.window / (seconds * peak)


def messages(job: Job) -> dict[str, float]:
    """GB that each rank sends in an update, by purpose (rings: Rajbhandari et al. 2020, section 7)."""
    shape, size, n = job.shape, BYTES[job.precision], job.replicas
    held = shape.parameters * job.held / job.split
    ring = (n - 1) / n
    sent: dict[str, float] = {}
    if n > 1 and job.strategy == "fsdp":  # gradients rest unsharded until the last micro-batch
        sent = {
            "weights gathered": 2 * job.rounds * ring * held * size,
            "gradients scattered": ring * held * job.state["gradients"],
        }
    elif n > 1:
        sent = {"gradients added up": 2 * ring * held * job.state["gradients"]}
    width = job.sequences * job.window * shape.dim * size
    if job.split > 1:
        passes = (6 if job.checkpointing else 4) * job.rounds * _layers(job)
        sent["parts of layers added up"] = passes * 2 * (job.split - 1) / job.split * width
    if job.pipeline > 1:
        sent["between blocks"] = 2 * job.rounds * width
    return {name: value / 1e9 for name, value in sent.items()}


def largest_micro_batch(job: Job) -> int:
    """The most sequences, a power of two, that fit at a time; 0 when not one does."""
    best, sequences = 0, 1
    room = job.device.memory * (1 - HEADROOM)
    while sequences <= max(1, job.batch // job.replicas):
        if memory(replace(job, micro_batch=sequences))["peak"] > room:
            break
        best, sequences = sequences, 2 * sequences
    return best


def plan(job: Job) -> dict[str, Any]:
    """Everything of a job in two tables, `memory` and `work`, whether it `fits`, and what to do (`advice`)."""
    needed = memory(job)
    advice = _advice(job, needed["peak"])
    other = replace(job, checkpointing=not job.checkpointing)
    needed[f"activations, {'with' if other.checkpointing else 'without'} checkpointing"] = activations(other) / 1e9
    return {
        "memory": [{"on each device": name, "GB": value} for name, value in needed.items()],
        "work": [{"what": name, "value": value, "unit": unit} for name, unit, value in _work(job)],
        "fits": needed["peak"] <= job.device.memory * (1 - HEADROOM),
        "advice": advice,
    }


def _work(job: Job) -> list[tuple[str, str, float]]:
    shape, device, sent, seconds = job.shape, job.device, messages(job), seconds_of_update(job)
    per_update = job.batch * job.window
    updates = job.tokens / per_update if job.tokens else 1
    what = "the run" if job.tokens else "an update"
    rows: list[tuple[str, str, float]] = [
        ("parameters", "", shape.parameters),
        ("operations a token, weights", "GFLOP", shape.dense_operations() / 1e9),
        ("operations a token, attention", "GFLOP", shape.attention_operations(job.window) / 1e9),
        (f"operations, {what}", "FLOP", shape.operations(job.window) * per_update * updates),
        ("tokens an update", "", per_update),
        ("share of matrix rate, assumed", "%", 100 * job.share),
        ("model FLOPs utilization", "%", 100 * mfu(job, seconds)),
        ("tokens a second, all devices", "", per_update / seconds),
        ("seconds an update", "s", seconds),
        *((f"sent by a rank: {name}", "GB", value) for name, value in sent.items()),
    ]
    if sent and device.link:
        rows.append(("sending all that, if nothing else ran", "s", sum(sent.values()) / device.link))
    if job.pipeline > 1:
        rows.append(("of it waiting in the pipeline", "%", 100 * job.idle))
    hours = updates * seconds / 3600
    if job.tokens:
        unit, length = next(each for each in TIMES if hours >= 2 * each[1] or each == TIMES[-1])
        rows += [("time of the run", unit, hours / length), ("device hours", "h", hours * job.gpus)]
    if device.watts:
        rows.append((f"energy, {what} (rated power, no cooling)", "kWh", hours * job.gpus * device.watts / 1000))
    saved = (job.state["weights"] + job.state["optimizer"]) * shape.parameters
    held = shape.held(BYTES[job.precision], job.window)
    rows.append(("checkpoint: weights and optimizer", "GB", saved / 1e9))
    rows.append((f"held of {job.window} tokens when generating", "GB", held / 1e9))
    return rows


def _advice(job: Job, peak: float) -> str:
    room = job.device.memory * (1 - HEADROOM)
    if peak <= room:
        return f"fits: {peak:.1f} of {job.device.memory:.0f} GB (largest micro-batch: {largest_micro_batch(job)})"
    problem = f"does not fit: {peak:.1f} GB of {job.device.memory:.0f}"
    options: list[tuple[str, dict[str, Any]]] = [("", {}), (" --checkpointing", {"checkpointing": True})]
    if job.replicas > 1:
        options += [(f" --parallel fsdp{words}", change | {"strategy": "fsdp"}) for words, change in options]
    for words, change in options:
        if found := largest_micro_batch(replace(job, **change)):
            return f"{problem}; use --micro-batch {found}{words}"
    return f"{problem}; use more devices with --parallel fsdp"
