"""Offences: two signed structs of one signer that no honest member signs both.

A stranger can check them with the group's domain alone; so can the contract. Knows nothing of who was
told what, or when.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from consensus.signing import Domain, struct_hash
from consensus.types import Commit, MemberId, Message, Prepare, Propose, RoundChange, SignedVote, Vote
from consensus.votes import Recover, recoverer, votes_in


class OffenceKind(IntEnum):
    """The deterministic faults, numbered as the contract numbers them."""

    TWO_PROPOSE = 1
    TWO_PREPARE = 2
    TWO_COMMIT = 3
    TWO_ROUND_CHANGE = 4
    DENIED_COMMIT = 5
    TWO_OF_ONE_SLOT = 6


@dataclass(frozen=True, slots=True)
class Offence:
    """E1 to E5 proved: `first` and `second` are both `signer`'s. In E5 the COMMIT is first."""

    kind: OffenceKind
    signer: MemberId
    first: SignedVote
    second: SignedVote


def contradiction(a: Vote, b: Vote) -> OffenceKind | None:
    """Which offence it is if one member signed both; the order does not matter."""
    if a.height != b.height or a.epoch != b.epoch:
        return None
    if isinstance(a, RoundChange):
        if isinstance(b, RoundChange):
            twice = a.round == b.round and _prepared(a) != _prepared(b)
            return OffenceKind.TWO_ROUND_CHANGE if twice else None
        a, b = b, a
    if isinstance(b, RoundChange):
        # A COMMIT of round r says: q PREPAREs of r seen. A later ROUND-CHANGE has to say so too, or more.
        denied = isinstance(a, Commit) and b.round > a.round and _denies(b, a)
        return OffenceKind.DENIED_COMMIT if denied else None
    assert not isinstance(a, RoundChange)
    if type(a) is type(b) and a.round == b.round and a.block_id != b.block_id:
        return _DOUBLE[type(a)]
    return None


_DOUBLE: dict[type, OffenceKind] = {
    Propose: OffenceKind.TWO_PROPOSE,
    Prepare: OffenceKind.TWO_PREPARE,
    Commit: OffenceKind.TWO_COMMIT,
}


def _prepared(change: RoundChange) -> tuple[int, bytes]:
    return change.prepared_round_plus_1, change.prepared_block_id


def _denies(change: RoundChange, commit: Commit) -> bool:
    claimed = change.prepared_round_plus_1 - 1
    return claimed < commit.round or (claimed == commit.round and change.prepared_block_id != commit.block_id)


def offence(domain: Domain, a: SignedVote, b: SignedVote) -> Offence | None:
    """The offence that these two signed votes prove in this domain, if any."""
    kind = contradiction(a.vote, b.vote)
    if kind is None:
        return None
    signer = _one_signer(domain, a.vote, a.signature, b.vote, b.signature)
    return None if signer is None else Offence(kind, signer, *in_order(kind, a, b))


def in_order(kind: OffenceKind, a: SignedVote, b: SignedVote) -> tuple[SignedVote, SignedVote]:
    """The pair as an offence names it: in E5 the COMMIT is first."""
    return (b, a) if kind is OffenceKind.DENIED_COMMIT and isinstance(b.vote, Commit) else (a, b)


def culprits(recover: Recover, records: Iterable[Message]) -> list[Offence]:
    """Who contradicts himself in all that several members kept: one offence a signer and height.

    If two blocks of one height were decided, and at most 2f members lie, the records of the honest ones name
    at least f+1 (docs/consensus.md, "Accountability"). The records need no trust: a vote vouches for itself.
    """
    kept: dict[tuple[MemberId, int], dict[Vote, SignedVote]] = {}
    found: dict[tuple[MemberId, int], Offence] = {}
    for signed in (signed for message in records for signed in votes_in(message)):
        signer = recover(signed.vote, signed.signature)
        if signer is None:
            continue
        key = (signer, signed.vote.height)
        votes = kept.setdefault(key, {})
        for other in votes.values() if key not in found and signed.vote not in votes else ():
            kind = contradiction(other.vote, signed.vote)
            if kind is not None:
                found[key] = Offence(kind, signer, *in_order(kind, other, signed))
        votes[signed.vote] = signed
    return list(found.values())


def two_of_one_slot(
    domain: Domain, a: Any, a_signature: bytes, b: Any, b_signature: bytes, *, slot: tuple[str, ...]
) -> MemberId | None:
    """E6: who signed two different structs of one type for one slot (the fields that name it), if anybody.

    The structs are the application's: frozen dataclasses with an EIP-712 TYPE, as the votes are.
    """
    if type(a) is not type(b) or any(getattr(a, name) != getattr(b, name) for name in slot):
        return None
    try:
        if struct_hash(a) == struct_hash(b):
            return None
    except ValueError:
        return None
    return _one_signer(domain, a, a_signature, b, b_signature)


def _one_signer(domain: Domain, a: Any, a_signature: bytes, b: Any, b_signature: bytes) -> MemberId | None:
    find = recoverer(domain, cache_size=0)
    signer = find(a, a_signature)
    return signer if signer == find(b, b_signature) else None
