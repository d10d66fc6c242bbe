"""Votes that contradict each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from typing import Any

from consensus import signing
from consensus.signing import Domain
from consensus.types import Digest, MemberId
from p2pfl.keys import SigningKey
from testnet.attacks.table import attack


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
