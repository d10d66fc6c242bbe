"""Who may speak: send messages and ask for what is not public. Everybody else is an observer at most.

    seated | waits for its first seat | its group has not ended its last epoch | its council has a case to end

A function of the council's chain, so all who hold the same blocks let the same members in.
"""

from __future__ import annotations

from consensus.types import MemberId
from p2pfl.genesis import COUNCIL
from p2pfl.rules.state import GUILTY, NO_OPENING, CouncilState


def speakers(state: CouncilState) -> frozenset[MemberId]:
    """The members that have the right to speak after this council block."""
    return frozenset(member for member in state.roster.entries if not _is_gone(state, member)) | _lingering(
        state
    )


def _is_gone(state: CouncilState, member: MemberId) -> bool:
    """Whether it has no seat, and is given none before it asks again."""
    if state.roster.now.group_of(member) is not None:
        return False
    out = member in state.departed or member in state.expelled
    return out or state.stands(member) in (GUILTY, NO_OPENING)


def _lingering(state: CouncilState) -> frozenset[MemberId]:
    """Who sat in an epoch that its group has not ended, or has to finish a case: its seats, the accused."""
    roster = state.roster
    found: set[MemberId] = set()
    for group_id, epoch in state.open_epochs.items():
        name = state.network.group_names[group_id]
        for each in range(epoch, roster.epoch + 1):
            if roster.goes_on(name, each):
                found.update(roster.committee(name, each).members)
    for case in state.cases.values():
        if case.awaits_measurements:
            found.add(case.case.accused)  # It may open its round as long as that can change anything.
        if case.awaits_measurements or case.due_verdict() is not None:
            found.update(roster.committee(COUNCIL, case.opened_epoch).members)
    return frozenset(found)
