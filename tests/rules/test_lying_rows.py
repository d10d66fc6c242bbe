"""What the council makes of rows that a lying quorum wrote: it judges by its own pool and the Gram matrix."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consensus.signing import block_id, sign, signing_digest
from consensus.types import Digest, MemberId
from p2pfl.params import Update
from p2pfl.records import MICRO, GroupBody, TriageRow
from p2pfl.rules import ballots
from p2pfl.rules.audits import alarm_cases, audit_cases
from p2pfl.rules.cases import GroupBlock
from p2pfl.rules.council import CouncilState, compare, scores_of
from p2pfl.rules.counting import count_blocks
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.pool import ROW_BYTES, Pool
from p2pfl.rules.triage import by_gram, features, pool_rows, rarity
from p2pfl.rules.validate import derive_group_body
from p2pfl.signed import SignedBallot

from .test_verdicts import BELOW, RULES, case_of, measured
from .world import World, honest_updates, world

FOUNDING = (Path(__file__).parents[2] / "testnet" / "honest.pool").read_bytes()
RATE_PPM = DEFAULT_RULES.alarm_rate_ppm
ODDEST = {"previous_cos_micro": -(10**10), "root_cos_micro": -(10**10), "others_cos_micro": -(10**10)}


@pytest.fixture
def there() -> World:
    return world(groups=1, rules=dataclasses.replace(DEFAULT_RULES, audit_share_ppm=250_000))


def state_of(there: World, rows: int = len(FOUNDING) // ROW_BYTES) -> CouncilState:
    pool = Pool.founded(FOUNDING[: rows * ROW_BYTES])
    return dataclasses.replace(CouncilState.genesis(there.genesis), pool=pool)


def a_block(there: World, flipped: int | None = None) -> GroupBlock:
    """A round beside a previous aggregate and a root update that know where it goes."""
    updates = honest_updates(there, "g0", 5)
    values = [update.values.astype(np.float64) for update in updates.values()]
    agreed = Update(
        there.base.layout, there.genesis.initial_exponents, np.rint(np.mean(values, axis=0)).astype(np.int16)
    )
    if flipped is not None:
        member = there.members("g0")[flipped]
        updates[member] = dataclasses.replace(updates[member], values=-updates[member].values)
    made = derive_group_body(there.inputs("g0", updates, root_update=agreed))
    return GroupBlock(there.decide("g0", made.body)[0], made.body)


def written(block: GroupBlock, index: int, **changes: Any) -> GroupBlock:
    """The block with a row as its quorum would like it."""
    rows = list(block.body.triage)
    rows[index] = dataclasses.replace(rows[index], **changes)
    return GroupBlock(block.header, dataclasses.replace(block.body, triage=tuple(rows)))


def p_values(pool: Pool, rows: tuple[TriageRow, ...]) -> list[int]:
    return pool.calibration.p_values_ppm(features(rows))


def test_an_honest_body_says_what_its_gram_matrix_says(there: World) -> None:
    for flipped in (None, 2):
        body = a_block(there, flipped).body
        assert by_gram(body) == body.triage


def test_a_row_odder_than_everything_does_not_make_a_flipper_look_usual(there: World) -> None:
    pool, flip = state_of(there).pool, a_block(there, flipped=2)
    assert p_values(pool, flip.body.triage)[2] <= RATE_PPM
    # Rows that the Gram matrix does not bear out are not even withheld: a good replay would bring them in.
    honest = a_block(there)
    told = pool_rows(written(honest, 1, **ODDEST).body, frozenset(), pool, RATE_PPM)
    assert told == pool_rows(honest.body, frozenset(), pool, RATE_PPM)
    lying = written(flip, 2, alarm=0, unusual=0, p_ppm=MICRO)
    rows = pool_rows(lying.body, frozenset(), pool, RATE_PPM)
    assert [row.alarm for row in rows] == [0, 0, 1, 0]
    after = pool.after(rows, opened=(), ended={})
    assert after.size == pool.size + 3
    assert p_values(after, flip.body.triage)[2] <= RATE_PPM


def test_a_case_that_ended_without_a_quorum_brings_no_row_into_the_pool() -> None:
    def grown_by(quorum: int) -> int:
        there = world(rules=RULES)
        accused = there.members("g1")[2]
        case = case_of(there, accused, 0)
        state, _ = there.advance(CouncilState.genesis(there.genesis), cases=[case])
        row = pool_rows(a_block(there).body, frozenset(), state.pool, RATE_PPM)[0]
        waiting = state.pool.after([dataclasses.replace(row, member=accused)], opened=(accused,), ended={})
        state = dataclasses.replace(state, pool=waiting)
        state, _ = there.advance(state, measurements=measured(there, case, *[BELOW] * quorum))
        while state.cases[case.case_id].outcome == "open":
            state, _ = there.advance(state)
        assert state.cases[case.case_id].outcome == "cleared" and not state.pool.withheld
        return state.pool.size

    assert [grown_by(seats) for seats in (0, 2, 3)] == [0, 0, 1]


def test_nobody_is_asked_because_of_what_a_quorum_wrote_and_no_friend_is_spared(there: World) -> None:
    state, honest = state_of(there), a_block(there)
    everything = {"alarm": 1, "unusual": 1, "p_ppm": 1, **ODDEST}
    assert not alarm_cases(state, honest, 9)
    assert not alarm_cases(state, written(honest, 0, **everything), 9)
    flip = a_block(there, flipped=2)
    liar = flip.body.triage[2].member
    usual = {"alarm": 0, "unusual": 0, "p_ppm": MICRO, "root_cos_micro": MICRO, "others_cos_micro": MICRO}
    for block in (flip, written(flip, 2, **usual)):
        assert [case.accused for case in alarm_cases(state, block, 9)] == [liar]


def test_an_alarm_that_the_councils_newer_pool_just_does_not_share_is_a_case(there: World) -> None:
    flip = a_block(there, flipped=2)
    p_ppm = rarity(flip.body, state_of(there).pool)[flip.body.triage[2].member]
    for alarm, rate_ppm, asked in ((0, p_ppm - 1, 0), (1, p_ppm - 1, 1), (1, (p_ppm - 1) // 2, 0)):
        rules = dataclasses.replace(there.genesis.rules, alarm_rate_ppm=rate_ppm)
        network = dataclasses.replace(there.genesis, rules=rules)
        state = dataclasses.replace(state_of(there), network=network)
        assert len(alarm_cases(state, written(flip, 2, alarm=alarm), 9)) == asked


def test_the_most_unusual_is_drawn_whomever_its_quorum_names(there: World) -> None:
    state, flip = state_of(there, rows=1_000), a_block(there, flipped=2)
    lying = written(written(flip, 2, p_ppm=MICRO), 0, p_ppm=1)
    seeds = [Digest(index.to_bytes(32, "big")) for index in range(20)]
    found = [audit_cases(dataclasses.replace(state, block_id=seed), lying, 9) for seed in seeds]
    rows = flip.body.triage
    drawn: list[set[MemberId]] = [{case.accused for case in each} for each in found]
    # 4 members at 25 %: the most unusual in each round for sure, who is named one as often as any.
    assert all(rows[2].member in each for each in drawn)
    assert not all(rows[0].member in each for each in drawn)


def test_rounds_that_are_taken_back_teach_the_pool_nothing(there: World) -> None:
    def rejecting(parent: GroupBody) -> dict[str, Any]:
        header, said = there.tips["g0"], list[SignedBallot]()
        for member in there.members("g0"):
            ballot = ballots.make(0, header.height, block_id(header), (1.0, 2.5))
            signature = sign(there.secrets[member], signing_digest(there.genesis.domain("g0"), ballot))
            said.append(SignedBallot(ballot, signature))
        known = {"parent": parent, "parent_id": block_id(header)}
        return known | {"ballots": tuple(said), "old_base": there.base, "base_values": made[0].next_base}

    made = [derive_group_body(there.inputs("g0", honest_updates(there, "g0", 5)))]
    decided = [(*there.decide("g0", made[0].body), made[0].body)]
    more = rejecting(made[0].body)
    second = there.inputs("g0", honest_updates(there, "g0", 5, height=1), height=1, **more)
    made.append(derive_group_body(second))
    decided.append((*there.decide("g0", made[1].body), made[1].body))
    assert ballots.rejects(made[1].body)
    inputs = dataclasses.replace(
        there.council_inputs(CouncilState.genesis(there.genesis), ()),
        counted=count_blocks(decided),
        bodies={block_id(header): body for header, _, body in decided},
        aggregates={each.body.aggregate_id: each.aggregate for each in made},
    )
    assert compare(inputs).scores == ()
    assert len(scores_of(dataclasses.replace(inputs, counted=inputs.counted[:1]), ())) == 4
