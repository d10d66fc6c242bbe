"""Evidence that nodes kept: two signed structs of one member that contradict each other, checked again.

What a note claims counts for nothing; the two signatures and the rules E1 to E6 say whether it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from consensus.types import MemberId
from p2pfl.audit.report import Report
from p2pfl.contradiction import from_note, proved
from p2pfl.offences import OFFENCES
from p2pfl.roster import Roster
from p2pfl.store import Folder, Notes


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
    genesis, both = roster.genesis, from_note(note)
    if both is None:
        return
    try:
        chain = genesis.group_names[both.group_id]
        found = proved(genesis.domain(chain), both)
        if found is not None and found[0] in roster.committee(chain, both.first.epoch):
            yield chain, both.first.height, found[0], int(found[1])
    except (KeyError, ValueError, TypeError):
        return
