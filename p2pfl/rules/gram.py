"""Inner products of updates, in exact integers: the same bits on every machine.

The sums come from `chunks`. What follows from them (norms, cosines, distances, any weighted sum of rows) is
done in Python integers, whatever power of two each row and tensor has. Knows nothing of members, groups or
thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import numpy as np

from p2pfl.params import EXPONENT_MAX, EXPONENT_MIN, Int16, Int64, Layout, Update
from p2pfl.records import MICRO
from p2pfl.rules.chunks import chunk_ids, tensor_grams

# Ratios that are recorded end here: a millionfold is as good as infinity, and records hold 64 bits.
RATIO_MAX_MICRO = MICRO * MICRO

Triangle = tuple[int, ...]


def gram(rows: Sequence[Int16], layout: Layout) -> tuple[Triangle, ...]:
    """The Gram matrix of each tensor: its upper triangle, row by row.

    rows: int16 vectors, each of shape (layout.size,). Raises ValueError as `add_up` does.
    """
    _check(layout)
    return _triangles(tensor_grams(rows, layout))


def add_up(chunks: Int64, layout: Layout) -> tuple[Triangle, ...]:
    """The tensors' Gram matrices from those of their chunks, each as its upper triangle.

    chunks: int64, shape (chunks, rows, rows), as `chunk_grams` gives them. Raises ValueError when the model
    is so large that a sum could leave int64.
    """
    _check(layout)
    tensors = np.zeros((len(layout.tensors), *chunks.shape[1:]), dtype=np.int64)
    of_tensor = np.array([tensor for tensor, _ in chunk_ids(layout)], dtype=np.intp)
    used, first = np.unique(of_tensor, return_index=True)  # A tensor's chunks lie together.
    if len(used):
        tensors[used] = np.add.reduceat(chunks, first, axis=0)
    return _triangles(tensors)


def _check(layout: Layout) -> None:
    if layout.size << 30 >= 1 << 63:
        raise ValueError(f"inner products of {layout.size} coordinates may leave int64")


def _triangles(tensors: Int64) -> tuple[Triangle, ...]:
    upper = np.triu_indices(tensors.shape[1])
    return tuple(tuple(np.asarray(tensor)[upper].tolist()) for tensor in tensors)


def common_exponent(exponents: Sequence[Sequence[int]]) -> int:
    """The smallest exponent of any row and tensor. Raises ValueError outside [EXPONENT_MIN, EXPONENT_MAX]."""
    everyone = [exponent for row in exponents for exponent in row]
    if any(not EXPONENT_MIN <= exponent <= EXPONENT_MAX for exponent in everyone):
        raise ValueError(f"an exponent is outside [{EXPONENT_MIN}, {EXPONENT_MAX}]")
    return min(everyone, default=0)


@dataclass(frozen=True)
class Gram:
    """All inner products of some rows, over the whole model.

    inner: the full symmetric matrix in Python integers, in units of 4^unit_exponent.
    """

    inner: tuple[tuple[int, ...], ...]
    unit_exponent: int = 0

    @property
    def size(self) -> int:
        """How many rows."""
        return len(self.inner)

    @cached_property
    def norms_sq(self) -> tuple[int, ...]:
        """The squared norm of each row."""
        return tuple(row[index] for index, row in enumerate(self.inner))

    def first(self, count: int) -> Gram:
        """The same for the first rows alone."""
        return self.pick(range(count))

    def pick(self, indices: Iterable[int]) -> Gram:
        """The same for some rows alone."""
        kept = tuple(indices)
        return Gram(tuple(tuple(self.inner[i][j] for j in kept) for i in kept), self.unit_exponent)

    def distance_sq(self, i: int, j: int) -> int:
        """|row i - row j|^2."""
        return self.norms_sq[i] + self.norms_sq[j] - 2 * self.inner[i][j]

    def dot(self, left: Sequence[int], right: Sequence[int]) -> int:
        """The inner product of two sums of rows: left and right give each row's integer factor."""
        return sum(
            a * b * self.inner[i][j] for i, a in enumerate(left) if a for j, b in enumerate(right) if b
        )

    def unit(self, index: int) -> tuple[int, ...]:
        """The factors that pick one row."""
        return tuple(int(index == other) for other in range(self.size))

    def cos_micro(self, i: int, j: int) -> int:
        """The cosine of two rows in millionths, towards zero; 0 when one of them is zero."""
        return cosine_micro(self.inner[i][j], self.norms_sq[i], self.norms_sq[j])

    def cos_of_sums_micro(self, left: Sequence[int], right: Sequence[int]) -> int:
        """The cosine of two sums of rows in millionths."""
        return cosine_micro(self.dot(left, right), self.dot(left, left), self.dot(right, right))


def view(triangles: Sequence[Triangle], exponents: Sequence[Sequence[int]]) -> Gram:
    """Add up the tensors of a Gram matrix, each with its rows' powers of two.

    triangles: one a tensor, as `gram` gives them. exponents: for each row, one a tensor.
    """
    size, unit = len(exponents), common_exponent(exponents)
    inner = [[0] * size for _ in range(size)]
    for tensor, triangle in enumerate(triangles):
        if len(triangle) != size * (size + 1) // 2:
            raise ValueError(f"the upper triangle of {size} rows has not {len(triangle)} entries")
        shifts = [row[tensor] - unit for row in exponents]
        position = 0
        for i in range(size):
            for j in range(i, size):
                inner[i][j] += triangle[position] << (shifts[i] + shifts[j])
                position += 1
    return Gram(tuple(tuple(inner[min(i, j)][max(i, j)] for j in range(size)) for i in range(size)), unit)


def view_of(updates: Sequence[Update]) -> Gram:
    """The inner products of these updates, whatever their exponents."""
    if not updates:
        return Gram(())
    triangles = gram([update.values for update in updates], updates[0].layout)
    return view(triangles, [update.exponents for update in updates])


def cosine_micro(dot: int, left_sq: int, right_sq: int) -> int:
    """dot / sqrt(left_sq * right_sq) in millionths, rounded towards zero; 0 when a norm is zero."""
    if left_sq <= 0 or right_sq <= 0:
        return 0
    size = isqrt(MICRO * MICRO * dot * dot // (left_sq * right_sq))
    return size if dot >= 0 else -size


def ratio_micro(numerator_sq: int, denominator_sq: int) -> int:
    """sqrt(numerator_sq / denominator_sq) in millionths, rounded down, at most RATIO_MAX_MICRO.

    0 / 0 counts as 1: two updates that are both zero are alike.
    """
    if denominator_sq <= 0:
        return MICRO if numerator_sq <= 0 else RATIO_MAX_MICRO
    return min(RATIO_MAX_MICRO, isqrt(MICRO * MICRO * numerator_sq // denominator_sq))


def lower_median(values: Sequence[int]) -> int:
    """The middle value, of an even number the lower of the two: always one that is there. Raises on none."""
    return sorted(values)[(len(values) - 1) // 2]
