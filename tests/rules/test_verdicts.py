"""A suspicion never slashes: who measured what decides, and only a quorum of seats."""

from __future__ import annotations

import dataclasses

import pytest

from consensus.types import ZERO_DIGEST, ZERO_MEMBER, Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.offences import NO_OPENING, REPLAY_MISMATCH
from p2pfl.records import Case, Standing
from p2pfl.rules.cases import HARD_RULE, case_id_of
from p2pfl.rules.council import compare, derive_council
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.state import COOLDOWN_BLOCKS, CouncilState
from p2pfl.rules.verdicts import admissible_cases, check_measurement, check_verdict_certificate
from p2pfl.signed import Verdict

from .world import World, world

RULES = dataclasses.replace(DEFAULT_RULES, replay_max_ppm=100_000, case_blocks=3)
ABOVE, BELOW = 100_001, 100_000


@pytest.fixture
def there() -> World:
    return world(rules=RULES)


def case_of(there: World, accused: MemberId, opened: int, *, height: int = 0, cause: str = HARD_RULE) -> Case:
    group = there.genesis.group_of(accused) if accused != ZERO_MEMBER else "g0"
    case = Case(
        case_id=ZERO_DIGEST,
        group_id=there.genesis.group_id(group),
        epoch=0,
        height=height,
        block_id=Digest(bytes([height + 1]) * 32),
        cause=cause,
        chunks=(),
        candidates=(),
        accused=accused,
        deadline_height=opened + RULES.case_blocks,
    )
    return dataclasses.replace(case, case_id=case_id_of(case))


def accuse(there: World, accused: MemberId) -> tuple[CouncilState, Case]:
    """A chain of one block, which opens a case against this member."""
    case = case_of(there, accused, 0)
    state, derived = there.advance(CouncilState.genesis(there.genesis), cases=[case])
    assert derived.body.cases == (case,)
    return state, case


def measured(there: World, case: Case, *values: int, status: int = 0):
    """Each seat in turn measured so much."""
    seats = there.members(COUNCIL)
    return [
        there.measurement(seat, case.case_id, case.accused, value, status)
        for seat, value in zip(seats, values)
    ]


def outcome_of(state: CouncilState, case: Case) -> str:
    return state.cases[case.case_id].outcome


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ((ABOVE, ABOVE, ABOVE), "guilty"),
        ((ABOVE, ABOVE, ABOVE, BELOW), "guilty"),
        ((BELOW, BELOW, BELOW), "cleared"),
        ((ABOVE, ABOVE, BELOW, BELOW), "open"),
        ((ABOVE, ABOVE), "open"),
        ((ABOVE, ABOVE, BELOW), "open"),
        ((), "open"),
    ],
)
def test_guilty_and_cleared_take_a_quorum_of_seats(
    there: World, values: tuple[int, ...], outcome: str
) -> None:
    state, case = accuse(there, there.members("g1")[0])
    state, derived = there.advance(state, measurements=measured(there, case, *values))
    assert outcome_of(state, case) == outcome
    assert [each.outcome for each in derived.body.outcomes] == ([] if outcome == "open" else [outcome])


def test_measurements_of_different_blocks_count_together(there: World) -> None:
    state, case = accuse(there, there.members("g1")[0])
    all_four = measured(there, case, ABOVE, ABOVE, ABOVE, ABOVE)
    state, _ = there.advance(state, measurements=all_four[:2])
    assert outcome_of(state, case) == "open"
    state, derived = there.advance(state, measurements=all_four[2:3])
    assert outcome_of(state, case) == "guilty"
    assert len(derived.body.outcomes[0].measurements) == 3 == len(set(derived.body.outcomes[0].measurements))


def test_the_order_in_which_measurements_came_does_not_matter(there: World) -> None:
    state, case = accuse(there, there.members("g1")[0])
    found = measured(there, case, ABOVE, BELOW, ABOVE, ABOVE)
    inputs = there.council_inputs(state, ())
    comparison = compare(inputs)
    one, two = (
        derive_council(inputs, comparison, root_update_id=ZERO_DIGEST, measurements=order).body
        for order in (found, found[::-1])
    )
    assert one == two and one.outcomes


def test_no_opening_takes_a_quorum_after_the_deadline_and_is_undone_by_an_opening(there: World) -> None:
    state, case = accuse(there, there.members("g2")[3])
    silent = measured(there, case, 0, 0, 0, status=1)
    with pytest.raises(PeerFault, match="still has time"):
        there.advance(state, measurements=silent)
    while state.height + 1 < case.deadline_height:
        state, _ = there.advance(state)
    state, _ = there.advance(state, measurements=silent)
    assert outcome_of(state, case) == "no_opening"
    assert [verdict.offence for verdict in state.due_verdicts()] == [NO_OPENING]
    state, _ = there.advance(state, measurements=measured(there, case, BELOW, BELOW, BELOW))
    assert outcome_of(state, case) == "cleared"
    assert state.due_verdicts() == []


def test_a_case_on_which_the_seats_cannot_agree_is_cleared_in_the_end(there: World) -> None:
    state, case = accuse(there, there.members("g1")[0])
    state, _ = there.advance(state, measurements=measured(there, case, ABOVE, ABOVE, BELOW, BELOW))
    while state.height < case.deadline_height + RULES.case_blocks:
        state, _ = there.advance(state)
        assert outcome_of(state, case) == "open"
    state, derived = there.advance(state)
    assert outcome_of(state, case) == "cleared"
    assert derived.body.outcomes[0].measurements == ()  # Nobody's word cleared it.


def test_a_guilty_or_cleared_case_takes_no_more_measurements(there: World) -> None:
    state, case = accuse(there, there.members("g1")[0])
    found = measured(there, case, ABOVE, ABOVE, ABOVE, ABOVE)
    state, _ = there.advance(state, measurements=found[:3])
    with pytest.raises(PeerFault, match="no open case"):
        there.advance(state, measurements=found[3:])


def test_a_measurement_must_be_a_seats_own_of_this_case(there: World) -> None:
    accused = there.members("g1")[0]
    state, case = accuse(there, accused)
    seat = there.members(COUNCIL)[0]
    right = there.measurement(seat, case.case_id, accused, BELOW)
    assert check_measurement(right, state, 1) == seat
    for wrong in (
        there.measurement(accused, case.case_id, accused, BELOW),  # No seat.
        there.measurement(seat, case.case_id, there.members("g1")[1], BELOW),
        there.measurement(seat, Digest(b"\1" * 32), accused, BELOW),
        there.measurement(seat, case.case_id, accused, BELOW, status=2),
        dataclasses.replace(right, signature=bytes(65)),
        dataclasses.replace(right, measurement=dataclasses.replace(right.measurement, worst_ppm=ABOVE)),
        dataclasses.replace(right, measurement=dataclasses.replace(right.measurement, epoch=1)),
    ):
        with pytest.raises(PeerFault) as fault:
            check_measurement(wrong, state, 1)
        assert fault.value.reason == "bad_measurement"


def test_a_seat_measures_once(there: World) -> None:
    state, case = accuse(there, there.members("g1")[0])
    first, again = measured(there, case, ABOVE)[0], measured(there, case, BELOW)[0]
    with pytest.raises(PeerFault, match="measured already"):
        there.advance(state, measurements=[first, again])
    state, _ = there.advance(state, measurements=[first])
    with pytest.raises(PeerFault, match="measured already"):
        there.advance(state, measurements=[again])


# ---------------------------------------------------------------------------
# Verdicts.


def guilty(there: World) -> tuple[CouncilState, Case]:
    state, case = accuse(there, there.members("g1")[0])
    state, _ = there.advance(state, measurements=measured(there, case, ABOVE, ABOVE, ABOVE))
    return state, case


def test_a_verdict_is_due_once_and_says_what_the_case_says(there: World) -> None:
    state, case = guilty(there)
    (verdict,) = state.due_verdicts()
    assert verdict == Verdict(case.group_id, 0, case.height, case.accused, REPLAY_MISMATCH, case.case_id)
    state, derived = there.advance(state, certificates=[there.certified(verdict)])
    assert state.due_verdicts() == [] and len(derived.body.certificates) == 1
    with pytest.raises(PeerFault, match="bad_verdict"):
        there.advance(state, certificates=[there.certified(verdict)])


def test_a_verdict_without_outcome_quorum_or_order_is_refused(there: World) -> None:
    state, case = accuse(there, there.members("g1")[0])
    wished = Verdict(case.group_id, 0, case.height, case.accused, REPLAY_MISMATCH, case.case_id)
    with pytest.raises(PeerFault, match="no case"):
        check_verdict_certificate(there.certified(wished), state)
    state, _ = there.advance(state, measurements=measured(there, case, ABOVE, ABOVE, ABOVE))
    right = there.certified(wished)
    assert len(check_verdict_certificate(right, state)) == 3
    other = dataclasses.replace(wished, accused=there.members("g1")[1])
    for wrong in (
        there.certified(wished, seats=2),
        there.certified(other),
        there.certified(dataclasses.replace(wished, offence=NO_OPENING)),
        dataclasses.replace(right, signatures=right.signatures[::-1]),
        dataclasses.replace(right, signatures=(right.signatures[0],) * 3),
        dataclasses.replace(right, signatures=(*right.signatures[:2], bytes(65))),
        dataclasses.replace(right, verdict=wished, signatures=there.certified(other).signatures),
    ):
        with pytest.raises(PeerFault) as fault:
            check_verdict_certificate(wrong, state)
        assert fault.value.reason == "bad_verdict"
    with pytest.raises(PeerFault, match="twice"):
        there.advance(state, certificates=[right, right])


# ---------------------------------------------------------------------------
# Cases and standings.


def test_standings_follow_the_case(there: World) -> None:
    accused = there.members("g1")[2]
    group_id = there.genesis.group_id("g1")
    assert CouncilState.genesis(there.genesis).standings(group_id, 0) == ()
    state, case = accuse(there, accused)
    assert state.standings(group_id, 0) == (Standing(accused, case.case_id, "open"),)
    assert state.standings(there.genesis.group_id("g0"), 0) == ()
    state, _ = there.advance(state, measurements=measured(there, case, BELOW, BELOW, BELOW))
    assert state.standings(group_id, 0) == (Standing(accused, case.case_id, "cleared"),)


def test_the_latest_case_says_how_a_member_stands(there: World) -> None:
    accused = there.members("g1")[2]
    state, first = accuse(there, accused)
    state, _ = there.advance(state, measurements=measured(there, first, BELOW, BELOW, BELOW))
    while not state.may_accuse(accused, state.height + 1):
        state, _ = there.advance(state)
    second = case_of(there, accused, state.height + 1, height=5)
    state, _ = there.advance(state, cases=[second])
    assert state.standings(second.group_id, 0) == (Standing(accused, second.case_id, "open"),)


def test_nobody_is_asked_twice_at_once_and_a_cleared_member_has_a_pause(there: World) -> None:
    accused = there.members("g1")[2]
    state, case = accuse(there, accused)
    assert not state.may_accuse(accused, 1)
    again = case_of(there, accused, 1, height=1)
    assert admissible_cases(state, [again], 1) == ()
    state, _ = there.advance(state, measurements=measured(there, case, BELOW, BELOW, BELOW))
    for height in range(2, 2 + COOLDOWN_BLOCKS - 1):
        assert not state.may_accuse(accused, height)
    assert state.may_accuse(accused, 2 + COOLDOWN_BLOCKS)
    later = case_of(there, accused, 2 + COOLDOWN_BLOCKS, height=6)
    assert admissible_cases(state, [later], 2 + COOLDOWN_BLOCKS) == (later,)


def test_the_guilty_are_not_accused_again(there: World) -> None:
    state, case = guilty(there)
    assert not state.may_accuse(case.accused, 1_000)
    assert state.standings(case.group_id, 0)[0].outcome == "guilty"


def test_one_block_opens_one_case_for_a_member_and_asks_once_about_a_block(there: World) -> None:
    a, b = there.members("g1")[:2]
    state = CouncilState.genesis(there.genesis)
    first, second = case_of(there, a, 0), case_of(there, a, 0, height=1)
    other, nobody = case_of(there, b, 0), case_of(there, ZERO_MEMBER, 0)
    assert admissible_cases(state, [first, second, other, nobody], 0) == (first, other, nobody)
    state, _ = there.advance(state, cases=[nobody])
    assert outcome_of(state, nobody) == "cleared" and state.open_cases() == []
    assert admissible_cases(state, [nobody], 1 - 1) == ()


def test_a_case_with_a_wrong_id_or_deadline_is_refused(there: World) -> None:
    state = CouncilState.genesis(there.genesis)
    right = case_of(there, there.members("g1")[0], 0)
    for wrong in (
        dataclasses.replace(right, case_id=ZERO_DIGEST),
        dataclasses.replace(right, accused=there.members("g1")[1]),
        case_of(there, there.members("g1")[0], 1),
    ):
        with pytest.raises(PeerFault, match="bad_case"):
            admissible_cases(state, [wrong], 0)
