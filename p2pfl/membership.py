"""What is said and recorded when members come, go, or fall silent: shapes only.

    Join, Leave  -> the council's block -> Assignment for the next epoch -> the groups' last blocks name it
    silence      -> Closing of a group whose quorum is gone

Who is given which seat is in `rules.epochs`; what the council's chain says so far, in `roster`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from consensus.signing import keccak256
from consensus.types import Digest, MemberId, SignedRoundChange
from p2pfl import codec
from p2pfl.genesis import MemberEntry


@dataclass(frozen=True, slots=True)
class Join:
    """A key holder asks for a seat (domain of the council). entry_hash: see the function of this name."""

    TYPE: ClassVar[str] = "Join(address member,bytes32 entryHash,uint8 council)"
    member: MemberId
    entry_hash: Digest
    council: int


@dataclass(frozen=True, slots=True)
class SignedJoin:
    """The request, where the member listens, and its signature. council: 1 for a seat in the council."""

    join: Join
    entry: MemberEntry
    location: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Leave:
    """A member gives its seat back at the end of this epoch (domain of the council)."""

    TYPE: ClassVar[str] = "Leave(uint64 epoch,address member)"
    epoch: int
    member: MemberId


@dataclass(frozen=True, slots=True)
class SignedLeave:
    """The notice and its signature."""

    leave: Leave
    signature: bytes


@dataclass(frozen=True, slots=True)
class Closing:
    """A group's epoch ends at its last counted block, since its quorum is gone. Later blocks of it are void.

    height, block_id: of that block (one below the first height, and zeros: none). alive: the ROUND-CHANGEs of
    the open height that living members sent, in the order of the committee; who is not among them leaves.
    """

    group_id: Digest
    epoch: int
    height: int
    block_id: Digest
    alive: tuple[SignedRoundChange, ...]


@dataclass(frozen=True, slots=True)
class AssignedGroup:
    """Who sits in a group (or in "council") in one epoch: ascending ids, in the order of their turns."""

    name: str
    members: tuple[MemberId, ...]


@dataclass(frozen=True, slots=True)
class Assignment:
    """The committees of an epoch. A group that is not named has come to its end.

    seed: what the members were shuffled by.
    """

    epoch: int
    seed: Digest
    groups: tuple[AssignedGroup, ...]


def entry_hash(entry: MemberEntry, location: str) -> Digest:
    """keccak256 of the canonical bytes of an entry and its location."""
    return keccak256(codec.encode((codec.encode(entry), location), tuple[bytes, str]))
