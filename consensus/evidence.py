"""Offences: two signed structs of one signer that no honest member signs both.

A stranger can check them with the group's domain alone; so can the contract. Knows nothing of who was
told what, or when.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from consensus.signing import BadSignature, Domain, recover, signing_digest, struct_hash
from consensus.types import Commit, MemberId, Prepare, Propose, RoundChange, SignedVote, Vote


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
    if kind is OffenceKind.DENIED_COMMIT and isinstance(b.vote, Commit):
        a, b = b, a
    signer = _one_signer(domain, a.vote, a.signature, b.vote, b.signature)
    return None if signer is None else Offence(kind, signer, a, b)


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
    try:
        first = recover(signing_digest(domain, a), a_signature)
        second = recover(signing_digest(domain, b), b_signature)
    except (BadSignature, ValueError):
        return None
    return first if first == second else None
