"""Who may speak follows from the council's chain: until when a member that left is still one."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from consensus.types import ZERO_DIGEST, Digest, MemberId
from p2pfl.membership import AssignedGroup, Assignment
from p2pfl.records import Case
from p2pfl.rounds.speakers import speakers
from p2pfl.rules.state import CLEARED, GUILTY, NO_OPENING, OPEN, CaseState, CouncilState
from tests.audit.chain import build, member_of

LEFT, SEAT = member_of("g1-m3"), member_of("council-m3")


def state_of(*gone: MemberId, open_epoch: int = 0, **fields: Any) -> CouncilState:
    """A council in epoch 1, in which these have no seat. open_epoch: of all groups."""
    state = CouncilState.genesis(build().genesis)
    genesis = state.network
    groups = tuple(
        AssignedGroup(each.name, tuple(sorted(m.member_id for m in each.members if m.member_id not in gone)))
        for each in (*genesis.groups, genesis.council)
    )
    roster = state.roster.after((), (), Assignment(1, Digest(bytes(32)), groups), 1)
    epochs = MappingProxyType(dict.fromkeys(state.open_epochs, open_epoch))
    return replace(state, roster=roster, open_epochs=epochs, **fields)


def everybody() -> set[MemberId]:
    return set(CouncilState.genesis(build().genesis).roster.entries)


def test_in_the_first_epoch_everybody_of_the_genesis_speaks() -> None:
    assert speakers(CouncilState.genesis(build().genesis)) == everybody()


@pytest.mark.parametrize("why", ["departed", "expelled"])
def test_who_left_or_is_expelled_speaks_until_its_groups_epoch_is_over(why: str) -> None:
    fields = {why: frozenset({LEFT})}
    assert LEFT in speakers(state_of(LEFT, open_epoch=0, **fields))
    assert speakers(state_of(LEFT, open_epoch=1, **fields)) == everybody() - {LEFT}


def test_who_is_expelled_speaks_while_it_has_a_seat() -> None:
    assert LEFT in speakers(state_of(open_epoch=1, expelled=frozenset({LEFT})))


def test_who_waits_for_a_seat_speaks() -> None:
    assert LEFT in speakers(state_of(LEFT, open_epoch=1))


def case(accused: MemberId, outcome: str, certified: tuple[int, ...] = ()) -> CaseState:
    one = Case(Digest(b"\1" * 32), ZERO_DIGEST, 0, 1, ZERO_DIGEST, "group_apart", (), (), accused, 9)
    return CaseState(one, 0, 1, outcome, 2, (), certified)


@pytest.mark.parametrize(("outcome", "speaks"), [(GUILTY, False), (NO_OPENING, True), (CLEARED, True)])
def test_who_was_found_guilty_speaks_no_more_but_who_may_still_open_its_round_does(
    outcome: str, speaks: bool
) -> None:
    done = MappingProxyType({Digest(b"\1" * 32): case(LEFT, outcome, (16, 32))})
    assert (LEFT in speakers(state_of(LEFT, open_epoch=1, cases=done))) == speaks


def test_who_left_and_is_accused_may_open_its_round() -> None:
    gone = {"departed": frozenset({LEFT})}
    for outcome, speaks in ((OPEN, True), (NO_OPENING, True), (GUILTY, False), (CLEARED, False)):
        cases = MappingProxyType({Digest(b"\1" * 32): case(LEFT, outcome, (16, 32))})
        assert (LEFT in speakers(state_of(LEFT, open_epoch=1, cases=cases, **gone))) == speaks


def test_an_old_seat_speaks_until_the_cases_of_its_epoch_have_ended() -> None:
    gone = {"departed": frozenset({SEAT})}
    for outcome, speaks in ((OPEN, True), (GUILTY, True), (CLEARED, False)):
        cases = MappingProxyType({Digest(b"\1" * 32): case(LEFT, outcome)})
        assert (SEAT in speakers(state_of(SEAT, open_epoch=1, cases=cases, **gone))) == speaks
    certified = MappingProxyType({Digest(b"\1" * 32): case(LEFT, GUILTY, (16,))})
    assert SEAT not in speakers(state_of(SEAT, open_epoch=1, cases=certified, **gone))
