"""All that changes during a training, as canonical bytes; and the leaves of the trace over them.

    magic "MPSSTAT2" | step (uint64) | coordinates (uint64) | vectors (uint64) | parameters | each vector

All little-endian, numbers float32. Knows no torch, and nothing of what an optimiser does with its vectors.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from p2pfl.errors import PeerFault
from p2pfl.learn.optimizers import MOMENTS_MAX

Float32 = NDArray[np.float32]

_HEAD = struct.Struct("<8sQQQ")
_MAGIC = b"MPSSTAT2"


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """All that changes during training: which step comes next, the parameters, what the optimiser remembers.

    parameters and each of the moments (none for plain SGD): float32, shape (coordinates,).
    """

    step: int
    parameters: Float32
    moments: tuple[Float32, ...] = ()


def encode_state(state: State) -> bytes:
    """The canonical bytes of a state."""
    head = _HEAD.pack(_MAGIC, state.step, len(state.parameters), len(state.moments))
    vectors = (state.parameters, *state.moments)
    return b"".join((head, *(vector.astype("<f4", copy=False).data for vector in vectors)))


def decode_state(data: bytes, coordinates: int) -> State:
    """The state in these bytes (views of them). Raises PeerFault when they are not exactly one of this size.

    How many vectors there are is for the reader to judge: it knows the optimiser. Numbers that are not finite
    are refused: every distance to them would be NaN, and no comparison with a threshold would hold.
    """
    if len(data) < _HEAD.size:
        raise PeerFault("bad_state", f"{len(data)} bytes are no state")
    magic, step, claimed, vectors = _HEAD.unpack_from(data)
    if magic != _MAGIC or claimed != coordinates or vectors > MOMENTS_MAX:
        raise PeerFault("bad_state", "the head is not that of a state of this model")
    if len(data) != _HEAD.size + 4 * coordinates * (1 + vectors):
        raise PeerFault("bad_state", f"{len(data)} bytes are no state of {coordinates} coordinates")
    values = np.frombuffer(data, dtype="<f4", offset=_HEAD.size).reshape(1 + vectors, coordinates)
    if not np.isfinite(values).all():
        raise PeerFault("bad_state", "a number is not finite")
    return State(step, values[0], tuple(values[1:]))


def state_bytes(coordinates: int, moments: int) -> int:
    """How long the bytes of a state are."""
    return _HEAD.size + 4 * coordinates * (1 + moments)


def start_state(parameters: Float32, moments: int = 1) -> bytes:
    """The first state of every training from this base: step 0, nothing remembered."""
    return encode_state(State(0, parameters, (np.zeros_like(parameters),) * moments))


def trace_leaves(states: Sequence[bytes]) -> list[bytes]:
    """The leaves of the trace: SHA-256 of each state."""
    return [sha256(state).digest() for state in states]
