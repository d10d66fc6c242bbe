"""A `Ci` that lies in its proposals, or leaves a member out.

The lying `Ci` works like an honest one; what it sends is another body, signed behind the guard's back. It
votes for its lie. What it lied is told to whoever watches ("lied"), so that a judge can look for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any, TypeAlias

import trio

from consensus import signing
from consensus.signing import block_id
from consensus.types import Block, Digest, MemberId, PrepareMessage, Proposal
from p2pfl import codec
from p2pfl.errors import PeerFault, UserError
from p2pfl.genesis import COUNCIL
from p2pfl.net import wire
from p2pfl.records import GroupBody, body_root, decode_body
from testnet.attacks.messages import Speech, hear
from testnet.attacks.table import attack

# From the true body to the one that is proposed.
Forge: TypeAlias = Callable[[GroupBody], GroupBody]


@attack("wrong_aggregate")
def wrong_aggregate(parts: Any) -> None:
    """As `Ci`, proposes another aggregate than follows from the updates."""

    def forge(body: GroupBody) -> GroupBody:
        return replace(body, aggregate_id=Digest(sha256(body.aggregate_id).digest()))

    parts.network = _forging(parts, forge)


@attack("wrong_filter")
def wrong_filter(parts: Any, *, name: str = "warnings") -> None:
    """As `Ci`, proposes a Bloom filter with one bit changed (name: of the filter)."""

    def forge(body: GroupBody) -> GroupBody:
        forged = [_one_bit_off(each) if each.name == name else each for each in body.filters]
        return replace(body, filters=tuple(forged))

    parts.network = _forging(parts, forge)


def _one_bit_off(each: Any) -> Any:
    bits = bytearray(each.bits or bytes(1))
    bits[0] ^= 1
    return dataclasses.replace(each, bits=bytes(bits))


def _forging(parts: Any, forge: Forge) -> Speech:
    """The network of a node whose own proposals say something else, and which votes for that."""
    lies: dict[Digest, Proposal] = {}

    def domain() -> Any:
        return parts.genesis.domain(parts.desk.context.name)

    def signed(original: Any, lie: Digest) -> Any:
        vote = replace(original.vote, block_id=lie)
        secret = parts.guard.key.secret
        return replace(
            original, vote=vote, signature=signing.sign(secret, signing.signing_digest(domain(), vote))
        )

    def propose(proposal: Proposal) -> Proposal:
        header = proposal.block.header
        known = lies.get(proposal.propose.vote.block_id)
        if known is None or known.propose.vote.round != proposal.propose.vote.round:
            body = forge(decode_body(proposal.block.body, GroupBody))
            false = replace(header, app_root=body_root(body))
            lie = block_id(false)
            known = replace(
                proposal, propose=signed(proposal.propose, lie), block=Block(false, codec.encode(body))
            )
            lies[proposal.propose.vote.block_id] = known
            _tell(parts, header.height, lie)
        return known

    def change(message: Any) -> Any:
        inner = getattr(message, "message", None)
        if isinstance(inner, Proposal) and inner.block.header.proposer == parts.me and _in_a_group(parts):
            return replace(message, message=propose(inner))
        if isinstance(inner, PrepareMessage) and inner.prepare.vote.block_id in lies:
            lie = lies[inner.prepare.vote.block_id].propose.vote.block_id
            return replace(message, message=PrepareMessage(signed(inner.prepare, lie)))
        return message

    return Speech(parts.network, change)


def _in_a_group(parts: Any) -> bool:
    return parts.desk.context.name != COUNCIL


def _tell(parts: Any, height: int, lie: Digest) -> None:
    fields = {"group": parts.desk.context.name, "height": height, "block_id": "0x" + lie.hex()}
    parts.observe("lied", fields)


# ---------------------------------------------------------------------------
# Leaving a member out.

HOWS = ("close", "unrevealed")


@attack("leave_out")
def leave_out(parts: Any, *, member: str, how: str = "close") -> None:
    """As `Ci` of a height's round 0, leaves a member out that has committed and revealed.

    how: "close", by a Close without its commitment, which nobody can tell from a late one; "unrevealed", by a
    proposal that says it did not reveal, which everybody refuses who holds its update.
    """
    if how not in HOWS:
        raise UserError(
            f"nobody is left out by {how!r}",
            because=f"there are {', '.join(HOWS)}",
            fix="name one of them",
        )
    victim = next(
        entry.member_id for group in parts.genesis.groups for entry in group.members if entry.name == member
    )
    if how == "close":
        hear(parts, lambda sender, message: not (_commits(message, victim) and _my_turn(parts, message)))
    else:
        parts.network = _Blind(parts, victim)


def _commits(message: Any, victim: MemberId) -> bool:
    return isinstance(message, wire.ParamTxMessage) and message.tx.tx.member == victim


def _my_turn(parts: Any, message: Any) -> bool:
    return parts.desk.context.committee.proposer(message.tx.tx.height, 0) == parts.me


class _Blind(Speech):
    """A network that cannot fetch the victim's updates in the heights in which its node is Ci first."""

    def __init__(self, parts: Any, victim: MemberId) -> None:
        super().__init__(parts.network, self._watch)
        self._parts = parts
        self._victim = victim
        self._updates: set[Digest] = set()
        hear(parts, self._heard)

    def _heard(self, _: MemberId, message: Any) -> bool:
        if _commits(message, self._victim) and _my_turn(self._parts, message):
            self._updates.add(message.tx.tx.blob_id)
        return True

    def _watch(self, message: Any) -> Any:
        inner = getattr(message, "message", None)
        if isinstance(inner, Proposal) and inner.block.header.proposer == self._parts.me:
            if self._victim in decode_body(inner.block.body, GroupBody).unrevealed:
                _tell(self._parts, inner.block.header.height, inner.propose.vote.block_id)
        return message

    async def fetch_blob(self, blob_id: Digest, length: int, holders: Any, **options: Any) -> Any:
        """As the honest network, but for the victim's updates."""
        if blob_id in self._updates:
            await trio.sleep(options["timeout_s"])
            raise PeerFault("blob_missing", "it looks away")
        return await self._honest.fetch_blob(blob_id, length, holders, **options)
