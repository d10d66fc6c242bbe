"""Updates that were seen before: sent again by whom they were sent, or by another member with a little noise.

A body shows a SimHash of each update, so bodies alone say what is near to what. Sketches are salted by the
epoch; nothing is compared across epochs. A copy can be hidden under enough noise: replay finds those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from consensus.types import Digest, MemberId
from p2pfl.params import Update
from p2pfl.records import GroupBody
from p2pfl.rules.filters import simhashes
from p2pfl.signed import SignedParamTx

# Of the 256 bits of two SimHashes, so many may differ where one update is a copy of the other: what is a
# tenth away differs in 8 of them, with a standard deviation of 3; honest ones in 25 (docs/detection.md).
REPEATED_BITS = 12


@dataclass(frozen=True, slots=True)
class Sent:
    """One update that was revealed: whose, its id, its SimHash (empty: it is zero)."""

    member: MemberId
    blob_id: Digest
    sketch: bytes


def sent_in(body: GroupBody, *, counted: bool = False) -> tuple[Sent, ...]:
    """The revealed updates of a body, in its order. counted: those alone whose weight is above 0."""
    hidden = set(body.unrevealed)
    shown = [
        (each.tx, w) for each, w in zip(body.txs, body.weights, strict=True) if each.tx.member not in hidden
    ]
    return tuple(
        Sent(tx.member, tx.blob_id, sketch)
        for (tx, weight), sketch in zip(shown, body.sketches, strict=True)
        if weight or not counted
    )


def was_sent(own: Sent, earlier: Sequence[Sent]) -> bool:
    """Whether it is an earlier update, or nearly one of another member: at an angle of x, x / pi bits differ.

    What a member learns from its own data may point the same way in every round, to the last bit of a sketch.
    """
    if not own.sketch:
        return False
    bits = int.from_bytes(own.sketch, "big")
    return any(
        each.blob_id == own.blob_id
        or (
            each.member != own.member
            and each.sketch != b""
            and (bits ^ int.from_bytes(each.sketch, "big")).bit_count() <= REPEATED_BITS
        )
        for each in earlier
    )


def sent_now(txs: Sequence[SignedParamTx], updates: Mapping[MemberId, Update], salt: bytes) -> list[Sent]:
    """The revealed updates of a round, in the order of its commitments."""
    shown = [each.tx for each in txs if each.tx.member in updates]
    sketches = simhashes([updates[tx.member] for tx in shown], salt)
    return [Sent(tx.member, tx.blob_id, sketch) for tx, sketch in zip(shown, sketches, strict=True)]


def counted_in(bodies: Iterable[GroupBody]) -> tuple[Sent, ...]:
    """What counted in these bodies.

    Who copies an update and is found out must not make its author look like a copier a round later.
    """
    return tuple(each for body in bodies for each in sent_in(body, counted=True))
