"""Ballots: who may say what of a block, what more than half do, what is left of a block taken back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from consensus.committee import Committee
from consensus.signing import block_id, sign, signing_digest
from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.params import Base, apply_update
from p2pfl.records import MICRO, BaseRef, GroupBody
from p2pfl.rules import ballots as rules
from p2pfl.rules.aggregate import combine
from p2pfl.rules.council import CouncilState, compare, derive_council
from p2pfl.rules.sound import unsound
from p2pfl.rules.taking_back import contribution, own_steps, take
from p2pfl.rules.validate import Derived, check_group_body, derive_group_body
from p2pfl.signed import SignedBallot

from .world import EXPONENTS, LAYOUT, World, honest_updates, world

ROOT_ID = Digest(b"\x0a" * 32)
WORSE, BETTER = (1.0, 2.5), (2.0, 1.0)


@pytest.fixture
def there() -> World:
    return world()


def ballots(
    there: World, group: str, losses: Sequence[tuple[float, float] | None], *, of: Digest | None = None
) -> tuple[SignedBallot, ...]:
    """On the group's last block, one of each member in committee order as far as there are losses."""
    header = there.tips[group]
    found: list[SignedBallot] = []
    for member, each in zip(there.members(group), losses, strict=False):
        ballot = rules.make(0, header.height, of or block_id(header), each)
        signature = sign(there.secrets[member], signing_digest(there.genesis.domain(group), ballot))
        found.append(SignedBallot(ballot, signature))
    return tuple(found)


def block(there: World, group: str, height: int, base: Base, **more: Any) -> Derived:
    """A block of this height on a base of the council's (as far as the rules of a group can tell)."""
    updates = honest_updates(there, group, 5, height=height)
    return derive_group_body(there.inputs(group, updates, height=height, base_values=base, **more))


def after(there: World, group: str, parent: Derived) -> dict[str, Any]:
    return {"parent": parent.body, "parent_id": block_id(there.tips[group])}


# -- what one member says ------------------------------------------------------


def test_a_loss_is_a_whole_number_of_millionths_whatever_was_computed() -> None:
    assert rules.loss_micro(0.25) == 250_000
    assert rules.loss_micro(0.0) == 1  # Zero says: not measured.
    assert {rules.loss_micro(each) for each in (math.nan, math.inf, 1e30)} == {rules.LOSS_MAX_MICRO}


def test_a_member_rejects_what_rose_by_a_quarter_and_by_one() -> None:
    assert rules.approves(8 * MICRO, 10_000_000) and not rules.approves(8 * MICRO, 10_000_001)
    assert rules.approves(10_000, 1_010_000) and not rules.approves(10_000, 1_010_001)
    assert rules.is_abstention(rules.make(0, 0, ROOT_ID, None))
    assert rules.make(0, 0, ROOT_ID, None).approve == 1
    assert rules.make(0, 0, ROOT_ID, (0.1, math.nan)).approve == 0
    assert rules.make(0, 0, ROOT_ID, (math.nan, math.nan)).approve == 1


# -- what they may say together ---------------------------------------------------


def refused(there: World, said: Sequence[SignedBallot], *, due: bool = True, **place: Any) -> str:
    header = there.tips["g0"]
    where = {"epoch": 0, "height": header.height, "block_id": block_id(header), **place}
    with pytest.raises(PeerFault, match="bad_ballot") as fault:
        rules.check(said, there.genesis.domain("g0"), there.genesis.committee("g0"), due=due, **where)
    return fault.value.detail


def test_a_block_holds_ballots_of_a_quorum_of_members_about_its_parent(there: World) -> None:
    there.decide("g0", block(there, "g0", 0, there.base).body)
    there.decide("g1", block(there, "g1", 0, there.base).body)
    said = ballots(there, "g0", [WORSE, BETTER, None, BETTER])
    place = {"epoch": 0, "height": 0, "block_id": block_id(there.tips["g0"]), "due": True}
    for good in (said, said[1:], ()):
        rules.check(good, there.genesis.domain("g0"), there.genesis.committee("g0"), **place)
    assert "are needed" in refused(there, said[:2])
    assert "order" in refused(there, (said[1], said[0], said[2]))
    assert "order" in refused(there, (said[0], said[0], said[1]))
    assert "asked" in refused(there, said, due=False)
    assert "another block" in refused(there, ballots(there, "g0", [WORSE] * 4, of=ROOT_ID))
    assert "another block" in refused(there, said, epoch=1)
    stranger = ballots(there, "g1", [BETTER], of=block_id(there.tips["g0"]))
    assert "no member" in refused(there, (*said[:2], *stranger))
    turned = dataclasses.replace(said[0].ballot, approve=1)
    assert "follows" in refused(there, (SignedBallot(turned, said[0].signature), *said[1:]))
    beyond = dataclasses.replace(said[0].ballot, loss_new_micro=rules.LOSS_MAX_MICRO + 1)
    assert "bounds" in refused(there, (SignedBallot(beyond, said[0].signature), *said[1:]))


@pytest.mark.parametrize("size", range(4, 17))
def test_liars_alone_take_nothing_back_and_keep_nothing_that_the_honest_reject(size: int) -> None:
    """Whichever quorum of the ballots a lying Ci picks."""
    committee = Committee(0, tuple(MemberId(bytes([n]) * 20) for n in range(1, size + 1)))
    f = committee.faulty_max

    def decided(rejecting: int, of: int) -> bool:
        said = [rules.make(0, 0, ROOT_ID, WORSE)] * rejecting + [rules.make(0, 0, ROOT_ID, BETTER)] * (
            of - rejecting
        )
        return rules.rejected_by([SignedBallot(each, b"") for each in said])

    for held in range(committee.quorum, size + 1):
        assert not decided(f, held)
        assert decided(held - f, held)


# -- what follows in the group ----------------------------------------------------


def test_a_block_that_rejects_its_parent_adds_nothing_and_asks_nobody(there: World) -> None:
    bad = block(there, "g0", 0, there.base)
    there.decide("g0", bad.body)
    no, known = ballots(there, "g0", [WORSE, WORSE, None, WORSE]), after(there, "g0", bad)
    with pytest.raises(ValueError, match="missing"):
        block(there, "g0", 1, bad.next_base, ballots=no, **known)
    found = block(there, "g0", 1, bad.next_base, ballots=no, old_base=there.base, **known)
    assert rules.rejects(found.body) and not any(found.body.weights)
    assert not found.aggregate.values.any()
    assert found.next_base is there.base
    header, _ = there.decide("g0", found.body)
    committee = there.genesis.committee("g0")
    assert unsound(there.genesis, "g0", committee, header, found.body) is None
    heavy = dataclasses.replace(found.body, weights=(1, 1, 1, 1))
    assert unsound(there.genesis, "g0", committee, header, heavy) == "its weights do not follow"
    # Twice in a row nothing is taken back: the next block may hold no ballots.
    assert not rules.are_due(found.body, there.genesis.rules)
    again = {"ballots": ballots(there, "g0", [WORSE] * 4), "old_base": there.base}
    with pytest.raises(PeerFault, match="bad_ballot"):
        block(there, "g0", 2, there.base, **again, **after(there, "g0", found))
    third = block(there, "g0", 2, there.base, **after(there, "g0", found))
    assert rules.are_due(third.body, there.genesis.rules)


def test_half_of_the_ballots_reject_nothing_and_other_words_are_another_body(there: World) -> None:
    first = block(there, "g0", 0, there.base)
    there.decide("g0", first.body)
    said, known = ballots(there, "g0", [WORSE, WORSE, BETTER, None]), after(there, "g0", first)
    found = block(there, "g0", 1, first.next_base, ballots=said, **known)
    assert all(found.body.weights) and found.aggregate.values.any()
    updates = honest_updates(there, "g0", 5, height=1)
    inputs = there.inputs(
        "g0", updates, height=1, base_values=first.next_base, ballots=said[1:], old_base=there.base, **known
    )
    with pytest.raises(PeerFault, match="wrong_"):
        check_group_body(found.body, inputs)


def test_the_first_block_of_an_epoch_an_idle_one_and_a_network_without_ballots_hold_none(
    there: World,
) -> None:
    first = block(there, "g0", 0, there.base)
    there.decide("g0", first.body)
    said = ballots(there, "g0", [BETTER] * 4)
    with pytest.raises(PeerFault, match="bad_ballot"):
        block(there, "g0", 1, first.next_base, ballots=said, parent_id=block_id(there.tips["g0"]))
    idle = dataclasses.replace(first.body, txs=(), close=None, weights=())
    assert not rules.are_due(idle, there.genesis.rules)
    assert not rules.are_due(first.body, dataclasses.replace(there.genesis.rules, ballots=0))


def test_steps_from_the_councils_base_leave_out_what_was_rejected() -> None:
    there = world()
    bodies: dict[int, GroupBody] = {}
    made = block(there, "g0", 0, there.base)
    there.decide("g0", made.body)
    yes, no = ballots(there, "g0", [BETTER] * 4), ballots(there, "g0", [WORSE] * 4)
    for height in range(4):
        said = {1: yes, 2: no}.get(height, ())
        bodies[height] = dataclasses.replace(
            made.body, aggregate_id=Digest(bytes([height]) * 32), ballots=said
        )

    def heights(upto: int, **more: Any) -> list[int]:
        known = {each: body for each, body in bodies.items() if each < upto}
        return [step.aggregate_id[0] for step in own_steps(None, known, upto, **more)]

    assert heights(2) == [0, 1]
    assert heights(2, without_last=True) == [0]  # What block 2 goes back to
    assert heights(3) == [0]  # is what follows it.
    assert heights(4) == [0, 3]
    assert own_steps(None, {}, 2) == ()


# -- what follows in the council ------------------------------------------------------


def settled(there: World, state: CouncilState, rounds: Sequence[tuple[str, Derived]], base: Base) -> Any:
    """A council block that counts these: (state after it, its inputs, what was compared)."""
    inputs = there.council_inputs(state, rounds, base_values=base)
    comparison = compare(inputs)
    derived = derive_council(inputs, comparison, root_update_id=ROOT_ID)
    header, _ = there.decide(COUNCIL, derived.body)
    return state.apply(header, derived.body), inputs, comparison


def rejection(there: World, group: str, bad: Derived, base: Base) -> Derived:
    """The group's next block, which takes `bad` back."""
    no = ballots(there, group, [WORSE] * 4)
    return block(
        there,
        group,
        bad.body.txs[0].tx.height + 1,
        base,
        ballots=no,
        old_base=there.base,
        **after(there, group, bad),
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_the_council_takes_back_exactly_what_it_added(seed: int) -> None:
    """Nothing else was added: bit for bit the base before, where float32 can hold the sums."""
    there = world(groups=1)
    units = np.random.default_rng(seed).integers(-(2**12), 2**12, LAYOUT.size)
    base = Base(LAYOUT, (units * 2.0**-14).astype(np.float32))
    start = CouncilState.genesis(there.genesis)
    bad = block(there, "g0", 0, base)
    state, _, first = settled(there, start, [("g0", bad)], base)
    assert np.abs(first.base.values - base.values).max() > 0.01
    added = state.added[there.genesis.group_id("g0")]
    assert np.array_equal(contribution(added, bad.aggregate).values, first.mean.values)
    said = rejection(there, "g0", bad, first.base)
    inputs = there.council_inputs(state, [("g0", said)], base_values=first.base)
    aggregates = {**inputs.aggregates, bad.body.aggregate_id: bad.aggregate}
    second = compare(dataclasses.replace(inputs, aggregates=aggregates))
    assert second.base.values.tobytes() == base.values.tobytes()
    assert not second.mean.values.any() and second.rows[0].weight == 0
    # Until the council has counted that, the group goes back by itself, to the same base.
    (step,) = own_steps(added, {1: said.body}, 2)
    assert take(first.base, step, bad.aggregate).values.tobytes() == base.values.tobytes()
    assert own_steps(added, {}, 1, without_last=True) == (step,)


def test_what_other_groups_bring_meanwhile_stays(there: World) -> None:
    start, names = CouncilState.genesis(there.genesis), ("g0", "g1", "g2")
    firsts = {name: block(there, name, 0, there.base) for name in names}
    state, _, first = settled(there, start, list(firsts.items()), there.base)
    rounds = [("g0", rejection(there, "g0", firsts["g0"], first.base))]
    rounds += [(name, block(there, name, 1, first.base)) for name in names[1:]]
    inputs = there.council_inputs(state, rounds, base_values=first.base)
    bad = firsts["g0"]
    aggregates = {**inputs.aggregates, bad.body.aggregate_id: bad.aggregate}
    second = compare(dataclasses.replace(inputs, aggregates=aggregates))
    gone = contribution(state.added[there.genesis.group_id("g0")], bad.aggregate)
    assert gone.values.any()
    wanted = apply_update(first.base, combine([second.mean, gone], [1, -1], 1))
    assert second.base.values.tobytes() == wanted.values.tobytes()
    assert [bool(row.weight) for row in second.rows] == [False, True, True]


def test_a_block_and_its_rejection_counted_together_are_as_if_neither_had_been(there: World) -> None:
    start = CouncilState.genesis(there.genesis)
    bad, other = block(there, "g0", 0, there.base), block(there, "g1", 0, there.base)
    group = there.genesis.group_id("g0")
    inputs = there.council_inputs(start, [("g0", bad)])
    said = rejection(there, "g0", bad, bad.next_base)
    both = there.council_inputs(start, [("g0", said), ("g1", other)])
    rejected = dataclasses.replace(inputs.counted[0], weight=0)
    whole = dataclasses.replace(
        both,
        counted=(rejected, *both.counted),
        bodies={**inputs.bodies, **both.bodies},
        aggregates={**inputs.aggregates, **both.aggregates},
    )
    found = compare(whole)
    assert found.base.values.tobytes() == apply_update(there.base, other.aggregate).values.tobytes()
    assert [row.weight for row in found.rows] == [0, sum(other.body.weights)]
    with pytest.raises(PeerFault, match="something else"):  # With its weight it would count.
        compare(dataclasses.replace(whole, counted=(*inputs.counted, *both.counted)))
    derived = derive_council(whole, found, root_update_id=ROOT_ID)
    header, _ = there.decide(COUNCIL, derived.body)
    state = start.apply(header, derived.body)
    assert state.added[group].share == 0  # Nothing of it could be taken back again.


def test_the_first_block_of_an_epoch_takes_nothing_back_whatever_its_quorum_says(there: World) -> None:
    start = CouncilState.genesis(there.genesis)
    bad = block(there, "g0", 0, there.base)
    state, _, first = settled(there, start, [("g0", bad)], there.base)
    said = rejection(there, "g0", bad, first.base)
    group = there.genesis.group_id("g0")
    moved = dataclasses.replace(state, added={group: dataclasses.replace(state.added[group], epoch=-1)})
    inputs = there.council_inputs(moved, [("g0", said)], base_values=first.base)
    assert compare(inputs).base_id == state.base_id


def test_a_delta_that_was_shortened_is_taken_back_as_short(there: World) -> None:
    """The bound on a group's length is part of what was added."""
    start, names = CouncilState.genesis(there.genesis), ("g0", "g1", "g2")
    loud = tuple(exponent + 6 for exponent in EXPONENTS)
    updates = {m: there.update(u.values, loud) for m, u in honest_updates(there, "g0", 5).items()}
    reference = BaseRef(there.genesis.initial_base_id, -1, Digest(bytes(32)), ())
    bad = derive_group_body(there.inputs("g0", updates, base=reference))
    rounds = [("g0", bad), *((name, block(there, name, 0, there.base)) for name in names[1:])]
    state, _, first = settled(there, start, rounds, there.base)
    added = state.added[there.genesis.group_id("g0")]
    assert first.rows[0].length_factor < 1 << 20 == first.rows[1].length_factor
    assert added.length_factor == first.rows[0].length_factor
    others = [derived.aggregate for _, derived in rounds[1:]]
    weights = [sum(derived.body.weights) for _, derived in rounds[1:]]
    rest = combine([first.mean, contribution(added, bad.aggregate)], [1, -1], 1)
    alone = combine(others, weights, added.total)
    unit = 2.0 ** min(*rest.exponents, *alone.exponents)
    zero = Base(LAYOUT, np.zeros(LAYOUT.size, dtype=np.float32))
    gap = apply_update(zero, rest).values - apply_update(zero, alone).values
    assert np.abs(gap).max() <= 4 * unit * 2**6
