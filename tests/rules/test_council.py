"""The council's body: what is counted, what the base becomes, and how its chain folds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest

from consensus.signing import block_id
from consensus.types import ZERO_DIGEST, Certificate, Digest, MemberId
from p2pfl import codec
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.params import Base, Update, apply_update, blob_id, parse_base
from p2pfl.records import BaseRef, CouncilBody, body_root
from p2pfl.rules import filters
from p2pfl.rules.aggregate import combine
from p2pfl.rules.cases import derive_case
from p2pfl.rules.council import (
    CouncilInputs,
    CouncilState,
    check_council_body,
    compare,
    derive_council,
    next_exponents,
    suspicions,
)
from p2pfl.rules.counting import COUNTED_PER_GROUP_MAX, count_block
from p2pfl.rules.limits import EXPONENT_LAG_MAX
from p2pfl.rules.validate import derive_group_body

from .world import EXPONENTS, LAYOUT, World, derive_all, honest_updates, world

ROOT_ID = Digest(b"\x0a" * 32)
Groups = dict[str, dict[MemberId, Update]]


@pytest.fixture
def there() -> World:
    return world()


def groups_of(there: World, seed: int, height: int = 0) -> Groups:
    return {g.name: honest_updates(there, g.name, seed, height=height) for g in there.genesis.groups}


def first_inputs(there: World, updates: Mapping[str, Mapping[MemberId, Update]]) -> CouncilInputs:
    return there.council_inputs(CouncilState.genesis(there.genesis), derive_all(there, 0, updates))


def test_the_base_is_the_last_one_plus_the_weighted_mean_of_the_groups(there: World) -> None:
    inputs = first_inputs(there, groups_of(there, 1))
    comparison = compare(inputs)
    aggregates = [inputs.aggregates[block.aggregate_id] for block in inputs.counted]
    assert [block.weight for block in inputs.counted] == [406] * 3
    mean = combine(aggregates, [406] * 3, 3 * 406)
    assert (comparison.base.values == apply_update(there.base, mean).values).all()
    derived = derive_council(inputs, comparison, root_update_id=ROOT_ID)
    assert derived.body.base_id == blob_id(derived.base.to_bytes())
    again = parse_base(derived.base.to_bytes(), LAYOUT)
    assert (again.values == derived.base.values).all()


def test_what_is_derived_is_accepted_and_survives_its_bytes(there: World) -> None:
    inputs = first_inputs(there, groups_of(there, 1))
    body = derive_council(inputs, compare(inputs), root_update_id=ROOT_ID).body
    decoded = codec.decode(codec.encode(body), CouncilBody, size_max=1 << 20)
    assert decoded == body
    own = dataclasses.replace(inputs, counted=decoded.counted)
    assert check_council_body(decoded, own, compare(own), (), 0).body == body


@pytest.mark.parametrize("name", ["gram", "rows", "outcomes", "exponents", "base_id", "filters"])
def test_every_changed_field_is_refused_by_its_name(there: World, name: str) -> None:
    inputs = first_inputs(there, groups_of(there, 1))
    comparison = compare(inputs)
    body = derive_council(inputs, comparison, root_update_id=ROOT_ID).body
    value = getattr(body, name)
    other = (value[:-1] if value else ("x",)) if isinstance(value, tuple) else ZERO_DIGEST
    with pytest.raises(PeerFault) as fault:
        check_council_body(dataclasses.replace(body, **{name: other}), inputs, comparison, (), 0)
    assert fault.value.reason == f"wrong_{name}"


def test_a_case_that_this_seat_does_not_find_is_refused_and_so_is_one_left_out(there: World) -> None:
    inputs, comparison, case = a_case(there)
    body = derive_council(inputs, comparison, root_update_id=ROOT_ID, cases=[case]).body
    assert check_council_body(body, inputs, comparison, [case], 0).body == body
    with pytest.raises(PeerFault, match="wrong_cases"):
        check_council_body(body, inputs, comparison, [], 0)
    silent = derive_council(inputs, comparison, root_update_id=ROOT_ID).body
    with pytest.raises(PeerFault, match="wrong_cases"):
        check_council_body(silent, inputs, comparison, [case], 0)


def a_case(there: World):
    updates = groups_of(there, 1)
    flipper = there.members("g1")[2]
    updates["g1"][flipper] = Update(LAYOUT, EXPONENTS, -updates["g1"][flipper].values)
    inputs = first_inputs(there, updates)
    comparison = compare(inputs)
    case = derive_case(suspicions(inputs, comparison)[1], updates["g1"])
    assert case is not None
    return inputs, comparison, case


def test_a_later_round_counts_onto_the_new_base(there: World) -> None:
    """Two council blocks: state, base and exponents go from one into the next."""
    state, base = CouncilState.genesis(there.genesis), there.base
    for height in range(2):
        updates = groups_of(there, 1, height)
        ref = BaseRef(blob_id(base.to_bytes()), state.height, state.block_id, ())
        rounds = [
            (name, derive_group_body(there.inputs(name, of, height=height, base_values=base, base=ref)))
            for name, of in (
                (name, {m: there.update(u.values, state.exponents) for m, u in each.items()})
                for name, each in updates.items()
            )
        ]
        inputs = there.council_inputs(state, rounds, base_values=base)
        derived = derive_council(inputs, compare(inputs), root_update_id=ROOT_ID)
        header, _ = there.decide(COUNCIL, derived.body)
        before, state, base = state, state.apply(header, derived.body), derived.base
        assert state.height == height and state.block_id == block_id(header)
        assert state.base_id == blob_id(base.to_bytes()) and state.root_update_id == ROOT_ID
        assert all(abs(new - old) <= 1 for new, old in zip(state.exponents, before.exponents))
        assert {h for h, _ in state.counted.values()} == {height}
        # Twelve honest rounds more for the pool by which the next ones are judged.
        assert [len(derived.body.scores), state.pool.size] == [12, 12 * (height + 1)]
        assert state.pool.digest != before.pool.digest


def test_several_own_blocks_of_a_group_add_up(there: World) -> None:
    """g0 brings two blocks, the second of other exponents; g1 and g2 one each."""
    first = dict(derive_all(there, 0, groups_of(there, 1)))
    second = derive_group_body(
        there.inputs(
            "g0",
            {
                m: there.update(u.values, (-13, -12, -15))
                for m, u in honest_updates(there, "g0", 1, height=1).items()
            },
            height=1,
        )
    )
    rounds = [("g0", first["g0"]), ("g0", second), ("g1", first["g1"]), ("g2", first["g2"])]
    inputs = there.council_inputs(CouncilState.genesis(there.genesis), rounds)
    comparison = compare(inputs)
    total = combine([first["g0"].aggregate, second.aggregate], [1, 1], 1)
    assert comparison.deltas[0].exponents == total.exponents
    assert (comparison.deltas[0].values == total.values).all()
    assert [row.weight for row in comparison.rows] == [406] * 3
    # In real numbers, up to one rounding to the coarser of the two scales.
    for part, a, b, e in zip(LAYOUT.slices(), EXPONENTS, (-13, -12, -15), total.exponents):
        exact = first["g0"].aggregate.values[part] * 2.0**a + second.aggregate.values[part] * 2.0**b
        assert np.abs(total.values[part] * 2.0**e - exact).max() <= 2.0 ** (e - 1)


def test_a_block_of_a_scale_long_left_behind_is_counted_and_adds_nothing(there: World) -> None:
    """A group cut off for long must not stop the council: on today's scale its sums could overflow."""
    first = dict(derive_all(there, 0, groups_of(there, 1)))
    old = tuple(e - EXPONENT_LAG_MAX - 1 for e in EXPONENTS)
    late = {m: there.update(u.values, old) for m, u in honest_updates(there, "g0", 1).items()}
    first["g0"] = derive_group_body(there.inputs("g0", late))
    inputs = there.council_inputs(CouncilState.genesis(there.genesis), list(first.items()))
    comparison = compare(inputs)
    assert [row.weight for row in comparison.rows] == [0, 406, 406]
    mean = combine([first["g1"].aggregate, first["g2"].aggregate], [1, 1], 2)
    assert (comparison.mean.values == mean.values).all()
    assert len(suspicions(inputs, comparison)) == 2
    derived = derive_council(inputs, comparison, root_update_id=ROOT_ID)
    state = inputs.state.apply(there.decide(COUNCIL, derived.body)[0], derived.body)
    assert {height for height, _ in state.counted.values()} == {0}


def test_nothing_counted_leaves_base_and_exponents(there: World) -> None:
    state, derived = there.advance(CouncilState.genesis(there.genesis))
    assert state.base_id == there.genesis.initial_base_id
    assert (state.exponents, derived.body.gram, derived.body.rows) == (EXPONENTS, (), ())


def test_exponents_move_one_step_at_most(there: World) -> None:
    tiny = there.update(np.ones(LAYOUT.size), EXPONENTS)
    huge = there.update(np.full(LAYOUT.size, 32767), EXPONENTS)
    assert next_exponents(EXPONENTS, tiny) == tuple(e - 1 for e in EXPONENTS)
    assert next_exponents(EXPONENTS, huge) == tuple(e + 1 for e in EXPONENTS)
    fitting = there.update(np.full(LAYOUT.size, 4000), EXPONENTS)  # Twelve bits: three stay free.
    assert next_exponents(EXPONENTS, fitting) == EXPONENTS


def test_filters_name_the_seats_that_measured_and_every_accused(there: World) -> None:
    inputs, comparison, case = a_case(there)
    body = derive_council(inputs, comparison, root_update_id=ROOT_ID, cases=[case]).body
    actors, accused = body.filters
    assert (actors.name, accused.name) == (filters.ACTORS, filters.ACCUSED)
    assert filters.might_contain(accused, there.salt, filters.case_key(case.accused, case.case_id))
    assert filters.might_contain(actors, there.salt, filters.actor_key(case.accused, "accused"))
    assert not filters.might_contain(actors, there.salt, filters.actor_key(there.members(COUNCIL)[0]))


# ---------------------------------------------------------------------------
# What is counted.


def refused(inputs: CouncilInputs, **changes: object) -> None:
    with pytest.raises(PeerFault) as fault:
        compare(dataclasses.replace(inputs, **changes))  # type: ignore[arg-type]
    assert fault.value.reason == "bad_counted"


def test_a_counted_block_must_come_next_and_in_order(there: World) -> None:
    inputs = first_inputs(there, groups_of(there, 1))
    a, b, c = inputs.counted
    refused(inputs, counted=(b, a, c))
    refused(inputs, counted=(a, a, b))
    state = inputs.state.apply(*decided(there, inputs))
    refused(inputs, state=state, height=1)


def test_a_groups_first_counted_block_is_its_first_one(there: World) -> None:
    skipped = derive_all(there, 0, {"g0": honest_updates(there, "g0", 1)})
    there.decide("g0", skipped[0][1].body)
    second = derive_all(there, 1, {"g0": honest_updates(there, "g0", 2)})
    refused(there.council_inputs(CouncilState.genesis(there.genesis), second))


def decided(there: World, inputs: CouncilInputs):
    body = derive_council(inputs, compare(inputs), root_update_id=ROOT_ID).body
    return there.decide(COUNCIL, body)[0], body


def test_a_block_is_counted_once_and_its_child_must_name_it(there: World) -> None:
    inputs = first_inputs(there, groups_of(there, 1))
    state = inputs.state.apply(*decided(there, inputs))
    other = world()  # The same network in which g0 decided something else first.
    elsewhere = derive_all(other, 0, {"g0": honest_updates(other, "g0", 77)})
    other.decide("g0", elsewhere[0][1].body)
    child = other.council_inputs(state, derive_all(other, 1, {"g0": honest_updates(other, "g0", 2)}))
    with pytest.raises(PeerFault, match="does not follow"):
        compare(child)


def test_a_counted_block_needs_its_quorum_and_tells_the_truth(there: World) -> None:
    inputs = first_inputs(there, groups_of(there, 1))
    first = inputs.counted[0]
    for changes in (
        {"certificate": Certificate(0, first.certificate.signatures[:2])},
        {"certificate": Certificate(1, first.certificate.signatures)},
        {"certificate": Certificate(0, first.certificate.signatures[::-1])},
        {"weight": first.weight + 1},
        {"aggregate_id": ZERO_DIGEST},
        {"exponents": (0, 0, 0)},
        {"app_proof": first.app_proof[:-1]},
        {"header": dataclasses.replace(first.header, group_id=ZERO_DIGEST)},
        {"header": dataclasses.replace(first.header, group_id=there.genesis.group_id(COUNCIL))},
    ):
        refused(inputs, counted=(dataclasses.replace(first, **changes), *inputs.counted[1:]))


def test_a_body_that_is_not_under_the_header_is_refused(there: World) -> None:
    inputs = first_inputs(there, groups_of(there, 1))
    wrong = dict(inputs.bodies)
    key = block_id(inputs.counted[0].header)
    wrong[key] = dataclasses.replace(wrong[key], weights=(1, 1, 1, 1))
    refused(inputs, bodies=wrong)


def test_a_group_far_behind_catches_up_in_pieces(there: World) -> None:
    rounds = []
    for height in range(COUNTED_PER_GROUP_MAX + 1):
        rounds += derive_all(there, height, {"g0": honest_updates(there, "g0", 3, height=height)})
    inputs = there.council_inputs(CouncilState.genesis(there.genesis), rounds)
    refused(inputs)
    assert compare(dataclasses.replace(inputs, counted=inputs.counted[:-1])).rows[0].weight == 406


def test_a_counted_blocks_aggregate_is_proved_under_its_header(there: World) -> None:
    from consensus.merkle import leaf_hash, verify_inclusion
    from p2pfl.records import field_proof

    ((name, derived),) = derive_all(there, 0, {"g0": honest_updates(there, "g0", 1)})
    header, certificate = there.decide(name, derived.body)
    counted = count_block(header, certificate, derived.body)
    index, size, leaf, _ = field_proof(derived.body, "aggregate_id")
    assert leaf == codec.encode(counted.aggregate_id)
    assert verify_inclusion(leaf_hash(leaf), index, size, counted.app_proof, body_root(derived.body))


# ---------------------------------------------------------------------------
# The fold.


def test_only_the_councils_next_block_folds_in(there: World) -> None:
    inputs = first_inputs(there, groups_of(there, 1))
    header, body = decided(there, inputs)
    state = inputs.state.apply(header, body)
    with pytest.raises(ValueError, match="does not follow"):
        state.apply(header, body)
    with pytest.raises(ValueError, match="does not follow"):
        inputs.state.apply(inputs.counted[0].header, body)


def test_the_fold_changes_nothing_of_what_was(there: World) -> None:
    before = CouncilState.genesis(there.genesis)
    inputs = first_inputs(there, groups_of(there, 1))
    inputs.state.apply(*decided(there, inputs))
    assert before == CouncilState.genesis(there.genesis) == inputs.state
    with pytest.raises(TypeError):
        before.counted[ZERO_DIGEST] = (0, ZERO_DIGEST)  # type: ignore[index]


def test_a_base_of_another_size_is_our_own_mistake(there: World) -> None:
    inputs = first_inputs(there, groups_of(there, 1))
    wrong = Base(LAYOUT, np.zeros(3, dtype=np.float32))
    with pytest.raises(ValueError, match=r".+"):
        compare(dataclasses.replace(inputs, base_values=wrong))


def test_an_idle_block_of_a_group_is_counted_adds_nothing_and_is_not_looked_into(there: World) -> None:
    updates = groups_of(there, 5)
    bodies = derive_all(there, 0, updates)
    lazy = there.inputs("g1", updates["g1"])
    idle = derive_group_body(dataclasses.replace(lazy, txs=(), close=None, unrevealed=(), updates={}))
    inputs = there.council_inputs(
        CouncilState.genesis(there.genesis),
        [(name, idle if name == "g1" else derived) for name, derived in bodies],
    )
    comparison = compare(inputs)
    assert [row.weight for row in comparison.rows] == [406, 0, 406]
    assert [row.flagged for row in comparison.rows] == [0, 0, 0]
    g0, _, g2 = [inputs.aggregates[block.aggregate_id] for block in inputs.counted]
    assert (comparison.mean.values == combine([g0, g2], [406, 406], 812).values).all()
    assert there.genesis.group_id("g1") not in {
        each.block.header.group_id for each in suspicions(inputs, comparison)
    }
