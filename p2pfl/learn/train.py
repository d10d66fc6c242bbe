"""How a model is trained, so that somebody else can check it: one job, one sequence of states.

Everything that changes during training is in a `State` of canonical bytes: the step counter, the
parameters, the momentum. The order of the batches is no state: it is a pure function of the round's
public seed, the member and the epoch. So any segment of a training can be repeated from the state at its
start, without what came before. Knows nothing of peers, rounds or blocks.

    states[0] --16 steps--> states[1] --16 steps--> states[2] --the rest--> states[-1]
     the base                                                                the result
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consensus import merkle
from consensus.types import Digest
from p2pfl.errors import PeerFault, UserError
from p2pfl.learn import chance
from p2pfl.learn.models import architecture, layout
from p2pfl.learn.numerics import pinned_torch
from p2pfl.learn.task import task

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

# A loss that nobody counts on may be measured on a part of a large training set.
LOSS_SAMPLES_MAX = 1024
# One forward pass takes this many samples, so that activations fit into the cache.
EVALUATION_BATCH = 256
# What a loss is recorded as that is larger than this or not a number: it fits a uint32.
LOSS_MICRO_MAX = 2**32 - 1
_STATE_HEAD = struct.Struct("<8sQQ")
_STATE_MAGIC = b"MPSSTAT1"


@dataclass(frozen=True, slots=True, eq=False)
class TrainJob:
    """All that a training depends on.

    parameters: the base, float32, shape (layout.size,). x: float32, shape (samples, *input_shape);
    y: int64 in [0, classes). seed: the round's public seed, 32 bytes; member: 20 bytes.
    steps: how many, or None for `epochs` passes over the samples.
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


@dataclass(frozen=True, slots=True, eq=False)
class TrainResult:
    """What a training yields.

    parameters: float32, flat. trace: SHA-256 of each state; trace_root: the RFC 9162 root over those.
    states: the canonical bytes of each state, only if the job keeps them: they are large (twice the
    model), and the same job gives the same ones again when somebody asks.
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
    trainer.load(State(0, job.parameters, np.zeros_like(job.parameters)))
    picked = _spread(len(job.y), LOSS_SAMPLES_MAX)
    before = trainer.loss(picked)
    states: list[bytes] = []
    trace: list[bytes] = []
    for segment in range(job.segments + 1):
        if segment:
            trainer.run_segment(segment - 1)
        state = encode_state(trainer.state())
        trace.append(sha256(state).digest())
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

    The job's own parameters do not matter. Raises PeerFault when the bytes are not a state of this
    model at the start of this segment, or lead out of the finite numbers.
    """
    if not 0 <= segment < job.segments:
        raise PeerFault("bad_state", f"there is no segment {segment} of {job.segments}")
    trainer = _Trainer(job)
    start = decode_state(state, trainer.coordinates)
    if start.step != segment * job.trace_every:
        raise PeerFault("bad_state", f"segment {segment} does not start at step {start.step}")
    trainer.load(start)
    trainer.run_segment(segment)
    try:
        return encode_state(trainer.state())
    except UserError as error:
        raise PeerFault("bad_state", str(error)) from error


@task("evaluate")
def evaluate(
    model: str, input_shape: tuple[int, ...], classes: int, parameters: Float32, x: Float32, y: Int64
) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (share of right answers) over these samples."""
    torch = pinned_torch()
    forward = architecture(model, input_shape, classes).forward
    tensors = [torch.tensor(part) for part in layout(model, input_shape, classes).unflatten(parameters)]
    loss, right = _evaluate(forward, tensors, torch.tensor(x), torch.tensor(y))
    return loss / len(y), right / len(y)


@task("warm")
def warm() -> None:
    """Import torch and run every kernel once, so that the first job is as quick as the others."""
    shape, samples = (1, 8, 8), 4
    x, y = np.zeros((samples, *shape), dtype=np.float32), np.zeros(samples, dtype=np.int64)
    parameters = np.zeros(layout("cnn", shape, 10).size, dtype=np.float32)
    train(TrainJob("cnn", shape, 10, parameters, x, y, seed=bytes(32), member=bytes(20)))


# ---------------------------------------------------------------------------
# The state and the trace.


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """All that changes during training. parameters, momentum: float32, shape (coordinates,)."""

    step: int
    parameters: Float32
    momentum: Float32


def encode_state(state: State) -> bytes:
    """Magic, step (uint64), coordinates (uint64), parameters, momentum; all little-endian."""
    head = _STATE_HEAD.pack(_STATE_MAGIC, state.step, len(state.parameters))
    return b"".join(
        (head, state.parameters.astype("<f4", copy=False).data, state.momentum.astype("<f4", copy=False).data)
    )


def decode_state(data: bytes, coordinates: int) -> State:
    """The state in these bytes (views of them). Raises PeerFault when they are not exactly one of this size.

    Numbers that are not finite are refused: every distance to them would be NaN, and no comparison
    with a threshold would hold.
    """
    if len(data) != _STATE_HEAD.size + 8 * coordinates:
        raise PeerFault("bad_state", f"{len(data)} bytes are no state of {coordinates} coordinates")
    magic, step, claimed = _STATE_HEAD.unpack_from(data)
    if magic != _STATE_MAGIC or claimed != coordinates:
        raise PeerFault("bad_state", "the head is not that of a state of this model")
    values = np.frombuffer(data, dtype="<f4", offset=_STATE_HEAD.size)
    if not np.isfinite(values).all():
        raise PeerFault("bad_state", "a number is not finite")
    return State(step, values[:coordinates], values[coordinates:])


def start_state(parameters: Float32) -> bytes:
    """The first state of every training from this base: step 0, no momentum."""
    return encode_state(State(0, parameters, np.zeros_like(parameters)))


def trace_leaves(states: Sequence[bytes]) -> list[bytes]:
    """The leaves of the trace: SHA-256 of each state."""
    return [sha256(state).digest() for state in states]


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
    """SGD with momentum on flat buffers; the model's tensors and their gradients are views of them."""

    def __init__(self, job: TrainJob) -> None:
        torch = pinned_torch()
        tensors = layout(job.model, job.input_shape, job.classes)
        self.job = job
        self.coordinates = tensors.size
        self._forward = architecture(job.model, job.input_shape, job.classes).forward
        self._x, self._y = torch.tensor(job.x), torch.tensor(job.y)
        self._step = 0
        self._parameters = torch.zeros(tensors.size)
        self._gradient = torch.zeros(tensors.size)
        self._momentum = torch.zeros(tensors.size)
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
            self._momentum.copy_(torch.tensor(state.momentum))

    def state(self) -> State:
        """Where training is (copies). Raises UserError when a number is not finite."""
        parameters, momentum = self._parameters.numpy().copy(), self._momentum.numpy().copy()
        if not (np.isfinite(parameters).all() and np.isfinite(momentum).all()):
            raise UserError(
                "training diverged",
                because=f"after step {self._step} a parameter or its momentum is not finite",
                fix=f"lower the learning rate (it is {self.job.learning_rate}) or look at the data",
            )
        return State(self._step, parameters, momentum)

    def run_segment(self, segment: int) -> None:
        """The steps of this segment."""
        torch, job = pinned_torch(), self.job
        first = segment * job.trace_every
        for samples in batches(job, first, min(first + job.trace_every, job.steps_total)):
            picked = torch.from_numpy(samples)
            logits = self._forward(self._tensors, self._x[picked])
            self._gradient.zero_()
            torch.nn.functional.cross_entropy(logits, self._y[picked]).backward()
            with torch.no_grad():
                norm = torch.linalg.vector_norm(self._gradient)
                self._gradient.mul_((job.gradient_norm_max / norm).clamp(max=1))
                self._momentum.mul_(job.momentum).add_(self._gradient)
                self._parameters.add_(self._momentum, alpha=-job.learning_rate)
            self._step += 1

    def loss(self, picked: Int64) -> float:
        """Mean cross-entropy over these samples."""
        index = pinned_torch().from_numpy(picked)
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


def _spread(count: int, most: int) -> Int64:
    """At most `most` of 0..count-1, evenly spaced."""
    return np.arange(count) if count <= most else np.arange(most, dtype=np.int64) * count // most


def _micro(loss: float) -> int:
    """Millionths of a nat, as recorded."""
    return min(LOSS_MICRO_MAX, round(loss * 1_000_000)) if np.isfinite(loss) else LOSS_MICRO_MAX
