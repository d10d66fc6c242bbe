"""Aggregates are exact, the same in any order, and a liar moves them no farther than the rule allows."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.params import Layout, TensorSpec, Update
from p2pfl.rules import sums, table
from p2pfl.rules.aggregate import aggregate, combine, factors_of, zero_update
from p2pfl.rules.gram import Gram, view_of
from p2pfl.rules.sums import sum_of_multiples
from p2pfl.rules.table import AGGREGATORS

LAYOUT = Layout((TensorSpec("w", (6, 10)), TensorSpec("b", (4,))))
ROWS = st.lists(st.lists(st.integers(-32767, 32767), min_size=64, max_size=64), min_size=1, max_size=6)
ALL = sorted(AGGREGATORS)


def updates_of(rows: list[list[int]]) -> list[Update]:
    return [Update(LAYOUT, (-9, -9), np.array(row, dtype=np.int16)) for row in rows]


def aggregated(rule: str, updates: list[Update], weights: list[int], f: int = 1) -> np.ndarray:
    return aggregate(rule, [update.values for update in updates], weights, view_of(updates), f)


def half_even(numerator: int, denominator: int) -> int:
    return round(Fraction(numerator, denominator))


@given(ROWS, st.data())
def test_the_mean_is_the_exact_weighted_mean(rows: list[list[int]], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 10_000), min_size=len(rows), max_size=len(rows)))
    found = aggregated("mean", updates_of(rows), weights)
    for k in range(64):
        assert found[k] == half_even(sum(w * row[k] for w, row in zip(weights, rows)), sum(weights))


@given(ROWS, st.data())
def test_every_rule_is_a_sum_of_its_factors(rows: list[list[int]], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 10_000), min_size=len(rows), max_size=len(rows)))
    updates = updates_of(rows)
    for rule in ALL:
        vectors = [update.values for update in updates]
        found = factors_of(rule, vectors, weights, view_of(updates), 1)
        assert (found is None) == (AGGREGATORS[rule].factors is None)
        if found is None:
            continue
        factors, divisor = found
        expected = [half_even(sum(a * row[k] for a, row in zip(factors, rows)), divisor) for k in range(64)]
        assert aggregated(rule, updates, weights).tolist() == expected


@pytest.mark.parametrize("rule", ALL)
@given(rows=ROWS, data=st.data())
def test_the_order_of_members_does_not_matter(rule: str, rows: list[list[int]], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(0, 500), min_size=len(rows), max_size=len(rows)))
    order = data.draw(st.permutations(range(len(rows))))
    updates = updates_of(rows)
    straight = aggregated(rule, updates, weights)
    mixed = aggregated(rule, [updates[i] for i in order], [weights[i] for i in order])
    assert (straight == mixed).all()


@pytest.mark.parametrize("rule", ALL)
def test_a_weight_of_zero_is_absence(rule: str) -> None:
    rng = np.random.default_rng(3)
    updates = [Update(LAYOUT, (-9, -9), rng.integers(-3000, 3000, 64).astype(np.int16)) for _ in range(5)]
    without = aggregated(rule, updates[:3], [7, 8, 9])
    assert (aggregated(rule, updates, [7, 8, 9, 0, 0]) == without).all()
    assert not aggregated(rule, updates, [0] * 5).any()


@pytest.mark.parametrize("rule", ALL)
def test_equal_updates_are_their_own_aggregate_within_a_unit(rule: str) -> None:
    one = np.random.default_rng(5).integers(-32767, 32768, 64).astype(np.int16)
    same = [Update(LAYOUT, (-9, -9), one)] * 4
    assert np.abs(aggregated(rule, same, [1, 2, 3, 4]).astype(int) - one).max() <= 1


@given(st.integers(1, 32767), st.integers(0, 2**32 - 1))
def test_a_liar_cannot_move_the_clipped_mean_out_of_range(size: int, seed: int) -> None:
    """However long its update is, it counts as one of the median length: the mean is no longer than that."""
    rng = np.random.default_rng(seed)
    honest = [Update(LAYOUT, (-9, -9), rng.integers(-900, 900, 64).astype(np.int16)) for _ in range(3)]
    liar = Update(LAYOUT, (-9, -9), (rng.choice([-1, 1], 64) * size).astype(np.int16))
    found = aggregated("clipped_mean", [*honest, liar], [100, 100, 100, 100]).astype(float)
    longest = max(float(np.linalg.norm(update.values.astype(float))) for update in honest)
    assert np.linalg.norm(found) <= longest + 8  # Eight: half a unit of rounding in each of 64 coordinates.
    moved = found - aggregated("clipped_mean", honest, [100, 100, 100]).astype(float)
    assert np.linalg.norm(moved) <= 2 * longest + 8


def test_the_plain_mean_has_no_such_bound() -> None:
    """What the test above would miss if clipping were lost."""
    honest = [Update(LAYOUT, (-9, -9), np.full(64, 10, dtype=np.int16))] * 3
    liar = Update(LAYOUT, (-9, -9), np.full(64, 30_000, dtype=np.int16))
    assert aggregated("mean", [*honest, liar], [1, 1, 1, 1]).max() > 7_000
    assert aggregated("clipped_mean", [*honest, liar], [1, 1, 1, 1]).max() == 10


def test_a_sum_that_could_leave_int64_is_refused() -> None:
    rows = [np.full(3, 32767, dtype=np.int16)] * 2
    with pytest.raises(ArithmeticError, match="int64"):
        sum_of_multiples(rows, [1 << 46, 1 << 47], 1)
    assert sum_of_multiples(rows, [1 << 45, -(1 << 45)], 1).tolist() == [0, 0, 0]


@given(ROWS, st.data())
def test_sums_below_and_above_2_to_the_53_are_alike(rows: list[list[int]], data: st.DataObject) -> None:
    vectors = [np.array(row, dtype=np.int16) for row in rows]
    draw = st.lists(st.integers(-(1 << 37), 1 << 37), min_size=len(rows), max_size=len(rows))
    factors, divisor = data.draw(draw), data.draw(st.integers(1, 1 << 30))
    found = sum_of_multiples(vectors, factors, divisor)
    for k in range(64):
        assert found[k] == half_even(sum(a * row[k] for a, row in zip(factors, rows)), divisor)


def test_chunking_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [np.random.default_rng(i).integers(-32767, 32767, 1000).astype(np.int16) for i in range(3)]
    before = sum_of_multiples(rows, [3, 5, 7], 11)
    monkeypatch.setattr(sums, "BLOCK_COORDINATES", 17)
    assert (sum_of_multiples(rows, [3, 5, 7], 11) == before).all()


@given(ROWS, st.data())
def test_updates_of_any_exponents_combine_exactly(rows: list[list[int]], data: st.DataObject) -> None:
    exponent = st.integers(-15, -5)
    updates = [
        Update(LAYOUT, data.draw(st.tuples(exponent, exponent)), np.array(row, dtype=np.int16))
        for row in rows
    ]
    factors = data.draw(st.lists(st.integers(1, 400), min_size=len(rows), max_size=len(rows)))
    found = combine(updates, factors, sum(factors))
    for tensor, part in enumerate(LAYOUT.slices()):
        exact = [
            sum(
                (
                    Fraction(w * int(u.values[k])) * Fraction(2) ** u.exponents[tensor]
                    for w, u in zip(factors, updates)
                ),
                Fraction(0),
            )
            / sum(factors)
            for k in range(part.start, part.stop)
        ]
        exponent = min(update.exponents[tensor] for update in updates)
        while max(abs(round(value / Fraction(2) ** exponent)) for value in exact) > 32767:
            exponent += 1
        assert found.exponents[tensor] == exponent  # The finest that holds the sum.
        assert found.values[part].tolist() == [round(value / Fraction(2) ** exponent) for value in exact]


def test_a_coarse_update_takes_no_digits_from_the_others() -> None:
    fine = Update(LAYOUT, (-13, -13), np.full(64, 1001, dtype=np.int16))
    coarse = Update(LAYOUT, (-5, -5), np.zeros(64, dtype=np.int16))
    assert combine([fine, fine, coarse], [1, 1, 1], 2).exponents == (-13, -13)
    assert (combine([fine, fine, coarse], [1, 1, 1], 2).values == 1001).all()


def test_a_sum_too_large_for_int16_gets_a_coarser_exponent() -> None:
    one = Update(LAYOUT, (-9, -7), np.full(64, 30_000, dtype=np.int16))
    total = combine([one, one, one], [1, 1, 1], 1)
    assert total.exponents == (-7, -5)
    assert (total.values == 22_500).all()


def test_the_zero_update_changes_nothing() -> None:
    nothing = zero_update(LAYOUT, (-9, -9))
    one = Update(LAYOUT, (-9, -9), np.arange(64, dtype=np.int16))
    assert (combine([one, nothing], [1, 1], 1).values == one.values).all()


def test_an_unknown_rule_and_a_name_taken_twice_are_refused() -> None:
    with pytest.raises(KeyError):
        aggregate("no such rule", [np.ones(2, dtype=np.int16)], [1], Gram(((2,),)), 0)
    with pytest.raises(ValueError, match="already"):
        table.aggregator("mean", tolerates="0")(lambda accepted: np.zeros(0, dtype=np.int64))


@pytest.mark.parametrize("bits", [23, 24, 52, 53, 61])
def test_a_quotient_next_to_a_half_is_rounded_as_the_fraction_is(bits: int) -> None:
    """On both sides of the bounds below which floats are used (`sums.EXACT_QUOTIENTS`)."""
    rng, ones = np.random.default_rng(bits), np.ones(1, dtype=np.int16)
    for _ in range(200):
        divisor = int(rng.integers(1, 1 << int(rng.integers(1, bits))))
        whole = int(rng.integers(0, (1 << bits) // divisor))
        for numerator in range(whole * divisor + divisor // 2 - 1, whole * divisor + divisor // 2 + 3):
            for signed in (numerator, -numerator):
                found = sum_of_multiples([ones], [signed], divisor)
                assert found.tolist() == [half_even(signed, divisor)], (signed, divisor)
