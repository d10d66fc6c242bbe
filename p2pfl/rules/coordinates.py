"""Aggregators that look at each coordinate alone: medians and trimmed means, by sorting networks.

A network compares fixed pairs, so whole blocks of coordinates are sorted at once by element-wise minimum and
maximum, exactly and without a branch. Comparisons that nothing asked for depends on are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np

from p2pfl.params import Int16, Int64, divide_round_half_even
from p2pfl.rules.gram import Gram
from p2pfl.rules.table import Accepted, aggregator
from p2pfl.rules.weighted import krum_scores

# Thirty-two rows of so many int16 are half a megabyte: they stay in a processor's second cache.
BLOCK_COORDINATES = 8192

Comparators = tuple[tuple[int, int], ...]


@aggregator("median", tolerates="f < n / 2")
def median(accepted: Accepted) -> Int64:
    """The median of each coordinate (Yin et al. 2018); of an even number the mean of the middle two."""
    n = len(accepted.rows)
    low, high = (n - 1) // 2, n // 2

    def middle(ranked: Sequence[Int16], _: Sequence[Int16]) -> Int64:
        total = ranked[low].astype(np.int64) + ranked[high]
        return divide_round_half_even(total, 2)

    return _by_rank(accepted.rows, {low, high}, middle)


@aggregator("trimmed_mean", tolerates="f < n / 2")
def trimmed_mean(accepted: Accepted) -> Int64:
    """The mean of each coordinate without its f smallest and f largest values (Yin et al. 2018)."""
    n, f = len(accepted.rows), accepted.faulty

    def between(ranked: Sequence[Int16], rows: Sequence[Int16]) -> Int64:
        total = _sum(rows, rows[0].shape)
        total -= _sum([*ranked[:f], *ranked[n - f :]], total.shape)
        return divide_round_half_even(total.astype(np.int64), n - 2 * f)

    return _by_rank(accepted.rows, {*range(f), *range(n - f, n)}, between)


@aggregator("bulyan", tolerates="4 f + 3 <= n")
def bulyan(accepted: Accepted) -> Int64:
    """Of n - 2 f updates chosen by Krum one by one, the mean of those nearest the median in each coordinate.

    El Mhamdi et al. 2018. Where n is too small for f, it stands against as many as 4 f + 3 <= n allows.
    """
    n = len(accepted.rows)
    f = max(0, min(accepted.f, (n - 3) // 4))
    rows = [accepted.rows[index] for index in _chosen(accepted.gram, n - 2 * f, f)]
    count = len(rows) - 2 * f  # How many are averaged.
    low, high = (len(rows) - 1) // 2, len(rows) // 2

    def nearest(ranked: Sequence[Int16], _: Sequence[Int16]) -> Int64:
        wide = [row.astype(np.int32) for row in ranked]
        twice = wide[low] + wide[high]
        total = _sum(ranked[:count], ranked[0].shape)
        best, best_far = total.copy(), None
        for first in range(len(rows) - count + 1):
            if first:
                total += wide[first + count - 1]
                total -= wide[first - 1]
            # The values next to the median are neighbours in rank: the window whose farther end is nearest.
            far = np.maximum(np.abs(2 * wide[first] - twice), np.abs(2 * wide[first + count - 1] - twice))
            if best_far is None:
                best, best_far = total.copy(), far
            else:
                better = far < best_far
                best = np.where(better, total, best)
                best_far = np.minimum(far, best_far)
        return divide_round_half_even(best.astype(np.int64), count)

    return _by_rank(rows, set(range(len(rows))), nearest)


def _chosen(gram: Gram, count: int, f: int) -> list[int]:
    """Rows as Krum picks them one by one, each time among those that are left; of equals the first."""
    left = list(range(gram.size))
    chosen: list[int] = []
    while len(chosen) < count:
        scores = krum_scores(gram.pick(left), f)
        chosen.append(left.pop(scores.index(min(scores))))
    return chosen


def _sum(rows: Iterable[Int16], shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """int32 is wide enough: sixteen rows of int16 reach 2^19."""
    total = np.zeros(shape, dtype=np.int32)
    for row in rows:
        total += row
    return total


def _by_rank(
    rows: Sequence[Int16],
    ranks: set[int],
    work: Callable[[Sequence[Int16], Sequence[Int16]], Int64],
) -> Int64:
    """`work` on each block of the rows, sorted so that these ranks are right, and as given."""
    comparators = network(len(rows), frozenset(ranks))
    out = np.empty(rows[0].shape, dtype=np.int64)
    for start in range(0, len(out), BLOCK_COORDINATES):
        part = slice(start, start + BLOCK_COORDINATES)
        given = [row[part] for row in rows]
        ranked = [row.copy() for row in given]
        spare = np.empty_like(ranked[0])
        for a, b in comparators:
            np.minimum(ranked[a], ranked[b], out=spare)
            np.maximum(ranked[a], ranked[b], out=ranked[b])
            ranked[a], spare = spare, ranked[a]
        out[part] = work(ranked, given)
    return out


@lru_cache(maxsize=256)
def network(size: int, ranks: frozenset[int]) -> Comparators:
    """Batcher's odd-even merge sort of `size` lines (Batcher 1968), as far as these ranks depend on it."""
    needed, kept = set(ranks), list[tuple[int, int]]()
    for a, b in reversed(_batcher(size)):
        if a in needed or b in needed:
            needed |= {a, b}
            kept.append((a, b))
    return tuple(reversed(kept))


def _batcher(size: int) -> Comparators:
    """Every comparator: the smaller value goes to the first line. Beyond `size` would lie the largest."""
    found: list[tuple[int, int]] = []
    p = 1
    while p < size:
        k = p
        while k >= 1:
            for j in range(k % p, size - k, 2 * k):
                for i in range(min(k, size - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        found.append((i + j, i + j + k))
            k //= 2
        p *= 2
    return tuple(found)
