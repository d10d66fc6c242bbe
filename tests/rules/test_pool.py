"""p-values hold for exchangeable rows, find what is odd, and a pool grows by what its chain accepted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.types import MemberId
from p2pfl.params import Int64
from p2pfl.records import MICRO, PoolRow
from p2pfl.rules.conformal import TRUNCATION, Calibration
from p2pfl.rules.pool import EMPTY, FEATURES, FOUNDING_MAX, MEMBER_ROWS_MAX, RING_MAX, Pool, pack, unpack

ALICE, BOB, CAROL = (MemberId(bytes([i]) * 20) for i in (1, 2, 3))


def honest(seed: int, rows: int) -> Int64:
    """Correlated and skewed, as features are."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((rows, 1))
    return np.rint(1000 * np.exp((common + rng.standard_normal((rows, FEATURES))) / 2)).astype(np.int64)


def by_hand(row: Int64, pool: Int64) -> int:
    """The same from the definition: rank everything in the joined set."""
    joined = [*pool.tolist(), row.tolist()]
    largest = max(1, len(joined) // TRUNCATION)
    products = [1] * len(joined)
    for k in range(len(row)):
        column = [each[k] for each in joined]
        for i, value in enumerate(column):
            products[i] *= min(largest, sum(other >= value for other in column))
    rank = sum(product <= products[-1] for product in products)
    return -(-MICRO * rank // len(joined))


@given(st.integers(0, 10_000), st.integers(0, 50))
def test_a_p_value_is_that_of_the_joined_set(seed: int, rows: int) -> None:
    # Few distinct values, so that there are ties.
    everything = honest(seed, rows + 3) // 400
    found = Calibration.of(everything[3:]).p_values_ppm(everything[:3])
    assert found == [by_hand(row, everything[3:]) for row in everything[:3]]


def test_without_a_pool_nobody_is_unusual_and_a_small_one_supports_no_small_rate() -> None:
    assert EMPTY.calibration.p_values_ppm(honest(1, 4)) == [MICRO] * 4
    extreme = np.full((1, FEATURES), 10**9)
    for rows in (99, 3332, 3333):
        (p_ppm,) = Calibration.of(honest(2, rows)).p_values_ppm(extreme)
        assert p_ppm == -(-MICRO // (rows + 1))
        assert (p_ppm <= 300) == (rows >= 3333)


def test_of_exchangeable_rows_a_share_a_has_a_p_value_of_at_most_a() -> None:
    """Marginal validity, with every draw of the pool new: the mean over pools is at most the rate."""
    rates = [2 * MICRO // 100, MICRO // 20, MICRO // 10]
    hits = np.zeros(len(rates))
    pools, judged = 40, 25
    for seed in range(pools):
        rows = honest(seed, 200 + judged)
        found = Calibration.of(rows[judged:]).p_values_ppm(rows[:judged])
        hits += [sum(p <= rate for p in found) for rate in rates]
    for share, rate in zip(hits / (pools * judged), rates, strict=True):
        assert share * MICRO <= rate * 1.5 and share * MICRO >= rate * 0.5, (share, rate)


def test_odd_in_one_feature_is_odd_however_usual_the_others_are() -> None:
    pool = Calibration.of(honest(3, 4000))
    row = np.sort(honest(3, 4000), axis=0)[:1].copy()  # As usual as can be in everything.
    assert pool.p_values_ppm(row)[0] > MICRO // 2
    row[0, 2] = 10**8
    assert pool.p_values_ppm(row)[0] < MICRO // 100


# ---------------------------------------------------------------------------
# The pool on the chain.


def row(member: MemberId, value: int, alarm: int = 0) -> PoolRow:
    return PoolRow(member, (value,) * FEATURES, alarm)


def grown(pool: Pool, *rows: PoolRow, opened: tuple[MemberId, ...] = (), **ended: bool) -> Pool:
    names = {"alice": ALICE, "bob": BOB, "carol": CAROL}
    return pool.after(rows, opened=opened, ended={names[name]: cleared for name, cleared in ended.items()})


def values(pool: Pool) -> list[int]:
    return [each.features[0] for each in pool.ring]


def test_founding_rows_come_back_from_the_genesis() -> None:
    rows = honest(4, 10)
    assert np.array_equal(unpack(pack(rows)), rows)
    assert np.array_equal(Pool.founded(pack(rows)).features, rows)
    with pytest.raises(ValueError, match="rows"):
        unpack(b"123")
    with pytest.raises(ValueError, match="rows"):
        unpack(bytes(4 * FEATURES * (FOUNDING_MAX + 1)))


def test_what_alarmed_waits_for_its_case_and_comes_in_when_it_is_cleared() -> None:
    pool = grown(EMPTY, row(ALICE, 1), row(BOB, 2, alarm=1), row(CAROL, 3, alarm=1), opened=(BOB, CAROL))
    assert values(pool) == [1]
    pool = grown(pool, row(ALICE, 4), bob=True, carol=False)
    assert values(pool) == [1, 2, 4] and not pool.withheld
    # Suspected for another reason it waits as well; without a case an alarm comes in never.
    pool = grown(pool, row(ALICE, 5), row(BOB, 6, alarm=1), opened=(ALICE,))
    assert values(grown(pool, alice=True)) == [1, 2, 4, 5]


def test_a_digest_says_everything_that_came_in() -> None:
    one, other = grown(EMPTY, row(ALICE, 1)), grown(EMPTY, row(ALICE, 2))
    assert len({EMPTY.digest, one.digest, other.digest, grown(one, row(ALICE, 2)).digest}) == 4
    waiting = grown(one, row(BOB, 3), opened=(BOB,))
    assert waiting.digest != one.digest and values(waiting) == values(one)
    assert grown(one) is one and grown(one, row(BOB, 1, alarm=1)) is one
    assert Pool.founded(pack(honest(5, 3))).digest != EMPTY.digest


def test_a_ring_keeps_the_newest_and_few_of_each_member() -> None:
    pool = EMPTY
    for start in range(0, 2 * MEMBER_ROWS_MAX, 64):
        pool = grown(pool, *(row(ALICE, start + i) for i in range(64)), row(BOB, start))
    own = [each for each in pool.ring if each.member == ALICE]
    assert [each.features[0] for each in own] == list(range(MEMBER_ROWS_MAX, 2 * MEMBER_ROWS_MAX))
    assert len(pool.ring) - len(own) == 2 * MEMBER_ROWS_MAX // 64
    crowd = [replace(row(ALICE, i), member=MemberId(i.to_bytes(20, "big"))) for i in range(RING_MAX + 10)]
    full = grown(pool, *crowd)
    assert len(full.ring) == RING_MAX and values(full)[-1] == RING_MAX + 9
