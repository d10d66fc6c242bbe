"""Two structs of one member that no honest one signs both: the proof of E1 to E6, which anybody can check.

The rules for votes are in `consensus.evidence`; here is what the groups sign besides, and the form in which a
proof travels and stands in a council block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from consensus import evidence
from consensus import types as ct
from consensus.evidence import OffenceKind
from consensus.signing import Domain
from p2pfl.jsonform import from_json
from p2pfl.signed import Close, ParamTx, ShareRequest

Struct: TypeAlias = ct.Propose | ct.Prepare | ct.Commit | ct.RoundChange | ShareRequest | ParamTx | Close

_STRUCTS: dict[str, type[Struct]] = {
    kind.__name__: kind
    for kind in (ct.Propose, ct.Prepare, ct.Commit, ct.RoundChange, ShareRequest, ParamTx, Close)
}
_SIGNED: dict[type[Any], type[Any]] = {
    ct.Propose: ct.SignedPropose,
    ct.Prepare: ct.SignedPrepare,
    ct.Commit: ct.SignedCommit,
    ct.RoundChange: ct.SignedRoundChange,
}
# The fields that name the slot in which a member may say one thing only (E6).
_SLOTS: dict[type[Any], tuple[str, ...]] = {
    ParamTx: ("epoch", "height"),
    ShareRequest: ("epoch", "height", "round"),
    Close: ("epoch", "height", "round"),
}


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Both in the domain of this group (or of the council). In E5 the COMMIT is first."""

    group_id: ct.Digest
    first: Struct
    first_signature: bytes
    second: Struct
    second_signature: bytes


def of_votes(group_id: ct.Digest, first: ct.SignedVote, second: ct.SignedVote) -> Contradiction:
    """The proof that two signed votes make."""
    return Contradiction(group_id, first.vote, first.signature, second.vote, second.signature)


def proved(domain: Domain, both: Contradiction) -> tuple[ct.MemberId, OffenceKind] | None:
    """Who broke which rule, by the two signatures alone; None if they prove nothing.

    Whether the signer had a seat then is the caller's to judge.
    """
    slot = _SLOTS.get(type(both.first))
    if slot is not None:
        signer = evidence.two_of_one_slot(
            domain, both.first, both.first_signature, both.second, both.second_signature, slot=slot
        )
        return None if signer is None else (signer, OffenceKind.TWO_OF_ONE_SLOT)
    if type(both.second) not in _SIGNED:
        return None
    one, two = (
        _SIGNED[type(struct)](struct, signature)
        for struct, signature in ((both.first, both.first_signature), (both.second, both.second_signature))
    )
    found = evidence.offence(domain, one, two)
    return None if found is None else (found.signer, found.kind)


def as_note(both: Contradiction) -> dict[str, Any]:
    """How a node writes it down, with the kinds of the structs."""
    return {
        "group": both.group_id,
        "kinds": [type(both.first).__name__, type(both.second).__name__],
        "first": both.first,
        "first_signature": both.first_signature,
        "second": both.second,
        "second_signature": both.second_signature,
    }


def from_note(note: Mapping[str, Any]) -> Contradiction | None:
    """Read back from JSON; None for what is none."""
    try:
        return Contradiction(
            from_json(note["group"], ct.Digest),
            from_json(note["first"], _STRUCTS[str(note["kinds"][0])]),
            from_json(note["first_signature"], bytes),
            from_json(note["second"], _STRUCTS[str(note["kinds"][1])]),
            from_json(note["second_signature"], bytes),
        )
    except (LookupError, ValueError, TypeError):
        return None
