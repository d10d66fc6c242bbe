"""How a peer turns bad: wrappers around an honest node, put on from outside. Nothing in `p2pfl/` knows them.

An attack is one function with `@attack(name)`: it gets the parts of a node before it runs, and its options,
and replaces a part by one that lies. Scenarios name it, with the member that it befalls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np

from consensus import merkle, signing
from consensus.signing import Domain
from consensus.types import Digest, MemberId
from p2pfl.errors import UserError
from p2pfl.keys import SigningKey
from p2pfl.learn.train import State, TrainResult, decode_state, encode_state, trace_leaves

Wrap = Callable[..., None]
_TABLE: dict[str, Wrap] = {}


def attack(name: str) -> Callable[[Wrap], Wrap]:
    """A decorator that adds an attack: a function of (parts, **options) that changes the parts in place."""

    def add(function: Wrap) -> Wrap:
        _TABLE[name] = function
        return function

    return add


def names() -> tuple[str, ...]:
    """The known attacks, sorted."""
    return tuple(sorted(_TABLE))


def find(name: str) -> Wrap:
    """The attack of this name. Raises UserError."""
    if name not in _TABLE:
        raise UserError(
            f"there is no attack {name!r}",
            because=f"the known ones are {', '.join(names())}",
            fix="name one of them, or write your own in testnet/attacks.py",
        )
    return _TABLE[name]


def put_on(parts: Any, attacks: list[dict[str, Any]]) -> None:
    """Wrap a node in these attacks ({"name": .., "options": {..}}), one after the other."""
    for each in attacks:
        find(each["name"])(parts, **each["options"])


# ---------------------------------------------------------------------------
# Harmful updates.


@attack("sign_flip")
def sign_flip(parts: Any, *, scale: float = 3.0, honest_rounds: int = 0) -> None:
    """Send -scale times what was learnt, and fake the last training state so that all commitments agree.

    Below a norm ratio of 4 (the genesis' hard rule) it is neither too long nor too short. honest_rounds: so
    many trainings are honest before the first that is not.
    """
    parts.trainer = _Flipped(parts.trainer, scale, honest_rounds)


class _Flipped:
    """A trainer whose results point the other way. Everything else is the honest trainer's."""

    def __init__(self, honest: Any, scale: float, honest_rounds: int) -> None:
        self._honest = honest
        self._scale = scale
        self._honest_left = honest_rounds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    async def train(self, base: Any, seed: bytes, member: MemberId, **_: Any) -> TrainResult:
        """The honest training, turned round; the trace before its last state stays honest."""
        result = await self._honest.train(base, seed, member, keep_states=True)
        if self._honest_left > 0:
            self._honest_left -= 1
            return result
        flipped = (base - self._scale * (result.parameters - base)).astype(np.float32)
        last = decode_state(result.states[-1], len(flipped))
        states = [*result.states[:-1], encode_state(State(last.step, flipped, last.momentum))]
        trace = trace_leaves(states)
        return replace(
            result, parameters=flipped, states=states, trace=tuple(trace), trace_root=merkle.root(trace)
        )


# ---------------------------------------------------------------------------
# Votes.


@attack("equivocate")
def equivocate(parts: Any, *, height: int, vote: str = "Prepare") -> None:
    """At one height, vote for two blocks of one round (vote: "Prepare" or "Commit").

    Half of the others get the false vote before the true one, signed behind the guard's back.
    """
    parts.network = _TwoFaced(parts.network, parts.guard.key, parts.genesis.domain(parts.group), height, vote)


class _TwoFaced:
    """A network that adds a second vote. Everything else is the honest network's."""

    def __init__(self, honest: Any, key: SigningKey, domain: Domain, height: int, vote: str) -> None:
        self._honest = honest
        self._key = key
        self._domain = domain
        self._height = height
        self._vote = vote

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def broadcast(self, to: Iterable[MemberId], message: Any) -> None:
        """Send to all; before an own vote of the chosen height goes out, a false one goes to half of them."""
        to = tuple(to)
        inner: Any = getattr(message, "message", None)
        # PrepareMessage.prepare and CommitMessage.commit are the signed votes.
        field = self._vote.lower()
        signed: Any = getattr(inner, field, None)
        if signed is not None and signed.vote.height == self._height and len(to) > 1:
            false = replace(signed.vote, block_id=Digest(sha256(signed.vote.block_id).digest()))
            signature = signing.sign(self._key.secret, signing.signing_digest(self._domain, false))
            lie = replace(inner, **{field: replace(signed, vote=false, signature=signature)})
            self._honest.broadcast(to[: len(to) // 2 + 1], replace(message, message=lie))
        self._honest.broadcast(to, message)
