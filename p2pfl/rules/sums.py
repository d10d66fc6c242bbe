"""Weighted sums of integer vectors, rounded half to even: exact, and quick where floats are exact too.

Knows nothing of rules, nor where a factor comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pfl.params import INT16_MAX, Int16, Int64, divide_round_half_even

# Sixteen rows of so many float64 are half a MiB: they stay in a processor's own cache.
BLOCK_COORDINATES = 1 << 12
# divide_round_half_even doubles a remainder and needs one bit of room.
NUMERATOR_MAX = 1 << 62
# Floats of p bits hold every product and partial sum below 2^p. A quotient of two such integers is off by at
# most 2^-p of itself; a fraction that is no half is at least 1 / (2 divisor) away from every half. So, with
# numerators below 2^(p - 1), to round the quotient is to round the fraction (IEEE 754: one correctly rounded
# division, then one to an integer, ties to even).
EXACT_QUOTIENTS: tuple[tuple[Any, int], ...] = ((np.float32, 1 << 23), (np.float64, 1 << 52))
_INT16_LARGEST = 1 << 15

Used = Sequence[tuple[Int16 | Int64, int]]
# Integers, whatever carries them.
Whole = NDArray[Any]


def sum_of_multiples(rows: Sequence[Int16 | Int64], factors: Sequence[int], divisor: int) -> Int64:
    """round_half_even(sum(factor * row) / divisor), coordinate by coordinate, in int64.

    Raises ArithmeticError when a sum could leave int64.
    """
    out = np.empty(rows[0].shape, dtype=np.int64)
    for part, found in _blocks(rows, factors, divisor):
        out[part] = found
    return out


def narrow_sum(rows: Sequence[Int16], factors: Sequence[int], divisor: int, *, saturates: bool) -> Int16:
    """The same as an update's numbers: int16, never -32,768.

    Raises ArithmeticError when the result leaves int16; with saturates it ends at plus or minus 32,767.
    """
    out = np.empty(rows[0].shape, dtype=np.int16)
    for part, found in _blocks(rows, factors, divisor):
        narrow(found, out[part], saturates=saturates)
    return out


def narrow(found: Whole, out: Int16, *, saturates: bool) -> None:
    """Put integers of any type into int16, as `narrow_sum` says."""
    low, high = int(found.min(initial=0)), int(found.max(initial=0))
    if max(high, -low) > INT16_MAX:
        if not saturates and max(high, -low) > _INT16_LARGEST:
            raise ArithmeticError("an aggregate left int16")
        found = np.clip(found, -INT16_MAX, INT16_MAX)
    out[:] = found


def _blocks(
    rows: Sequence[Int16 | Int64], factors: Sequence[int], divisor: int
) -> Iterator[tuple[slice, Whole]]:
    """Where, and the integers that belong there; good until the next ones."""
    used = [(row, factor) for row, factor in zip(rows, factors, strict=True) if factor]
    size = len(rows[0])
    if divisor <= 0:
        raise ValueError("the divisor must be positive")
    if not used:
        yield slice(0, size), np.zeros(size, dtype=np.int16)
        return
    bound = _bound(used)
    if max(bound, divisor) >= NUMERATOR_MAX:
        raise ArithmeticError("a weighted sum may leave int64: lower the weight cap")
    if len(used) == 1 and used[0][1] == divisor:
        yield slice(0, size), used[0][0]
        return
    starts = range(0, size, BLOCK_COORDINATES)
    parts = [slice(start, min(start + BLOCK_COORDINATES, size)) for start in starts]
    for kind, exact in EXACT_QUOTIENTS:
        if max(bound, divisor) < exact:
            yield from _in_floats(used, divisor, parts, kind)
            return
    for part in parts:
        total = np.zeros(part.stop - part.start, dtype=np.int64)
        for row, factor in used:
            total += row[part].astype(np.int64) * factor
        yield part, divide_round_half_even(total, divisor)


def _in_floats(used: Used, divisor: int, parts: Sequence[slice], kind: Any) -> Iterator[tuple[slice, Whole]]:
    """By BLAS, in whatever order it adds up."""
    wide = np.empty((len(used), BLOCK_COORDINATES), dtype=kind)
    factors = np.array([factor for _, factor in used], dtype=kind)
    for part in parts:
        width = part.stop - part.start
        for index, (row, _) in enumerate(used):
            wide[index, :width] = row[part]
        total = factors @ wide[:, :width]
        total /= kind(divisor)
        yield part, np.rint(total, out=total)


def _bound(used: Used) -> int:
    """No sum is larger. The rows are looked at only where it matters."""
    if all(row.dtype == np.int16 for row, _ in used):
        bound = sum(abs(factor) for _, factor in used) * _INT16_LARGEST
        if bound < EXACT_QUOTIENTS[-1][1]:
            return bound
    return sum(abs(factor) * _largest(row) for row, factor in used)


def _largest(row: Int16 | Int64) -> int:
    # At least one, so that no factor is larger than the bound.
    return max(int(row.max(initial=1)), -int(row.min(initial=0)))
