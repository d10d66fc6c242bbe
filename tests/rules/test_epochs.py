"""Who sits where next: a function of the council's chain, and what may not stand in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import pytest
from coincurve import PrivateKey

from consensus.chain import BadBlock
from consensus.signing import address, sign, signing_digest
from consensus.types import Digest, MemberId, RoundChange, SignedRoundChange
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL, Epochs, MemberEntry
from p2pfl.membership import (
    AssignedGroup,
    Assignment,
    Closing,
    Join,
    Leave,
    SignedJoin,
    SignedLeave,
    entry_hash,
)
from p2pfl.net.identity import peer_id_of
from p2pfl.records import CaseOutcome
from p2pfl.roster import Roster, UnknownEpoch
from p2pfl.rules.council import compare, derive_council
from p2pfl.rules.epochs import (
    Turnover,
    check_join,
    check_leave,
    check_turnover,
    derive_assignment,
    epoch_seed,
    stalled,
)
from p2pfl.rules.state import CouncilState
from tests.rules.test_verdicts import RULES, accuse
from tests.rules.world import World, world

EPOCHS = Epochs(blocks=3, stall_ms=60_000)
NOW = 10_000
NEW = PrivateKey(b"\x09" * 32)


@pytest.fixture
def there() -> World:
    return world(epochs=EPOCHS, rules=RULES)


def after(there: World, blocks: int, *, time_ms: int = NOW, turnover: Turnover | None = None) -> CouncilState:
    """The state after so many council blocks, the last with these records."""
    there.tips.clear()
    there.logs.clear()
    state = CouncilState.genesis(there.genesis)
    for left in reversed(range(blocks)):
        records = turnover if turnover is not None and not left else Turnover(time_ms)
        inputs = there.council_inputs(state, ())
        body = derive_council(
            inputs, compare(inputs), root_update_id=Digest(bytes(32)), turnover=records
        ).body
        header, _ = there.decide(COUNCIL, body)
        state = state.apply(replace(header, time_ms=time_ms), body)
    return state


def join(there: World, *, key: PrivateKey = NEW, council: int = 0, name: str = "new") -> SignedJoin:
    peer_id = peer_id_of(sha256(name.encode()).digest())
    entry = MemberEntry(name, address(key.public_key), peer_id, "/ip4/127.0.0.1/tcp/1")
    asked = Join(entry.member_id, entry_hash(entry, ""), council)
    return SignedJoin(asked, entry, "", sign(key, signing_digest(there.genesis.domain(COUNCIL), asked)))


def leave(there: World, member: MemberId, epoch: int = 0) -> SignedLeave:
    notice = Leave(epoch, member)
    digest = signing_digest(there.genesis.domain(COUNCIL), notice)
    return SignedLeave(notice, sign(there.secrets[member], digest))


def alive(there: World, group: str, members: Sequence[MemberId], height: int = 0):
    vote = RoundChange(0, height, 2, 0, Digest(bytes(32)), Digest(bytes(32)))
    digest = signing_digest(there.genesis.domain(group), vote)
    return tuple(SignedRoundChange(vote, sign(there.secrets[member], digest)) for member in members)


def closing(there: World, group: str, living: Sequence[MemberId]) -> Closing:
    return Closing(there.genesis.group_id(group), 0, -1, Digest(bytes(32)), alive(there, group, living))


def seats_of(assignment, name: str) -> tuple[MemberId, ...]:
    return next(group.members for group in assignment.groups if group.name == name)


def everybody(assignment) -> set[MemberId]:
    return {member for group in assignment.groups for member in group.members}


# ---------------------------------------------------------------------------
# When an epoch ends, and who sits where then.


def test_the_last_block_of_an_epoch_assigns_the_next_one_and_no_other_does(there: World) -> None:
    state = after(there, 2)
    assert state.roster.epoch == 0
    assigned = derive_assignment(state, 2, Turnover(NOW), ())
    assert assigned is not None
    assert assigned.epoch == 1
    assert derive_assignment(after(there, 1), 1, Turnover(NOW), ()) is None
    assert after(there, 3).roster.epoch == 1
    assert after(there, 3).epoch_height == 3


def test_without_a_length_no_epoch_ever_ends() -> None:
    there = world()
    assert derive_assignment(CouncilState.genesis(there.genesis), 10_000, Turnover(NOW), ()) is None


def test_everybody_gets_one_seat_and_the_seed_shuffles(there: World) -> None:
    assigned = derive_assignment(after(there, 2), 2, Turnover(NOW), ())
    assert assigned is not None
    members = [member for name in ("g0", "g1", "g2") for member in seats_of(assigned, name)]
    assert sorted(members) == sorted(m for name in ("g0", "g1", "g2") for m in there.members(name))
    assert all(list(group.members) == sorted(group.members) for group in assigned.groups)
    assert any(set(seats_of(assigned, name)) != set(there.members(name)) for name in ("g0", "g1", "g2"))
    assert set(seats_of(assigned, COUNCIL)) == set(there.members(COUNCIL))
    other = world(epochs=EPOCHS, seed=Digest(b"\x08" * 32))
    again = derive_assignment(after(other, 2), 2, Turnover(NOW), ())
    assert again is not None
    assert again.groups != assigned.groups
    assert assigned.seed == epoch_seed(there.genesis, 1) != epoch_seed(there.genesis, 2)


def test_members_stay_at_their_location(there: World) -> None:
    groups = tuple(replace(g, location="north" if g.name == "g2" else "") for g in there.genesis.groups)
    apart = world(epochs=EPOCHS, groups=3)
    apart.genesis = replace(apart.genesis, groups=groups)
    assigned = derive_assignment(after(apart, 2), 2, Turnover(NOW), ())
    assert assigned is not None
    assert set(seats_of(assigned, "g2")) == set(apart.members("g2"))
    assert set(seats_of(assigned, "g0")) != set(apart.members("g0"))


def test_the_guilty_and_who_does_not_answer_have_no_seat_the_cleared_and_the_accused_have(
    there: World,
) -> None:
    accused = there.members("g1")[2]
    state, case = accuse(there, accused)
    for outcome, stays in (("guilty", False), ("no_opening", False), ("cleared", True)):
        ended = (CaseOutcome(case.case_id, outcome, ()),)
        assigned = derive_assignment(state, 2, Turnover(NOW), ended)
        assert assigned is not None
        assert (accused in everybody(assigned)) is stays, outcome
    assigned = derive_assignment(state, 2, Turnover(NOW), ())
    assert assigned is not None
    assert accused in everybody(assigned)


def test_too_few_members_for_all_groups_make_fewer_groups(there: World) -> None:
    gone = there.members("g0")[:2]
    records = Turnover(NOW, leaves=tuple(leave(there, member) for member in sorted(gone)))
    assigned = derive_assignment(after(there, 2), 2, records, ())
    assert assigned is not None
    assert [group.name for group in assigned.groups] == ["g0", "g1", COUNCIL]
    assert [len(group.members) for group in assigned.groups] == [5, 5, 4]


def test_a_newcomer_sits_in_a_group_from_the_next_epoch_on(there: World) -> None:
    state = after(there, 1, turnover=Turnover(NOW, joins=(join(there),)))
    new = address(NEW.public_key)
    assert state.roster.entry(new).name == "new"
    assert state.roster.group_of(new, 0) is None
    assigned = derive_assignment(state, 2, Turnover(NOW), ())
    assert assigned is not None
    assert new in everybody(assigned)
    assert new not in seats_of(assigned, COUNCIL)


def test_a_newcomer_for_the_council_sits_there_and_in_no_group(there: World) -> None:
    state = after(there, 1, turnover=Turnover(NOW, joins=(join(there, council=1),)))
    assigned = derive_assignment(state, 2, Turnover(NOW), ())
    assert assigned is not None
    new = address(NEW.public_key)
    assert new in seats_of(assigned, COUNCIL)
    assert sum(new in group.members for group in assigned.groups) == 1


def test_who_gave_notice_has_no_seat_in_the_next_epoch_and_may_come_back(there: World) -> None:
    member = there.members("g1")[0]
    state = after(there, 1, turnover=Turnover(NOW, leaves=(leave(there, member),)))
    assert member in state.leaving
    with pytest.raises(PeerFault, match="gone already"):
        check_leave(state, leave(there, member))
    assert after(there, 3).roster.group_of(member, 1) is not None
    assigned = derive_assignment(state, 2, Turnover(NOW), ())
    assert assigned is not None
    assert member not in everybody(assigned)
    gone = dataclasses.replace(state, departed=frozenset({member}), leaving=frozenset())
    secret = next(key for owner, key in there.secrets.items() if owner == member)
    entry = join(there, key=secret, name="g1m0").entry
    asked = Join(member, entry_hash(entry, ""), 0)
    signed = SignedJoin(asked, entry, "", sign(secret, signing_digest(there.genesis.domain(COUNCIL), asked)))
    check_join(gone, signed)


def test_seats_can_leave_but_never_all(there: World) -> None:
    seats = there.members(COUNCIL)
    one = derive_assignment(after(there, 2), 2, Turnover(NOW, leaves=(leave(there, seats[0]),)), ())
    assert one is not None
    assert set(seats_of(one, COUNCIL)) == set(seats[1:])
    notices = tuple(leave(there, seat) for seat in sorted(seats))
    none = derive_assignment(after(there, 2), 2, Turnover(NOW, leaves=notices), ())
    assert none is not None
    assert set(seats_of(none, COUNCIL)) == set(seats)


# ---------------------------------------------------------------------------
# Groups that hang.

LATE = NOW + EPOCHS.stall_ms + 1


def test_nobody_is_late_before_the_councils_first_block(there: World) -> None:
    assert stalled(CouncilState.genesis(there.genesis), 1 << 60) == []
    state = after(there, 1)
    assert stalled(state, NOW + EPOCHS.stall_ms) == []
    assert len(stalled(state, LATE)) == 3


def test_a_closing_ends_the_epoch_at_once_and_the_silent_leave(there: World) -> None:
    state, living = after(there, 1), there.members("g0")[:3]
    records = Turnover(LATE, closings=(closing(there, "g0", living),))
    check_turnover(state, records, frozenset())
    assigned = derive_assignment(state, 1, records, ())
    assert assigned is not None
    assert there.members("g0")[3] not in everybody(assigned)
    assert set(living) <= everybody(assigned)
    # The group that fell is filled last: eleven make two groups, and it is not one of them.
    assert [group.name for group in assigned.groups] == ["g1", "g2", COUNCIL]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda c: replace(c, epoch=1), "last counted"),
        (lambda c: replace(c, height=3), "last counted"),
        (lambda c: replace(c, block_id=Digest(b"\x01" * 32)), "last counted"),
        (lambda c: replace(c, alive=c.alive[::-1]), "order"),
        (lambda c: replace(c, alive=c.alive[:1] * 2), "order"),
        (lambda c: replace(c, group_id=Digest(b"\x01" * 32)), "order"),
    ],
)
def test_a_closing_that_does_not_tell_the_truth_is_refused(there: World, wrong, why: str) -> None:
    good = closing(there, "g0", there.members("g0")[:2])
    with pytest.raises(PeerFault, match=why):
        check_turnover(after(there, 1), Turnover(LATE, closings=(wrong(good),)), frozenset())


def test_only_votes_of_the_open_height_by_members_show_life(there: World) -> None:
    state, base = after(there, 1), closing(there, "g0", ())
    for living, why in (
        (alive(there, "g0", there.members("g0")[:1], height=1), "another height"),
        (alive(there, "g0", there.members("g1")[:1]), "no member"),
    ):
        with pytest.raises(PeerFault, match=why):
            check_turnover(state, Turnover(LATE, closings=(replace(base, alive=living),)), frozenset())


def test_a_group_that_still_decides_is_not_closed(there: World) -> None:
    state = after(there, 1)
    records = Turnover(NOW + 5, closings=(closing(there, "g0", ()),))
    with pytest.raises(PeerFault, match="does not stand still"):
        check_turnover(state, records, frozenset())
    late = Turnover(LATE, closings=(closing(there, "g0", ()),))
    with pytest.raises(PeerFault, match="counts"):
        check_turnover(state, late, frozenset({there.genesis.group_id("g0")}))


def test_blocks_above_a_closing_are_void_and_the_next_epoch_begins_there(there: World) -> None:
    roster = Roster.of(there.genesis)
    with pytest.raises(UnknownEpoch):
        roster.committee("g0", 1)
    records = closing(there, "g0", there.members("g0")[:3])
    closed = roster.after((), (records,), None, NOW)
    header, _ = there.decide("g0", derive_council_body(there))
    with pytest.raises(BadBlock, match="void"):
        closed.decides("g0", header, tip=None, tip_id=Digest(bytes(32)))
    committee, _ = roster.decides("g0", header, tip=None, tip_id=Digest(bytes(32)))
    assert committee == there.genesis.committee("g0")
    assert closed.closed_at("g0", 1, None, Digest(bytes(32)))
    assert not closed.closed_at("g0", 1, header, Digest(b"\x02" * 32))


def derive_council_body(there: World):
    inputs = there.council_inputs(CouncilState.genesis(there.genesis), ())
    return derive_council(inputs, compare(inputs), root_update_id=Digest(bytes(32))).body


@pytest.mark.parametrize(
    ("epoch", "names"), [(2, ("g0", COUNCIL)), (1, ("g0",)), (1, ("mars", COUNCIL)), (1, (COUNCIL, COUNCIL))]
)
def test_an_assignment_that_cannot_be_is_never_folded(
    there: World, epoch: int, names: tuple[str, ...]
) -> None:
    groups = tuple(AssignedGroup(name, there.members("g0")) for name in names)
    with pytest.raises(ValueError, match="assignment"):
        Roster.of(there.genesis).after((), (), Assignment(epoch, Digest(bytes(32)), groups), NOW)
