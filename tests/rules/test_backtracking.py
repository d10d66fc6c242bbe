"""From a bad group to the one member: through the filter, with the candidates' updates only, exactly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.types import ZERO_MEMBER, Digest, MemberId
from p2pfl.params import Update
from p2pfl.records import MICRO, Candidate
from p2pfl.rules import filters
from p2pfl.rules.aggregate import combine
from p2pfl.rules.cases import (
    CANDIDATES_MAX,
    GROUP_APART,
    HARD_RULE,
    MEMBER_APART,
    GroupBlock,
    candidates,
    case_id_of,
    derive_case,
    hard_rule_cases,
    judge_case,
    leave_one_out,
)
from p2pfl.rules.chunks import chunk_ids
from p2pfl.rules.compare import compare_groups, deviating_chunks, least_alike, standing_apart
from p2pfl.rules.council import Comparison, CouncilInputs, CouncilState, compare, suspicions
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.gram import view_of

from .world import LAYOUT, World, derive_all, honest_updates, world

SALT = bytes(range(32))
RULES = dataclasses.replace(DEFAULT_RULES, aggregator="clipped_mean", group_cos_min_micro=100_000)


class Blobs(dict[MemberId, Update]):
    """Updates that remember who was asked for."""

    def __init__(self, updates: dict[MemberId, Update]) -> None:
        super().__init__(updates)
        self.fetched: list[MemberId] = []

    def __getitem__(self, member: MemberId) -> Update:
        self.fetched.append(member)
        return super().__getitem__(member)


def flipped(update: Update, scale: float = 1.0) -> Update:
    values = np.clip(np.rint(update.values * -scale), -32767, 32767)
    return Update(update.layout, update.exponents, values.astype(np.int16))


def one_round(there: World, updates: dict[str, dict[MemberId, Update]]) -> tuple[CouncilInputs, Comparison]:
    """A council that has counted one block of each group."""
    inputs = there.council_inputs(CouncilState.genesis(there.genesis), derive_all(there, 0, updates))
    return inputs, compare(inputs)


def groups_of(there: World, seed: int, **how: int) -> dict[str, dict[MemberId, Update]]:
    return {g.name: honest_updates(there, g.name, seed, **how) for g in there.genesis.groups}


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_flipper_is_named_through_the_filter_with_candidates_updates_only(seed: int, scale: float) -> None:
    there = world(rules=RULES)
    updates = groups_of(there, seed)
    flipper = there.members("g1")[seed % 4]
    updates["g1"][flipper] = flipped(updates["g1"][flipper], scale)
    inputs, comparison = one_round(there, updates)
    accused, fetched = [], []
    for suspicion in suspicions(inputs, comparison):
        name = there.genesis.group_names[suspicion.block.header.group_id]
        blobs = Blobs(updates[name])
        case = derive_case(suspicion, blobs)
        fetched += blobs.fetched
        if case is not None:
            accused.append(case.accused)
    assert accused == [flipper]
    assert fetched == [flipper]


@pytest.mark.parametrize("seed", range(5))
def test_honest_groups_lead_to_no_case_and_no_fetch(seed: int) -> None:
    there = world(rules=RULES)
    inputs, comparison = one_round(there, groups_of(there, seed))
    found = suspicions(inputs, comparison)
    assert len(found) == 3
    assert [suspicion.wanted() for suspicion in found] == [()] * 3
    assert [derive_case(suspicion, {}) for suspicion in found] == [None] * 3


def test_a_group_that_stands_apart_is_flagged_and_left_out_of_the_base() -> None:
    there = world(rules=dataclasses.replace(RULES, aggregator="mean"))
    updates = groups_of(there, 1)
    for member in there.members("g2")[:2]:
        updates["g2"][member] = flipped(updates["g2"][member], 2)
    inputs, comparison = one_round(there, updates)
    assert [row.flagged for row in comparison.rows] == [0, 0, 1]
    kept = [row.weight for row in comparison.rows[:2]]
    mean = combine(comparison.deltas[:2], kept, sum(kept))
    assert (comparison.mean.values == mean.values).all()
    # Nor is anybody compared with it: g0 has g1 alone, g2 has both.
    assert [len(each.others) for each in suspicions(inputs, comparison)] == [1, 1, 2]
    case = derive_case(suspicions(inputs, comparison)[2], updates["g2"])
    assert case is not None and case.cause == GROUP_APART
    assert case.accused in there.members("g2")[:2]
    assert case.case_id == case_id_of(case)


def test_empty_warnings_do_not_protect_a_group_that_stands_apart() -> None:
    """A colluding quorum leaves the warnings empty: then everybody who counted is looked at."""
    there = world(rules=dataclasses.replace(RULES, aggregator="mean"))
    updates = groups_of(there, 2)
    flippers = there.members("g0")[2:]
    for member in flippers:
        updates["g0"][member] = flipped(updates["g0"][member], 2)
    inputs, comparison = one_round(there, updates)
    (suspicion,) = [each for each in suspicions(inputs, comparison) if each.apart]
    empty = filters.build(filters.WARNINGS, [], there.salt, RULES.filter_rate_ppb)
    body = suspicion.block.body
    silenced = dataclasses.replace(
        body, filters=tuple(empty if each.name == filters.WARNINGS else each for each in body.filters)
    )
    suspicion = dataclasses.replace(suspicion, block=GroupBlock(suspicion.block.header, silenced))
    assert {member for member, _ in suspicion.wanted()} == set(there.members("g0"))
    case = derive_case(suspicion, updates["g0"])
    assert case is not None and case.accused in flippers
    not_apart = dataclasses.replace(suspicion, apart=False)
    assert not_apart.wanted() == () and derive_case(not_apart, {}) is None


def test_warnings_that_name_somebody_else_do_not_protect_a_group_that_stands_apart() -> None:
    """A colluding quorum warns of an honest member only: that explains nothing, so all are looked at."""
    there = world(rules=dataclasses.replace(RULES, aggregator="mean"))
    updates = groups_of(there, 2)
    flippers = there.members("g0")[2:]
    for member in flippers:
        updates["g0"][member] = flipped(updates["g0"][member], 2)
    inputs, comparison = one_round(there, updates)
    (suspicion,) = [each for each in suspicions(inputs, comparison) if each.apart]
    innocent = there.members("g0")[0]
    keys = [
        key
        for tensor, chunk in suspicion.chunks()
        for key in (
            filters.warning_key(tensor, chunk, "opposed"),
            filters.warning_key(tensor, chunk, "opposed", member=innocent),
        )
    ]
    false = filters.build(filters.WARNINGS, keys, there.salt, RULES.filter_rate_ppb)
    body = suspicion.block.body
    told = dataclasses.replace(
        body, filters=tuple(false if each.name == filters.WARNINGS else each for each in body.filters)
    )
    suspicion = dataclasses.replace(suspicion, block=GroupBlock(suspicion.block.header, told))
    assert [member for member, _ in suspicion.wanted()] == [innocent]
    first = derive_case(suspicion, {innocent: updates["g0"][innocent]})
    assert first is not None and first.accused == ZERO_MEMBER and suspicion.is_unexplained(first)
    case = derive_case(suspicion, updates["g0"])
    assert case is not None and case.accused in flippers and not suspicion.is_unexplained(case)
    assert [each.member for each in case.candidates] == list(suspicion.counted())


def test_a_deviation_that_nobody_explains_is_a_case_without_an_accused() -> None:
    there = world(rules=RULES)
    updates = groups_of(there, 3)
    own = groups_of(there, 999, signal=600)["g1"]  # All of the group learnt something else.
    updates["g1"] = {
        member: Update(LAYOUT, u.exponents, (u.values // 2).astype(np.int16)) for member, u in own.items()
    }
    inputs, comparison = one_round(there, updates)
    (suspicion,) = [each for each in suspicions(inputs, comparison) if each.apart]
    case = derive_case(suspicion, updates["g1"])
    assert case is not None and case.accused == ZERO_MEMBER and case.cause == GROUP_APART


def test_the_case_says_how_it_came_about() -> None:
    there = world(rules=RULES)
    updates = groups_of(there, 4)
    flipper = there.members("g1")[2]
    updates["g1"][flipper] = flipped(updates["g1"][flipper], 3)
    inputs, comparison = one_round(there, updates)
    suspicion = suspicions(inputs, comparison)[1]
    case = derive_case(suspicion, updates["g1"])
    assert case is not None
    header = inputs.counted[1].header
    assert (case.group_id, case.epoch, case.height) == (header.group_id, 0, 0)
    assert case.deadline_height == RULES.case_blocks
    assert case.cause == MEMBER_APART
    (found,) = case.candidates
    blobs = {signed.tx.member: signed.tx.blob_id for signed in suspicion.block.body.txs}
    assert (found.member, found.blob_id) == (flipper, blobs[flipper])
    assert found.score == len(case.chunks) > 0
    assert found.own_cos_micro < -300_000 < 0 < found.with_cos_micro < found.without_cos_micro


# ---------------------------------------------------------------------------
# Groups compared.


def deltas(*vectors: np.ndarray, exponents: tuple[int, ...] = (-14, -12, -13)) -> list[Update]:
    return [Update(LAYOUT, exponents, np.rint(v).astype(np.int16)) for v in vectors]


def test_rows_are_the_cosines_of_the_reals() -> None:
    rng = np.random.default_rng(1)
    a, b, c, root = deltas(*(rng.normal(50, 200, LAYOUT.size) for _ in range(4)))
    ids = [Digest(bytes([i]) * 32) for i in range(3)]
    triangles, rows = compare_groups(ids, [a, b, c], [10, 20, 30], root, RULES)
    scale = np.concatenate(
        [np.full(part.stop - part.start, 2.0**e) for part, e in zip(LAYOUT.slices(), a.exponents)]
    )
    real = [each.values * scale for each in (a, b, c, root)]
    others = [20 * real[1] + 30 * real[2], 10 * real[0] + 30 * real[2], 10 * real[0] + 20 * real[1]]
    for i, row in enumerate(rows):
        for found, right in ((row.others_cos_micro, others[i]), (row.root_cos_micro, real[3])):
            cosine = real[i] @ right / np.sqrt((real[i] @ real[i]) * (right @ right))
            assert found / MICRO == pytest.approx(float(cosine), abs=2e-6)
    assert [len(each) for each in triangles] == [10, 10, 10]
    assert [(row.group_id, row.weight) for row in rows] == list(zip(ids, [10, 20, 30]))


def test_one_group_apart_does_not_drag_the_others_along() -> None:
    rng = np.random.default_rng(2)
    common = rng.normal(0, 300, LAYOUT.size)
    vectors = [common + rng.normal(0, 200, LAYOUT.size) for _ in range(5)]
    vectors[3] *= -30
    whole = view_of(deltas(*vectors))
    assert standing_apart(whole, [1] * 5, 100_000) == {3}
    # Seen from the others the bad one is most of the rest, so their cosines are negative too.
    assert whole.cos_of_sums_micro(whole.unit(0), [0, 1, 1, 1, 1]) < 0


def test_two_groups_apart_are_both_found() -> None:
    rng = np.random.default_rng(2)
    common = rng.normal(0, 300, LAYOUT.size)
    vectors = [common + rng.normal(0, 200, LAYOUT.size) for _ in range(5)]
    vectors[1] *= -1
    vectors[4] *= -2
    assert standing_apart(view_of(deltas(*vectors)), [1] * 5, 100_000) == {1, 4}


@pytest.mark.parametrize("count", [1, 2])
def test_of_two_groups_nobody_can_say_which_stands_apart(count: int) -> None:
    vectors = [np.full(LAYOUT.size, 100.0), np.full(LAYOUT.size, -100.0)][:count]
    assert standing_apart(view_of(deltas(*vectors)), [1] * count, 999_999) == frozenset()


def test_a_group_without_weight_is_neither_judged_nor_a_reference() -> None:
    rng = np.random.default_rng(3)
    common = rng.normal(0, 300, LAYOUT.size)
    vectors = [common + rng.normal(0, 100, LAYOUT.size) for _ in range(3)]
    ids = [Digest(bytes([i]) * 32) for i in range(4)]
    _, rows = compare_groups(ids, deltas(*vectors, -common), [5, 5, 5, 0], None, RULES)
    assert [row.flagged for row in rows] == [0, 0, 0, 0]
    assert rows[3].others_cos_micro < 0 and all(row.others_cos_micro > 800_000 for row in rows[:3])


def test_nothing_to_compare_gives_nothing() -> None:
    assert compare_groups([], [], [], None, RULES) == ((), ())


@given(st.integers(0, 500), st.integers(0, len(chunk_ids(LAYOUT)) - 1))
def test_the_chunk_that_was_turned_round_deviates_most(seed: int, where: int) -> None:
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 300, LAYOUT.size)
    a, b, c = (common + rng.normal(0, 30, LAYOUT.size) for _ in range(3))
    # Every chunk weighs the same here: only the turned one falls short.
    tensor, chunk = chunk_ids(LAYOUT)[where]
    start = LAYOUT.slices()[tensor].start + chunk * 1024
    stop = min(start + 1024, LAYOUT.slices()[tensor].stop)
    a[start:stop] *= -1
    one, two, three = deltas(a, b, c)
    assert deviating_chunks(one, [(3, two), (5, three)], 3)[0] == (tensor, chunk)


def test_the_least_alike_of_several_blocks_is_the_one_to_ask_about() -> None:
    rng = np.random.default_rng(4)
    common = rng.normal(0, 300, LAYOUT.size)
    good, bad, other = deltas(common, -common, common + rng.normal(0, 50, LAYOUT.size))
    assert least_alike([good, bad, good], [(1, other)]) == 1
    assert least_alike([good, good], [(1, other)]) == 0


# ---------------------------------------------------------------------------
# The pieces of backtracking.


def warnings_filter(rows: list[tuple[MemberId, int, int, str]]) -> object:
    keys = [filters.warning_key(t, c, reason) for _, t, c, reason in rows]
    keys += [filters.warning_key(t, c, reason, member=m) for m, t, c, reason in rows]
    return filters.build(filters.WARNINGS, keys, SALT, 100_000)


def test_candidates_are_ranked_by_chunks_and_those_far_behind_are_left_out() -> None:
    a, b, c, d = (MemberId(bytes([i]) * 20) for i in range(4))
    chunks = [(0, i) for i in range(8)]
    rows = [(b, 0, i, "opposed") for i in range(8)] + [(d, 0, i, "loud") for i in range(6)]
    rows += [(c, 0, i, "opposed") for i in range(3)] + [(a, 1, i, "opposed") for i in range(8)]
    rows += [(b, 0, 0, "loud")]  # Two reasons for one chunk count once.
    found = candidates(warnings_filter(rows), SALT, [a, b, c, d], chunks)  # type: ignore[arg-type]
    assert found == ((b, 8), (d, 6))
    assert candidates(warnings_filter([]), SALT, [a, b], chunks) == ()  # type: ignore[arg-type]
    assert candidates(warnings_filter(rows), SALT, [], chunks) == ()  # type: ignore[arg-type]


def test_who_is_warned_of_in_few_of_the_chunks_is_no_candidate_even_alone() -> None:
    a, b = (MemberId(bytes([i]) * 20) for i in range(2))
    chunks = [(0, i) for i in range(8)]
    for count, named in ((3, ()), (4, ((b, 4),))):
        rows = [(b, 0, i, "opposed") for i in range(count)]
        assert candidates(warnings_filter(rows), SALT, [a, b], chunks) == named  # type: ignore[arg-type]


def test_candidates_are_bounded_and_equals_keep_the_committees_order() -> None:
    members = [MemberId(bytes([9 - i]) * 20) for i in range(8)]
    rows = [(member, 0, 0, "opposed") for member in members]
    found = candidates(warnings_filter(rows), SALT, members, [(0, 0)])  # type: ignore[arg-type]
    assert [member for member, _ in found] == members[:CANDIDATES_MAX]


def test_leaving_one_out_takes_exactly_its_share_out_of_the_aggregate() -> None:
    rng = np.random.default_rng(5)
    updates = deltas(*(rng.normal(30, 200, LAYOUT.size) for _ in range(4)))
    others = [(7, deltas(rng.normal(30, 200, LAYOUT.size))[0]), (9, updates[0])]
    weights = [3, 5, 7, 9]
    total = combine(updates, weights, 1)  # Not divided, so nothing is rounded.
    before, after, own = leave_one_out(total, others, updates[2], 7, 1)
    rest = combine([u for i, u in enumerate(updates) if i != 2], [3, 5, 9], 1)
    expected = leave_one_out(rest, others, updates[2], 0, 1)
    assert after == pytest.approx(expected[0], abs=30)  # `total` and `rest` round to int16.
    assert before == leave_one_out(total, others, updates[0], 0, 1)[0]
    whole = view_of([updates[2], *(delta for _, delta in others)])
    assert own == whole.cos_of_sums_micro([1, 0, 0], [0, 7, 9])


def candidate(index: int, before: int, after: int, own: int) -> Candidate:
    return Candidate(MemberId(bytes([index]) * 20), 1, Digest(bytes(32)), before, after, own)


def test_the_accused_brings_the_group_back_and_points_away_itself() -> None:
    rare = candidate(1, 400_000, 700_000, -100_000)  # Rare data: absence helps, but it does not oppose.
    weak = candidate(2, 400_000, 404_999, -600_000)  # Opposes, but its absence changes nothing.
    guilty = candidate(3, 400_000, 500_000, -400_000)
    worse = candidate(4, 400_000, 600_000, -400_000)
    assert judge_case([rare, weak]) is None
    assert judge_case([rare, weak, guilty]) == guilty.member
    assert judge_case([guilty, worse]) == worse.member == judge_case([worse, guilty])
    assert judge_case([dataclasses.replace(worse, member=guilty.member), worse]) == guilty.member
    assert judge_case([]) is None


def test_the_edges_of_the_rule_are_inclusive() -> None:
    edge = candidate(1, 0, 5_000, -250_000)
    assert judge_case([edge]) == edge.member
    assert judge_case([dataclasses.replace(edge, without_cos_micro=4_999)]) is None
    assert judge_case([dataclasses.replace(edge, own_cos_micro=-249_999)]) is None


@pytest.mark.parametrize(
    ("scales", "asked"), [((1, 1, 1, 5), [3]), ((1, 1, 1, 0.2), []), ((1, 1, 1, 1), [0, 1])]
)
def test_duplicates_and_the_too_long_are_asked_and_the_too_short_only_left_out(
    scales: tuple[float, ...], asked: list[int]
) -> None:
    there = world(rules=RULES)
    updates = honest_updates(there, "g0", 1)
    members = there.members("g0")
    for member, scale in zip(members, scales, strict=True):
        updates[member] = flipped(updates[member], -scale)
    if asked == [0, 1]:
        updates[members[1]] = updates[members[0]]
    inputs = there.council_inputs(CouncilState.genesis(there.genesis), derive_all(there, 0, {"g0": updates}))
    block = GroupBlock(inputs.counted[0].header, next(iter(inputs.bodies.values())))
    left_out = [s.tx.member for s, w in zip(block.body.txs, block.body.weights, strict=True) if not w]
    assert left_out == [members[i] for i in asked or [3]]
    found = hard_rule_cases(block, 3)
    assert [case.accused for case in found] == [members[i] for i in asked]
    assert {case.cause for case in found} <= {HARD_RULE}
    assert all(case.case_id == case_id_of(case) for case in found)
    assert len({case.case_id for case in found}) == len(found)
