"""Many updates become one: the table of aggregators, all in exact integers.

An aggregator gets the updates, their weights, their inner products and the number of liars it must stand.
Knows nothing of members, blocks or where a weight came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np

from p2pfl.params import (
    EXPONENT_MAX,
    INT16_MAX,
    Int16,
    Int64,
    Layout,
    Update,
    divide_round_half_even,
)
from p2pfl.rules.gram import Gram, common_exponent, lower_median

# Factors are whole numbers of this part of one: they are integers before they touch parameters.
FACTOR_BITS = 20
FACTOR_ONE = 1 << FACTOR_BITS
# A block of int64 sums and one product stay in the cache.
CHUNK_COORDINATES = 1 << 15
# divide_round_half_even doubles a remainder and needs one bit of room.
NUMERATOR_MAX = 1 << 62

Factors = tuple[tuple[int, ...], int]


@dataclass(frozen=True)
class Accepted:
    """What an aggregator gets: the updates with a weight above 0.

    rows: int16 vectors of one scale, each of shape (coordinates,). gram: their inner products.
    f: how many of the whole committee may lie.
    """

    rows: Sequence[Int16]
    weights: Sequence[int]
    gram: Gram
    f: int


@dataclass(frozen=True)
class Aggregator:
    """One rule. tolerates: against how many of n liars it stands, for people.

    combine: int64 of shape (coordinates,), within int16. factors: for rules that are a weighted mean, each
    row's integer factor, and what their sum is divided by.
    """

    name: str
    tolerates: str
    combine: Callable[[Accepted], Int64]
    factors: Callable[[Accepted], Factors] | None = None


AGGREGATORS: dict[str, Aggregator] = {}


def aggregator(
    name: str, *, tolerates: str
) -> Callable[[Callable[[Accepted], Int64]], Callable[[Accepted], Int64]]:
    """Add a rule to the table under this name."""

    def add(function: Callable[[Accepted], Int64]) -> Callable[[Accepted], Int64]:
        _register(Aggregator(name, tolerates, function))
        return function

    return add


def weighted_mean(
    name: str, *, tolerates: str
) -> Callable[[Callable[[Accepted], Factors]], Callable[[Accepted], Factors]]:
    """Add a rule that is a weighted mean: the function gives each row's factor and the divisor.

    What one member adds to such an aggregate is a multiple of its update: backtracking can take it out
    again, and a contract can check one coordinate alone.
    """

    def add(function: Callable[[Accepted], Factors]) -> Callable[[Accepted], Factors]:
        def combine(accepted: Accepted) -> Int64:
            return sum_of_multiples(accepted.rows, *function(accepted))

        _register(Aggregator(name, tolerates, combine, function))
        return function

    return add


def _register(rule: Aggregator) -> None:
    if rule.name in AGGREGATORS:
        raise ValueError(f"there is an aggregator {rule.name!r} already")
    AGGREGATORS[rule.name] = rule


@weighted_mean("mean", tolerates="0")
def mean(accepted: Accepted) -> Factors:
    """The mean weighted by samples (McMahan et al. 2017, FedAvg): one liar moves it anywhere."""
    return tuple(accepted.weights), sum(accepted.weights)


@weighted_mean("clipped_mean", tolerates="f < n / 2, each within the median norm")
def clipped_mean(accepted: Accepted) -> Factors:
    """The weighted mean of updates shortened to their median norm (after Sun et al. 2019).

    The median is the lower one: at least one honest update is as long.
    """
    norms_sq = accepted.gram.norms_sq
    bound = lower_median(norms_sq)
    factors = tuple(w * _shortening(bound, n) for w, n in zip(accepted.weights, norms_sq, strict=True))
    return factors, sum(accepted.weights) << FACTOR_BITS


def _shortening(bound_sq: int, norm_sq: int) -> int:
    """min(1, bound / norm) in units of 2^-20, rounded down."""
    return FACTOR_ONE if norm_sq <= bound_sq else isqrt((bound_sq << 2 * FACTOR_BITS) // norm_sq)


def aggregate(rule: str, rows: Sequence[Int16], weights: Sequence[int], gram: Gram, f: int) -> Int16:
    """The aggregate of the rows whose weight is above 0; zero when there is none.

    rows: int16, each of shape (coordinates,). gram: the inner products of exactly these rows.
    Raises KeyError for an unknown rule, ArithmeticError when the result leaves int16.
    """
    accepted, _ = _accept(rows, weights, gram, f)
    if not accepted.rows:
        return np.zeros_like(rows[0])
    result = AGGREGATORS[rule].combine(accepted)
    if int(np.abs(result).max(initial=0)) > INT16_MAX + 1:
        raise ArithmeticError(f"{rule} left int16")
    return np.clip(result, -INT16_MAX, INT16_MAX).astype(np.int16)


def factors_of(
    rule: str, rows: Sequence[Int16], weights: Sequence[int], gram: Gram, f: int
) -> Factors | None:
    """Each row's factor in the aggregate (0 where its weight is 0) and the divisor; None: no weighted mean.

    rows may be empty vectors: factors follow from weights and inner products alone.
    """
    function = AGGREGATORS[rule].factors
    accepted, kept = _accept(rows, weights, gram, f)
    if function is None or not kept:
        return None
    found, divisor = function(accepted)
    factors = [0] * len(weights)
    for index, factor in zip(kept, found, strict=True):
        factors[index] = factor
    return tuple(factors), divisor


def _accept(rows: Sequence[Int16], weights: Sequence[int], gram: Gram, f: int) -> tuple[Accepted, list[int]]:
    """Those with a weight above 0, and their indices."""
    kept = [index for index, weight in enumerate(weights) if weight > 0]
    return Accepted([rows[i] for i in kept], [weights[i] for i in kept], gram.pick(kept), f), kept


def sum_of_multiples(rows: Sequence[Int16 | Int64], factors: Sequence[int], divisor: int) -> Int64:
    """round_half_even(sum(factor * row) / divisor), coordinate by coordinate, in int64."""
    largest = max((int(np.abs(row.astype(np.int64)).max(initial=0)) for row in rows), default=0)
    if sum(abs(factor) for factor in factors) * max(largest, 1) >= NUMERATOR_MAX or divisor >= NUMERATOR_MAX:
        raise ArithmeticError("a weighted sum may leave int64: lower the weight cap")
    out = np.empty(rows[0].shape, dtype=np.int64)
    for start in range(0, len(out), CHUNK_COORDINATES):
        part = slice(start, start + CHUNK_COORDINATES)
        total = np.zeros(out[part].shape, dtype=np.int64)
        for row, factor in zip(rows, factors, strict=True):
            total += row[part].astype(np.int64) * factor
        out[part] = divide_round_half_even(total, divisor)
    return out


def combine(updates: Sequence[Update], factors: Sequence[int], divisor: int) -> Update:
    """round_half_even(sum(factor * update) / divisor) for updates of any exponents, as one update.

    A tensor gets the coarsest exponent among the updates, and a coarser one only where the sum needs it.
    Raises ArithmeticError when exponents lie so far apart that the sum leaves int64.
    """
    layout = updates[0].layout
    values = np.empty(layout.size, dtype=np.int16)
    exponents: list[int] = []
    common_exponent([update.exponents for update in updates])
    for tensor, part in enumerate(layout.slices()):
        own = [update.exponents[tensor] for update in updates]
        shifted = [factor << (e - min(own)) for factor, e in zip(factors, own, strict=True)]
        exponent = max(own)
        rows = [update.values[part] for update in updates]
        while True:
            result = sum_of_multiples(rows, shifted, divisor << (exponent - min(own)))
            if int(np.abs(result).max(initial=0)) <= INT16_MAX or exponent >= EXPONENT_MAX:
                break
            exponent += 1
        exponents.append(exponent)
        values[part] = np.clip(result, -INT16_MAX, INT16_MAX).astype(np.int16)
    return Update(layout, tuple(exponents), values)


def zero_update(layout: Layout, exponents: Sequence[int]) -> Update:
    """The update that changes nothing."""
    return Update(layout, tuple(exponents), np.zeros(layout.size, dtype=np.int16))
