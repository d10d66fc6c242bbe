"""Inner products of updates chunk by chunk, in exact integers: where in a model two of them agree.

    tensor 0: |--- chunk 0 ---|--- chunk 1 ---|-- 2 --|     a chunk never crosses into the next tensor
    tensor 1: |- 0 -|

int16 values are carried in float64 through BLAS, over chunks so short that every partial sum stays below
2^53: then any order of summation gives the same integer on every machine. Knows nothing of members.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from p2pfl.params import Int16, Int64, Layout

Float64 = NDArray[np.float64]

# Two leaves of a blob. Finer than that, inner products of honest members are mostly noise; coarser, a small
# model has too few to tell an attack on all of it from a rare class. Sums stay below (2^15)^2 * 2^10 = 2^40.
CHUNK_COORDINATES = 1024
# (2^15)^2 * 2^22 = 2^52: beyond this many coordinates a float64 sum may be rounded.
EXACT_COORDINATES_MAX = 1 << 22
EXACT_FLOAT = 1 << 53
# Chunks converted at a time: 16 rows of them are half a MiB in float64, and stay in a processor's own cache
# until they are multiplied.
_CHUNKS_AT_ONCE = 4
# Rows that lie a power of two apart compete for the same lines of the cache.
_PADDING = 8

ChunkId = tuple[int, int]  # (index of the tensor in the layout, index of the chunk in the tensor)


@lru_cache(maxsize=8)
def chunk_ids(layout: Layout) -> tuple[ChunkId, ...]:
    """All chunks of a model, in the order in which they lie in a flat vector."""
    return tuple(
        (tensor, chunk)
        for tensor, spec in enumerate(layout.tensors)
        for chunk in range(-(-spec.size // CHUNK_COORDINATES))
    )


def chunk_grams(rows: Sequence[Int16], layout: Layout) -> Int64:
    """The Gram matrix of each chunk. Returns int64, shape (chunks, rows, rows).

    rows: int16 vectors, each of shape (layout.size,); any other raises ValueError.
    """
    if CHUNK_COORDINATES > EXACT_COORDINATES_MAX:
        raise ArithmeticError("a sum over a chunk could reach 2^53: it may be rounded")
    if any(row.dtype != np.int16 or row.shape != (layout.size,) for row in rows):
        raise ValueError(f"each row is an int16 vector of {layout.size} coordinates")
    out = np.empty((len(chunk_ids(layout)), len(rows), len(rows)), dtype=np.float64)
    span = CHUNK_COORDINATES * _CHUNKS_AT_ONCE
    wide = np.empty((len(rows), span + _PADDING), dtype=np.float64)
    chunk = 0
    for part in layout.slices():
        for start in range(part.start, part.stop, span):
            width = min(span, part.stop - start)
            for index, row in enumerate(rows):
                wide[index, :width] = row[start : start + width]
            whole = width // CHUNK_COORDINATES
            if whole:
                pieces = wide[:, : whole * CHUNK_COORDINATES].reshape(len(rows), whole, CHUNK_COORDINATES)
                _upper_products(pieces.transpose(1, 0, 2), out[chunk : chunk + whole])
                chunk += whole
            if width % CHUNK_COORDINATES:
                piece = wide[:, whole * CHUNK_COORDINATES : width]
                _upper_products(piece[np.newaxis], out[chunk : chunk + 1])
                chunk += 1
    half = len(rows) // 2
    out[:, half:, :half] = out[:, :half, half:].transpose(0, 2, 1)
    return out.astype(np.int64)  # Exact: a chunk is too short for a sum to reach 2^53.


def _upper_products(pieces: Float64, out: Float64) -> None:
    """The inner products of the rows of each piece, but for those of the second half with the first.

    pieces: shape (pieces, rows, width). For so few rows two general products are quicker than the symmetric
    one that numpy asks BLAS for when it is given a matrix and its own transpose; so never the whole of it.
    """
    half = pieces.shape[1] // 2
    across = pieces.transpose(0, 2, 1)
    np.matmul(pieces[:, :half], across, out=out[:, :half])
    one_more = max(0, half - 1)
    np.matmul(pieces[:, half:], across[:, :, one_more:], out=out[:, half:, one_more:])


def exact_int64(sums: Float64) -> Int64:
    """Float64 sums of integers as int64. Raises ArithmeticError when one may have been rounded."""
    if sums.size and float(np.abs(sums).max()) >= EXACT_FLOAT:
        raise ArithmeticError("a sum reached 2^53: it may have been rounded")
    return sums.astype(np.int64)
