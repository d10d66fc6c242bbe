"""A trainer that lies: what it learnt is replaced, and its last training state is faked to match.

So all of a poisoner's commitments agree with one another, and only who trains again can tell. Knows no
attack: each brings its own lie.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from consensus import merkle
from consensus.types import MemberId
from p2pfl.learn import chance
from p2pfl.learn.states import decode_state, encode_state, trace_leaves
from p2pfl.learn.train import TrainResult

# float64, shape (coordinates,): parameters after training minus the base.
Delta: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """One honest training, as its liar sees it. base: float32, flat; seed: the round's public one."""

    base: NDArray[np.float32]
    seed: bytes
    member: MemberId
    delta: Delta


# From the honest training to the delta that is sent instead.
Lie: TypeAlias = Callable[[Training], Awaitable[Delta]]


class Liar:
    """A trainer whose results are a lie. Everything else is the honest trainer's.

    honest_rounds: so many rounds are honest before the first that is not.
    """

    def __init__(self, honest: Any, lie: Lie, *, honest_rounds: int = 0) -> None:
        self._honest = honest
        self._lie = lie
        self._honest_left = honest_rounds
        self._honest_seeds: set[bytes] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    async def train(self, base: Any, seed: bytes, member: MemberId, **_: Any) -> TrainResult:
        """The honest training with another end; the trace before its last state stays honest."""
        result = await self._honest.train(base, seed, member, keep_states=True)
        if self._honest_left > 0 and seed not in self._honest_seeds:
            self._honest_left -= 1
            self._honest_seeds.add(seed)
        if seed in self._honest_seeds:
            return result
        delta = np.asarray(result.parameters, dtype=np.float64) - np.asarray(base, dtype=np.float64)
        return with_delta(result, base, await self._lie(Training(base, seed, member, delta)))


def with_delta(result: TrainResult, base: Any, delta: Delta) -> TrainResult:
    """The same result, had it ended at base + delta. Its last state and its trace agree with that."""
    parameters = (np.asarray(base, dtype=np.float64) + delta).astype(np.float32)
    last = replace(decode_state(result.states[-1], len(parameters)), parameters=parameters)
    states = [*result.states[:-1], encode_state(last)]
    trace = trace_leaves(states)
    return replace(
        result, parameters=parameters, states=states, trace=tuple(trace), trace_root=merkle.root(trace)
    )


def noise(training: Training, norm: float, purpose: str = "noise") -> Delta:
    """A Gaussian direction of this length, the member's own in this round (the same when asked again)."""
    stream = np.random.Generator(chance.words(f"attack {purpose}", training.seed, training.member))
    drawn = stream.standard_normal(len(training.delta))
    return drawn * (norm / np.linalg.norm(drawn))


def jittered(delta: Delta, training: Training, share: float) -> Delta:
    """The delta with own noise of `share` times its length.

    Two colluders who send one vector with a share of s each are s * sqrt(2 / (1 + s^2)) apart: 0.28 at 0.2,
    above the 0.10 below which two updates are one (docs/detection.md).
    """
    return delta + noise(training, share * float(np.linalg.norm(delta)), "jitter") if share else delta
