"""Free riders and copycats: who claims to have trained and has not.

They make up a trace as long as an honest one, from the base to the update they claim, so that every
commitment has its shape; only who repeats a segment sees that no training leads from one state to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from consensus import merkle
from consensus.types import MemberId
from p2pfl.errors import UserError
from p2pfl.learn.states import decode_state, encode_state, start_state, trace_leaves
from p2pfl.learn.train import TrainResult
from p2pfl.rounds.trainer import job_of
from testnet.attacks.cabal import Knowledge, revealed
from testnet.attacks.lying import Delta, Liar, Training, jittered, noise
from testnet.attacks.table import attack

KINDS = ("base", "noise", "stale", "aggregate")
# A claimed loss goes down a little, as that of most honest trainings does. Nobody believes it.
CLAIMED_LOSS_MICRO = (1_000_000, 800_000)


@attack("free_rider")
def free_rider(parts: Any, *, kind: str = "noise", scale: float = 1.0, honest_rounds: int = 1) -> None:
    """Sends what cost nothing (Lin et al. 2019; Fraboni et al., AISTATS 2021).

    kind: "base", the base returned, a delta of zero; "noise", Gaussian noise `scale` times as long as its own
    last honest update (the disguised free rider); "stale", that update again; "aggregate", how the base has
    changed since the last round (Lin et al.'s delta weights). honest_rounds: so many it trains for before it
    stops; with none it has nothing to be stale, and noise is as long as it guesses.
    """
    if kind not in KINDS:
        raise UserError(
            f"there is no free rider of kind {kind!r}",
            because=f"there are {', '.join(KINDS)}",
            fix="name one",
        )
    parts.trainer = _Rider(parts, kind, scale, honest_rounds)


class _Rider:
    """A trainer that does not train. Everything else is the honest trainer's."""

    # An update's length, a coordinate, of who never trained: of the order of digits' first rounds.
    GUESS = 0.01

    def __init__(self, parts: Any, kind: str, scale: float, honest_rounds: int) -> None:
        self._honest = parts.trainer
        self._task = parts.genesis.task
        self._kind = kind
        self._scale = scale
        self._honest_left = honest_rounds
        self._last: Delta | None = None
        self._base: Delta | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    async def train(self, base: Any, seed: bytes, member: MemberId, **_: Any) -> TrainResult:
        """What an honest training would give in shape, without one."""
        before, self._base = self._base, np.asarray(base, dtype=np.float64)
        if self._honest_left > 0:
            self._honest_left -= 1
            result = await self._honest.train(base, seed, member, keep_states=True)
            self._last = np.asarray(result.parameters, dtype=np.float64) - self._base
            return result
        delta = self._base - before if self._kind == "aggregate" and before is not None else None
        delta = self._delta(base, seed, member) if delta is None else delta
        return made_up(self._honest, self._task, base, seed, member, delta)

    def _delta(self, base: Any, seed: bytes, member: MemberId) -> Delta:
        nothing = np.zeros(len(base))
        if self._kind in ("base", "aggregate"):
            return nothing
        if self._kind == "stale":
            return nothing if self._last is None else self._last
        length = self.GUESS * len(base) ** 0.5 if self._last is None else float(np.linalg.norm(self._last))
        return noise(Training(base, seed, member, nothing), self._scale * length)


def made_up(trainer: Any, task: Any, base: Any, seed: bytes, member: MemberId, delta: Delta) -> TrainResult:
    """A result with as many states as an honest one, on the straight line from the base to base + delta."""
    job = job_of(task, base, trainer.x, trainer.y, seed=seed, member=member)
    start, wide = decode_state(start_state(base, job.moments), len(base)), np.asarray(base, dtype=np.float64)
    states: list[bytes] = []
    for segment in range(job.segments + 1):
        step = min(segment * job.trace_every, job.steps_total)
        there = (wide + delta * (step / job.steps_total)).astype(np.float32)
        states.append(encode_state(replace(start, step=step, parameters=there)))
    trace = trace_leaves(states)
    parameters = decode_state(states[-1], len(base)).parameters
    return TrainResult(
        parameters, states, tuple(trace), merkle.root(trace), len(trainer.y), job.steps_total,
        *CLAIMED_LOSS_MICRO,
    )  # fmt: skip


@attack("copycat")
def copycat(
    parts: Any, *, of: str = "", spied: Sequence[str] = (), noise_share: float = 0.0, honest_rounds: int = 0
) -> None:
    """Sends another member's update as its own, with or without noise on top.

    Members commit before anybody reveals, so it copies what the last block's `of` sent (by default whoever
    comes first in its group), unless it spies on this round: spied, a member that wears `spied_on`.
    noise_share: noise of its own on top, relative to the copy's length.
    """
    knowledge = Knowledge(parts, spied) if spied else None

    async def copied(training: Training) -> Delta:
        if knowledge is not None:
            pooled = await knowledge.pooled(training)
            del pooled[parts.name]
        else:
            pooled = revealed(parts, {parts.name})
        victim = of if of in pooled else min(pooled, default=None)
        copy = training.delta if victim is None else pooled[victim]
        return jittered(copy, training, noise_share)

    parts.trainer = Liar(parts.trainer, copied, honest_rounds=honest_rounds)


@attack("spied_on")
def spied_on(parts: Any, *, by: Sequence[str]) -> None:
    """An honest member whose machine somebody reads: it learns, and they know at once. It is no culprit."""
    knowledge = Knowledge(parts, by)

    async def leaked(training: Training) -> Delta:
        await knowledge.pooled(training, waits=False)
        return training.delta

    parts.trainer = _Leak(parts.trainer, leaked)


class _Leak(Liar):
    """A trainer whose results are read by others and stay what they are, to the bit."""

    async def train(self, base: Any, seed: bytes, member: MemberId, **options: Any) -> TrainResult:
        """The honest training."""
        result = await self._honest.train(base, seed, member, **options)
        delta = np.asarray(result.parameters, dtype=np.float64) - np.asarray(base, dtype=np.float64)
        await self._lie(Training(base, seed, member, delta))
        return result
