"""Labels that a good model disagrees with: left out for a time, reviewed, out after the last. No stake."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from consensus.types import ZERO_DIGEST, Digest, MemberId
from p2pfl.genesis import COUNCIL, Epochs
from p2pfl.learn.labels import LABELS_MIN, NOTHING_SAID, judged
from p2pfl.records import Candidate, Case
from p2pfl.rules.cases import case_id_of
from p2pfl.rules.council import CouncilState
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.state import HARMFUL, LEFT_OUT, RETURNED
from p2pfl.rules.verdicts import is_harmful

from .world import World, world

RULES = dataclasses.replace(DEFAULT_RULES, harmful_blocks=3, harmful_times=2, audit_share_ppm=0)
# Of (what disagrees, what is expected), in millionths.
WRONG, RIGHT = (900_000, 50_000), (60_000, 50_000)


def opened(
    there: World, accused: MemberId, state: CouncilState, height: int, cause: str = "hard_rule"
) -> Case:
    case = Case(
        case_id=ZERO_DIGEST,
        group_id=there.genesis.group_id("g1"),
        epoch=0,
        height=height,
        block_id=Digest(bytes([height + 1]) * 32),
        cause=cause,
        chunks=(),
        candidates=(Candidate(accused, 0, ZERO_DIGEST, 0, 0, 0),),
        accused=accused,
        deadline_height=state.height + 1 + RULES.case_blocks,
    )
    return dataclasses.replace(case, case_id=case_id_of(case))


def after(
    there: World, state: CouncilState, case: Case, *found: tuple[int, int], worst: int = 0
) -> CouncilState:
    """The case opened, then measured by as many seats as there are findings."""
    state, _ = there.advance(state, cases=[case])
    signed = [
        there.measurement(seat, case.case_id, case.accused, worst, disagree_ppm=told[0], expected_ppm=told[1])
        for seat, told in zip(there.members(COUNCIL), found, strict=False)
    ]
    return there.advance(state, measurements=signed)[0]


@pytest.fixture
def there() -> World:
    return world(rules=RULES, epochs=Epochs(blocks=30))


def outcome(state: CouncilState, case: Case) -> str:
    return state.cases[case.case_id].outcome


def test_a_quorum_that_finds_the_labels_wrong_leaves_a_member_out_and_slashes_nobody(there: World) -> None:
    accused, start = there.members("g1")[1], CouncilState.genesis(there.genesis)
    case = opened(there, accused, start, 0)
    state = after(there, start, case, WRONG, WRONG, WRONG)
    assert outcome(state, case) == HARMFUL and HARMFUL in LEFT_OUT
    assert state.due_verdicts() == []
    assert [each.outcome for each in state.standings(case.group_id, 0)] == [HARMFUL]
    assert not state.may_accuse(accused, state.height + 1)


@pytest.mark.parametrize("found", [(WRONG, WRONG, RIGHT, RIGHT), (WRONG, WRONG, RIGHT)])
def test_less_than_a_quorum_decides_nothing(there: World, found: tuple[tuple[int, int], ...]) -> None:
    start = CouncilState.genesis(there.genesis)
    case = opened(there, there.members("g1")[1], start, 0)
    assert outcome(after(there, start, case, *found), case) == "open"


def test_one_seat_that_lies_neither_excludes_nor_clears(there: World) -> None:
    start = CouncilState.genesis(there.genesis)
    case = opened(there, there.members("g1")[1], start, 0)
    assert outcome(after(there, start, case, WRONG, RIGHT, RIGHT, RIGHT), case) == "cleared"
    other = world(rules=RULES)
    start = CouncilState.genesis(other.genesis)
    case = opened(other, other.members("g1")[1], start, 0)
    assert outcome(after(other, start, case, RIGHT, WRONG, WRONG, WRONG), case) == HARMFUL


def test_who_did_not_train_on_its_labels_is_guilty_whatever_they_say(there: World) -> None:
    start = CouncilState.genesis(there.genesis)
    case = opened(there, there.members("g1")[1], start, 0)
    state = after(there, start, case, WRONG, WRONG, WRONG, worst=RULES.replay_max_ppm + 1)
    assert outcome(state, case) == "guilty"


def test_a_model_that_is_not_good_yet_judges_nobody(there: World) -> None:
    start = CouncilState.genesis(there.genesis)
    case = opened(there, there.members("g1")[1], start, 0)
    silent = (NOTHING_SAID.disagree_ppm, NOTHING_SAID.expected_ppm)
    assert outcome(after(there, start, case, silent, silent, silent), case) == "cleared"
    nothing = there.measurement(
        there.members(COUNCIL)[0], ZERO_DIGEST, case.accused, 0,
        disagree_ppm=NOTHING_SAID.disagree_ppm, expected_ppm=NOTHING_SAID.expected_ppm,
    )  # fmt: skip
    assert not is_harmful(nothing.measurement, RULES)


def test_labels_on_which_the_model_errs_most_are_judged_by_what_is_beyond_its_errors(there: World) -> None:
    start = CouncilState.genesis(there.genesis)
    case = opened(there, there.members("g1")[1], start, 0)
    all_one_label = (990_000, 2 * RULES.harmful_error_max_ppm)
    assert outcome(after(there, start, case, *[all_one_label] * 3), case) == HARMFUL


def test_an_exclusion_ends_and_the_second_one_ends_the_membership_with_the_epoch(there: World) -> None:
    accused, start = there.members("g1")[1], CouncilState.genesis(there.genesis)
    first = opened(there, accused, start, 0)
    state = after(there, start, first, WRONG, WRONG, WRONG)
    for _ in range(RULES.harmful_blocks):
        assert not state.returned(accused)
        state, _ = there.advance(state)
    state, _ = there.advance(state)
    assert state.returned(accused)
    assert [each.outcome for each in state.standings(first.group_id, 0)] == [RETURNED]
    assert RETURNED not in LEFT_OUT and state.may_accuse(accused, state.height + 1, "review")
    second = opened(there, accused, state, 1, "review")
    assert accused not in state.leaving
    state = after(there, state, second, WRONG, WRONG, WRONG)
    assert accused in state.leaving and not state.returned(accused)
    while state.roster.epoch == 0:
        state, _ = there.advance(state)
    assert accused in state.departed
    assert state.roster.group_of(accused, 1) is None
    assert state.roster.group_of(there.members("g1")[2], 1) is not None


def test_a_model_s_own_errors_are_expected_in_the_mix_of_labels_that_were_opened() -> None:
    public = np.array([0, 0, 1, 1])
    errors = np.array([False, False, True, False])
    labels = np.array([0, 1, 1, 1] * 10)
    wrong = np.array([False, True, True, False] * 10)
    found = judged(wrong, labels, errors, public, 3, 250_000)
    assert (found.disagree_ppm, found.expected_ppm) == (500_000, 375_000)
    unknown = judged(wrong, np.array([2] * 40), errors, public, 3, 250_000)
    assert unknown.expected_ppm == 1_000_000
    assert judged(wrong, labels, errors, public, 3, 249_999) == NOTHING_SAID
    assert judged(wrong, labels, errors[:0], public[:0], 3, 250_000) == NOTHING_SAID
    for few in (0, 1, LABELS_MIN - 1):
        assert judged(wrong[:few], labels[:few], errors, public, 3, 250_000) == NOTHING_SAID
