"""The table of aggregators: what a rule gets, what it gives, and how it is named.

Knows no rule. Those that are weighted sums are in `weighted`, those that look at each coordinate alone in
`coordinates`; `aggregate` applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from p2pfl.params import INT16_MAX, Int16, Int64, divide_round_half_even
from p2pfl.rules.chunks import EXACT_FLOAT
from p2pfl.rules.gram import Gram

# A block of int64 sums and one product stay in the cache.
CHUNK_COORDINATES = 1 << 15
# divide_round_half_even doubles a remainder and needs one bit of room.
NUMERATOR_MAX = 1 << 62

Factors = tuple[tuple[int, ...], int]


@dataclass(frozen=True)
class Root:
    """The council's root update beside the members': its inner product with each, and its squared norm."""

    dots: tuple[int, ...]
    norm_sq: int


@dataclass(frozen=True)
class Accepted:
    """What an aggregator gets: the updates with a weight above 0.

    rows: int16 vectors of one scale, each of shape (coordinates,); empty where only factors are wanted.
    gram: their inner products. f: how many of the whole committee may lie. root: None without a root update.
    """

    rows: Sequence[Int16]
    weights: Sequence[int]
    gram: Gram
    f: int
    root: Root | None = None

    @property
    def faulty(self) -> int:
        """How many of these may lie: f, but always fewer than half of them."""
        return min(self.f, (len(self.weights) - 1) // 2)


@dataclass(frozen=True)
class Aggregator:
    """One rule. tolerates: against how many of n liars it stands, for people.

    combine: int64 of shape (coordinates,), within int16. factors: for rules that are a weighted sum, each
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


def weighted_sum(
    name: str, *, tolerates: str, saturates: bool = False
) -> Callable[[Callable[[Accepted], Factors]], Callable[[Accepted], Factors]]:
    """Add a rule that is a weighted sum: the function gives each row's factor and the divisor.

    What one member adds to such an aggregate is a multiple of its update: backtracking can take it out
    again, and a contract can check one coordinate alone. saturates: factors may add up to more than one, so
    coordinates end at int16's bounds.
    """

    def add(function: Callable[[Accepted], Factors]) -> Callable[[Accepted], Factors]:
        def combine(accepted: Accepted) -> Int64:
            found = sum_of_multiples(accepted.rows, *function(accepted))
            return np.clip(found, -INT16_MAX, INT16_MAX) if saturates else found

        _register(Aggregator(name, tolerates, combine, function))
        return function

    return add


def _register(rule: Aggregator) -> None:
    if rule.name in AGGREGATORS:
        raise ValueError(f"there is an aggregator {rule.name!r} already")
    AGGREGATORS[rule.name] = rule


def sum_of_multiples(rows: Sequence[Int16 | Int64], factors: Sequence[int], divisor: int) -> Int64:
    """round_half_even(sum(factor * row) / divisor), coordinate by coordinate, in int64."""
    used = [(row, factor) for row, factor in zip(rows, factors, strict=True) if factor]
    bound = sum(abs(factor) * _largest(row) for row, factor in used)
    if bound >= NUMERATOR_MAX or divisor >= NUMERATOR_MAX:
        raise ArithmeticError("a weighted sum may leave int64: lower the weight cap")
    if len(used) == 1 and used[0][1] == divisor:
        return used[0][0].astype(np.int64)
    add_up = _in_float64 if bound < EXACT_FLOAT else _in_int64
    out = np.empty(rows[0].shape, dtype=np.int64)
    for start in range(0, len(out), CHUNK_COORDINATES):
        part = slice(start, start + CHUNK_COORDINATES)
        out[part] = divide_round_half_even(add_up(used, part, len(out[part])), divisor)
    return out


Used = Sequence[tuple[Int16 | Int64, int]]


def _largest(row: Int16 | Int64) -> int:
    return max(int(row.max(initial=0)), -int(row.min(initial=0)))


def _in_float64(used: Used, part: slice, width: int) -> Int64:
    """By BLAS: every product and partial sum is an integer below 2^53, so nothing is ever rounded."""
    wide = np.empty((len(used), width), dtype=np.float64)
    for index, (row, _) in enumerate(used):
        wide[index] = row[part]
    return (np.array([factor for _, factor in used], dtype=np.float64) @ wide).astype(np.int64)


def _in_int64(used: Used, part: slice, width: int) -> Int64:
    total = np.zeros(width, dtype=np.int64)
    for row, factor in used:
        total += row[part].astype(np.int64) * factor
    return total
