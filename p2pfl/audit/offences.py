"""Evidence that nodes kept: two signed structs of one member that contradict each other, checked again.

What a note claims counts for nothing; the two signatures and the rules E1 to E6 say whether it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from consensus import evidence
from consensus.evidence import OffenceKind
from consensus.types import (
    Commit,
    Digest,
    MemberId,
    Prepare,
    Propose,
    RoundChange,
    SignedCommit,
    SignedPrepare,
    SignedPropose,
    SignedRoundChange,
    SignedVote,
)
from p2pfl.audit.report import Report
from p2pfl.jsonform import from_json
from p2pfl.offences import OFFENCES
from p2pfl.roster import Roster
from p2pfl.signed import Close, ParamTx, ShareRequest
from p2pfl.store import Folder, Notes

_SIGNED: dict[str, tuple[type[Any], type[Any]]] = {
    "Propose": (Propose, SignedPropose),
    "Prepare": (Prepare, SignedPrepare),
    "Commit": (Commit, SignedCommit),
    "RoundChange": (RoundChange, SignedRoundChange),
}
# The fields that name the slot in which a member may say one thing only (E6).
_SLOTS: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    "ParamTx": (ParamTx, ("epoch", "height")),
    "ShareRequest": (ShareRequest, ("epoch", "height", "round")),
    "Close": (Close, ("epoch", "height", "round")),
}


def check(roster: Roster, folders: Mapping[str, Folder], report: Report) -> None:
    """Put every offence that some node's evidence proves into the report, each once."""
    seen: set[tuple[str, int, bytes, int]] = set()
    for node, folder in folders.items():
        for note in Notes(folder.notes).read("evidence"):
            proved = next(_proved(roster, note), None)
            if proved is None:
                report.skip(
                    "evidence that proves nothing", node or "this node", -1, str(note.get("kinds"))[:80]
                )
            elif proved not in seen:
                seen.add(proved)
                chain, height, culprit, kind = proved
                report.offences.append(
                    {
                        "chain": chain,
                        "height": height,
                        "culprit": roster.entry(MemberId(culprit)).name,
                        "offence": OFFENCES[kind],
                    }
                )


def _proved(roster: Roster, note: Mapping[str, Any]) -> Iterator[tuple[str, int, bytes, int]]:
    """(chain, height, culprit, offence) if the note proves one; at most one."""
    genesis = roster.genesis
    try:
        chain = genesis.group_names[from_json(note["group"], Digest)]
        first_kind, second_kind = (str(kind) for kind in note["kinds"])
        raw = (note["first"], note["second"])
        signatures = (from_json(note["first_signature"], bytes), from_json(note["second_signature"], bytes))
        if first_kind in _SLOTS and first_kind == second_kind:
            kind, slot = _SLOTS[first_kind]
            one, two = from_json(raw[0], kind), from_json(raw[1], kind)
            culprit = evidence.two_of_one_slot(
                genesis.domain(chain), one, signatures[0], two, signatures[1], slot=slot
            )
            offence = OffenceKind.TWO_OF_ONE_SLOT
            height, epoch = one.height, one.epoch
        else:
            votes = [
                _signed(name, each, signature)
                for name, each, signature in zip((first_kind, second_kind), raw, signatures, strict=True)
            ]
            found = evidence.offence(genesis.domain(chain), *votes)
            if found is None:
                return
            culprit, offence = found.signer, found.kind
            height, epoch = votes[0].vote.height, votes[0].vote.epoch
        if culprit is not None and culprit in roster.committee(chain, epoch):
            yield chain, height, culprit, int(offence)
    except (KeyError, ValueError, TypeError):
        return


def _signed(name: str, raw: Any, signature: bytes) -> SignedVote:
    kind, wrapper = _SIGNED[name]
    return wrapper(from_json(raw, kind), signature)
