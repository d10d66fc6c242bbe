"""How a model is trained, so that somebody else can check it: one job, one sequence of states.

Everything that changes during training is in a `State` of canonical bytes (`states`): the step counter, the
parameters, what the optimiser remembers. The order of the batches is no state: it is a pure function of the
round's public seed, the member and the epoch. So any segment of a training can be repeated from the state at
its start, without what came before. Knows nothing of peers, rounds or blocks.

    states[0] --16 steps--> states[1] --16 steps--> states[2] --the rest--> states[-1]
     the base                                                                the result
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consensus import merkle
from consensus.types import Digest
from p2pfl.errors import PeerFault, UserError
from p2pfl.learn import chance
from p2pfl.learn.models import architecture, layout
from p2pfl.learn.numerics import device_of, pinned_torch
from p2pfl.learn.optimizers import Optimizer, Rates, optimizer
from p2pfl.learn.states import State, decode_state, encode_state, start_state, trace_leaves
from p2pfl.learn.task import task

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

# A loss that nobody counts on may be measured on a part of a large training set.
LOSS_SAMPLES_MAX = 1024
# One forward pass takes this many samples, so that activations fit into the cache.
EVALUATION_BATCH = 256
# What a loss is recorded as that is larger than this or not a number: it fits a uint32.
LOSS_MICRO_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True, eq=False)
class TrainJob:
    """All that a training depends on.

    parameters: the base, float32, shape (layout.size,). x: float32, shape (samples, *input_shape);
    y: int64 in [0, classes). seed: the round's public seed, 32 bytes; member: 20 bytes.
    steps: how many, or None for `epochs` passes over the samples. optimizer: name in the table; momentum,
    second_moment and epsilon are its rates. proximal: mu of FedProx (Li et al. 2020): the gradient is that of
    loss + mu/2 |parameters - base|^2. device: "cpu", "cuda" or "cuda:N": where, which is no part of the task.
    gradient_norm_max: a longer gradient is shortened to it (inf: never). Without it, one honest update in
    200 was more than four times as long as the others of its group, and would have been left out.
    The defaults: 12 members, Dirichlet 0.5, plain averaging, 10 rounds on digits reach 0.97 with the cnn.
    """

    model: str
    input_shape: tuple[int, ...]
    classes: int
    parameters: Float32
    x: Float32
    y: Int64
    seed: bytes
    member: bytes
    epochs: int = 2
    steps: int | None = None
    batch_size: int = 16
    learning_rate: float = 0.05
    momentum: float = 0.9
    gradient_norm_max: float = 2.0
    trace_every: int = 16
    keep_states: bool = False
    optimizer: str = "momentum"
    second_moment: float = 0.999
    epsilon: float = 1e-8
    proximal: float = 0.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.x.dtype != np.float32 or self.x.shape != (len(self.y), *self.input_shape) or not len(self.y):
            raise ValueError(f"x must be float32 of shape (samples, {self.input_shape}), at least one")
        if self.y.dtype != np.int64 or self.y.min() < 0 or self.y.max() >= self.classes:
            raise ValueError(f"y must be int64 in [0, {self.classes})")
        if self.parameters.dtype != np.float32 or self.parameters.ndim != 1:
            raise ValueError("parameters must be one flat float32 vector")
        if len(self.seed) != 32 or len(self.member) != 20:
            raise ValueError("the seed has 32 bytes and the member's id 20")
        if min(self.epochs, self.batch_size, self.trace_every, 1 if self.steps is None else self.steps) < 1:
            raise ValueError("epochs, steps, batch_size and trace_every must be positive")

    @property
    def steps_total(self) -> int:
        """How many steps the training has."""
        return self.steps if self.steps is not None else self.epochs * -(-len(self.y) // self.batch_size)

    @property
    def segments(self) -> int:
        """How many segments its trace has: one less than it has states."""
        return -(-self.steps_total // self.trace_every)

    @property
    def moments(self) -> int:
        """How many vectors the optimiser remembers. Raises UserError for an unknown one."""
        return len(self.optimizer_made().moments)

    def optimizer_made(self) -> Optimizer:
        """The optimiser with its rates. Raises UserError for an unknown one."""
        rates = Rates(self.learning_rate, self.momentum, self.second_moment, self.epsilon)
        return optimizer.find(self.optimizer)(rates)


@dataclass(frozen=True, slots=True, eq=False)
class TrainResult:
    """What a training yields.

    parameters: float32, flat. trace: SHA-256 of each state; trace_root: the RFC 9162 root over those.
    states: the canonical bytes of each state, only if the job keeps them: they are large (with momentum
    twice the model), and the same job gives the same ones again when somebody asks.
    """

    parameters: Float32
    states: list[bytes]
    trace: tuple[bytes, ...]
    trace_root: Digest
    samples: int
    steps: int
    loss_before_micro: int
    loss_after_micro: int


@task("train")
def train(job: TrainJob) -> TrainResult:
    """Train. The same job gives the same bits on the same kind of machine.

    Raises UserError when training leaves the finite numbers: then there is no update in this round.
    """
    trainer = _Trainer(job)
    trainer.load(decode_state(start_state(job.parameters, job.moments), len(job.parameters)))
    picked = spread(len(job.y), LOSS_SAMPLES_MAX)
    before = trainer.loss(picked)
    states: list[bytes] = []
    trace: list[bytes] = []
    for segment in range(job.segments + 1):
        if segment:
            trainer.run_segment(segment - 1)
        state = encode_state(trainer.state())
        trace += trace_leaves([state])
        if job.keep_states:
            states.append(state)
    parameters = trainer.state().parameters
    return TrainResult(
        parameters, states, tuple(trace), merkle.root(trace), len(job.y), job.steps_total,
        _micro(before), _micro(trainer.loss(picked)),
    )  # fmt: skip


@task("replay_segment")
def replay_segment(job: TrainJob, state: bytes, segment: int) -> bytes:
    """Repeat one segment from the state at its start; the state at its end.

    The job's own parameters matter for a proximal term only. Raises PeerFault when the bytes are not a state
    of this model at the start of this segment, or lead out of the finite numbers.
    """
    if not 0 <= segment < job.segments:
        raise PeerFault("bad_state", f"there is no segment {segment} of {job.segments}")
    trainer = _Trainer(job)
    start = decode_state(state, trainer.coordinates)
    if start.step != segment * job.trace_every:
        raise PeerFault("bad_state", f"segment {segment} does not start at step {start.step}")
    if len(start.moments) != job.moments:
        raise PeerFault("bad_state", f"{job.optimizer!r} does not remember {len(start.moments)} vectors")
    trainer.load(start)
    trainer.run_segment(segment)
    try:
        return encode_state(trainer.state())
    except UserError as error:
        raise PeerFault("bad_state", str(error)) from error


@task("evaluate")
def evaluate(
    model: str,
    input_shape: tuple[int, ...],
    classes: int,
    parameters: Float32,
    x: Float32,
    y: Int64,
    device: str = "cpu",
) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (share of right answers) over these samples."""
    torch, where = pinned_torch(), device_of(device)
    forward = architecture(model, input_shape, classes).forward
    parts = layout(model, input_shape, classes).unflatten(parameters)
    tensors = [torch.tensor(part, device=where) for part in parts]
    loss, right = _evaluate(forward, tensors, torch.tensor(x, device=where), torch.tensor(y, device=where))
    return loss / len(y), right / len(y)


@task("warm")
def warm(device: str = "cpu") -> None:
    """Import torch and run every kernel once, so that the first job is as quick as the others.

    Raises UserError when there is no such device.
    """
    shape, samples = (1, 8, 8), 4
    x, y = np.zeros((samples, *shape), dtype=np.float32), np.zeros(samples, dtype=np.int64)
    parameters = np.zeros(layout("cnn", shape, 10).size, dtype=np.float32)
    train(TrainJob("cnn", shape, 10, parameters, x, y, seed=bytes(32), member=bytes(20), device=device))


def batches(job: TrainJob, first: int, last: int) -> Iterator[Int64]:
    """Which samples the steps first, first + 1, .. last - 1 learn from.

    Each epoch goes once over the samples, in an order drawn from the seed, the member and the epoch;
    its last batch may be smaller.
    """
    per_epoch = -(-len(job.y) // job.batch_size)
    for epoch in range(first // per_epoch, -(-last // per_epoch)):
        order = chance.shuffled(len(job.y), chance.words("batch order", job.seed, job.member, epoch))
        start = epoch * per_epoch
        for step in range(max(first, start), min(last, start + per_epoch)):
            yield order[(step - start) * job.batch_size : (step - start + 1) * job.batch_size]


# ---------------------------------------------------------------------------
# Torch.


class _Trainer:
    """Steps on flat buffers of the job's device; the model's tensors and their gradients are views of it."""

    def __init__(self, job: TrainJob) -> None:
        torch, where = pinned_torch(), device_of(job.device)
        tensors = layout(job.model, job.input_shape, job.classes)
        made = job.optimizer_made()
        self.job = job
        self.coordinates = tensors.size
        self._forward = architecture(job.model, job.input_shape, job.classes).forward
        self._optimize = made.step
        self._x, self._y = torch.tensor(job.x, device=where), torch.tensor(job.y, device=where)
        self._step = 0
        self._base = torch.tensor(job.parameters, device=where) if job.proximal else None
        self._parameters = torch.zeros(tensors.size, device=where)
        self._gradient = torch.zeros(tensors.size, device=where)
        self._moments = [torch.zeros(tensors.size, device=where) for _ in made.moments]
        self._tensors: list[Any] = []
        for part, spec in zip(tensors.slices(), tensors.tensors, strict=True):
            tensor = self._parameters[part].view(spec.shape).detach().requires_grad_()
            tensor.grad = self._gradient[part].view(spec.shape)
            self._tensors.append(tensor)

    def load(self, state: State) -> None:
        """Go on from this state."""
        torch = pinned_torch()
        self._step = state.step
        with torch.no_grad():
            self._parameters.copy_(torch.tensor(state.parameters))
            for ours, theirs in zip(self._moments, state.moments, strict=True):
                ours.copy_(torch.tensor(theirs))

    def state(self) -> State:
        """Where training is (copies). Raises UserError when a number is not finite."""
        parameters, *moments = (each.cpu().numpy().copy() for each in (self._parameters, *self._moments))
        if not all(np.isfinite(each).all() for each in (parameters, *moments)):
            raise UserError(
                "training diverged",
                because=f"after step {self._step} a parameter or a moment of the optimiser is not finite",
                fix=f"lower the learning rate (it is {self.job.learning_rate}) or look at the data",
            )
        return State(self._step, parameters, tuple(moments))

    def run_segment(self, segment: int) -> None:
        """The steps of this segment."""
        torch, job = pinned_torch(), self.job
        first = segment * job.trace_every
        for samples in batches(job, first, min(first + job.trace_every, job.steps_total)):
            picked = torch.from_numpy(samples).to(self._x.device)
            logits = self._forward(self._tensors, self._x[picked])
            self._gradient.zero_()
            torch.nn.functional.cross_entropy(logits, self._y[picked]).backward()
            self._step += 1
            with torch.no_grad():
                if self._base is not None:
                    self._gradient.add_(self._parameters - self._base, alpha=job.proximal)
                norm = torch.linalg.vector_norm(self._gradient)
                self._gradient.mul_((job.gradient_norm_max / norm).clamp(max=1))
                self._optimize(self._parameters, self._gradient, self._moments, self._step)

    def loss(self, picked: Int64) -> float:
        """Mean cross-entropy over these samples."""
        index = pinned_torch().from_numpy(picked).to(self._x.device)
        return _evaluate(self._forward, self._tensors, self._x[index], self._y[index])[0] / len(picked)


def _evaluate(forward: Any, tensors: Sequence[Any], x: Any, y: Any) -> tuple[float, int]:
    """Sum of the losses and number of right answers."""
    torch = pinned_torch()
    loss, right = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(y), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            logits = forward(tensors, x[part])
            loss += float(torch.nn.functional.cross_entropy(logits, y[part], reduction="sum"))
            right += int((logits.argmax(1) == y[part]).sum())
    return loss, right


def spread(count: int, most: int) -> Int64:
    """At most `most` of 0..count-1, evenly spaced."""
    return np.arange(count) if count <= most else np.arange(most, dtype=np.int64) * count // most


def _micro(loss: float) -> int:
    """Millionths of a nat, as recorded."""
    return min(LOSS_MICRO_MAX, round(loss * 1_000_000)) if np.isfinite(loss) else LOSS_MICRO_MAX
