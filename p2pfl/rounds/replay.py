"""An accused opens its round; a seat trains it again, segment by segment, and measures the distance.

    state 0 (the base) --replay--> ? ~ state 1 --replay--> ? ~ state 2 = base + update, within rounding

Float training differs between machines, so each segment starts from a state that the member committed to.
Who is asked, and what follows from the numbers, is in `court` and `rules`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consensus import merkle
from consensus.types import Digest
from p2pfl import codec
from p2pfl.errors import PeerFault
from p2pfl.genesis import Genesis, Task
from p2pfl.learn.datasets import data_leaves, parse_leaves
from p2pfl.learn.states import State, decode_state, start_state, state_bytes, trace_leaves
from p2pfl.learn.train import TrainJob
from p2pfl.params import BLOB_BYTES_MAX, Base, Update, delta_of, quantize
from p2pfl.rounds.trainer import job_of, moments_of
from p2pfl.signed import ParamTx

PPM = 1_000_000
# More states than any training commits to: a blob has room for no more of a model of a thousand parameters.
STATES_MAX = 1 << 16
# A distance is recorded as a uint64 in millionths; this is further than any honest training goes.
WORST_PPM_MAX = 10**12

# Who has learnt its data moves by rounding noise alone, which differs from machine to machine: an honest
# segment 3e-8 long was 85 % away from its replay. So no distance is measured against less than the noise.
# Honest members on digits, trained on AVX2 until their loss was 1e-9, replayed on SSE; noise as a share of
# the model's length by the root of the steps: at most 5e-9 without squares, 2e-5 with Adam. 10 % of a floor
# pass (the default threshold), and each floor is more than 20 times that noise. A lie below it moves the
# model by 0.02 % of its length in 16 steps with Adam, and 500 times less without; honest rounds by percents.
BLUR, BLUR_OF_SQUARES = 2.0**-20, 2.0**-11
# What is remembered of gradients: the same noise was at most 2e-6 long where gradients are cut to 2. Of that
# cut; squared for squares. It moves the parameters by less than their own floor.
GRADIENT_BLUR = 2.0**-15

ReplaySegment = Callable[[TrainJob, bytes, int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Opening:
    """What an accused shows to the council's seats only: its samples as leaves, and its states."""

    samples: tuple[bytes, ...]
    states: tuple[bytes, ...]


def make_opening(x: NDArray[np.float32], y: NDArray[np.int64], states: list[bytes]) -> bytes:
    """The canonical bytes of an opening. Raises ValueError when it is larger than a blob may be."""
    data = codec.encode(Opening(tuple(data_leaves(x, y)), tuple(states)))
    if len(data) > BLOB_BYTES_MAX:
        raise ValueError(f"the opening has {len(data)} bytes, the limit is {BLOB_BYTES_MAX}")
    return data


def opening_bytes_max(tx: ParamTx, task: Task) -> int:
    """How large the opening of this round can be, at most."""
    return min(BLOB_BYTES_MAX, opening_bytes(tx.data_leaves, task))


def opening_bytes(samples: int, task: Task) -> int:
    """How large a round of so many samples is when it is opened: samples, states, their CBOR heads."""
    leaf_bytes = 64 + 4 * math.prod(task.input_shape)
    states = -(-task.steps(samples) // task.trace_every) + 1
    each = 64 + state_bytes(task.layout.size, moments_of(task))
    return 64 + samples * leaf_bytes + states * each


def read_opening(data: bytes, tx: ParamTx) -> Opening:
    """The opening in these bytes: samples and states that the member committed to.

    Raises PeerFault("bad_opening") when they are not: such bytes are no opening at all.
    """
    try:
        items_max = tx.data_leaves + STATES_MAX
        opening = codec.decode(data, Opening, size_max=BLOB_BYTES_MAX, items_max=items_max)
    except codec.DecodeError as error:
        raise PeerFault("bad_opening", str(error)) from error
    if len(opening.samples) != tx.data_leaves or merkle.root(opening.samples) != tx.data_root:
        raise PeerFault("bad_opening", "the samples are not those under the data root")
    if merkle.root(trace_leaves(opening.states)) != tx.trace_root:
        raise PeerFault("bad_opening", "the states are not those under the trace root")
    return opening


def job_of_opening(opening: Opening, tx: ParamTx, base: Base, genesis: Genesis, group_id: Digest) -> TrainJob:
    """The training that the opening tells of, to be replayed. base: the one that the member signed.

    Raises PeerFault("bad_opening") for samples that are none, and for too few or too many states.
    """
    task = genesis.task
    try:
        x, y = parse_leaves(opening.samples, task.input_shape, task.classes)
    except PeerFault as fault:
        raise PeerFault("bad_opening", str(fault)) from fault
    seed = genesis.round_seed(group_id, tx.epoch, tx.height)
    job = job_of(task, base.values, x, y, seed=seed, member=tx.member, keep_states=False)
    if len(opening.states) != job.segments + 1:
        raise PeerFault(
            "bad_opening", f"{len(opening.states)} states, {job.segments + 1} were to be committed"
        )
    return job


async def measure(
    opening: Opening,
    job: TrainJob,
    base: Base,
    update: Update,
    replay: ReplaySegment,
    *,
    enough_ppm: int = WORST_PPM_MAX,
) -> int:
    """The largest relative distance of any step of the story, in millionths (0 on the same kind of machine).

    Steps: the first state is the base; each segment leads from its state to the next; the last state is
    the base plus the update, within rounding. enough_ppm: above it, what was measured so far is told: a
    liar's long training must not keep a seat busy until the case is over.
    """
    states = [_state(data, job) for data in opening.states]
    if opening.states[0] != start_state(base.values, job.moments) or any(state is None for state in states):
        return WORST_PPM_MAX
    worst = _update_distance_ppm(states[-1], base, update)
    for segment in range(job.segments):
        if worst > enough_ppm:
            break
        start, claimed = states[segment], states[segment + 1]
        assert start is not None and claimed is not None
        if start.step != segment * job.trace_every:
            return WORST_PPM_MAX
        try:
            replayed = decode_state(await replay(job, opening.states[segment], segment), len(base.values))
        except PeerFault:
            return WORST_PPM_MAX
        worst = max(worst, _segment_distance_ppm(job, start, claimed, replayed))
    return worst


def _state(data: bytes, job: TrainJob) -> State | None:
    try:
        state = decode_state(data, len(job.parameters))
    except PeerFault:
        return None
    return state if len(state.moments) == job.moments else None


def _segment_distance_ppm(job: TrainJob, start: State, claimed: State, replayed: State) -> int:
    """|claimed - replayed| / |replayed - start|, parameters; / |replayed| of each vector of the optimiser.

    None is measured against less than what float32 blurs.
    """
    if claimed.step != replayed.step:
        return WORST_PPM_MAX
    made = job.optimizer_made()
    blur = BLUR_OF_SQUARES if made.squares else BLUR
    floor = blur * _length(start.parameters) * math.sqrt(replayed.step - start.step)
    moved = replayed.parameters.astype(np.float64) - start.parameters.astype(np.float64)
    distances = [_ratio_ppm(claimed.parameters, replayed.parameters, max(floor, _length(moved)))]
    gradient = GRADIENT_BLUR * (job.gradient_norm_max if math.isfinite(job.gradient_norm_max) else 1.0)
    for name, mine, again in zip(made.moments, claimed.moments, replayed.moments, strict=True):
        floor = gradient**2 if name in made.squares else gradient
        distances.append(_ratio_ppm(mine, again, max(floor, _length(again))))
    return max(distances)


def _update_distance_ppm(last: State | None, base: Base, update: Update) -> int:
    """How far the submitted update is from the one that the last state leads to, rounding excepted.

    Both are the member's own bytes and nothing is trained in between, so an honest one is exactly 0 away, on
    every machine and however few units long.
    """
    assert last is not None
    expected, _ = quantize(delta_of(base, last.parameters), update.layout, update.exponents)
    return _ratio_ppm(update.values, expected.values, _length(expected.values))


def _length(vector: NDArray[np.generic]) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))


def _ratio_ppm(claimed: NDArray[np.generic], expected: NDArray[np.generic], length: float) -> int:
    distance = _length(claimed.astype(np.float64) - expected.astype(np.float64))
    if distance == 0.0:
        return 0
    return WORST_PPM_MAX if length == 0.0 else min(WORST_PPM_MAX, round(distance / length * PPM))
