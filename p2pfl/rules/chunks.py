"""Inner products of updates chunk by chunk, in exact integers: where in a model two of them agree.

    tensor 0: |--- chunk 0 ---|--- chunk 1 ---|-- 2 --|     a chunk never crosses into the next tensor
    tensor 1: |- 0 -|

int16 values are carried in float64 through BLAS, over chunks so short that every partial sum stays below
2^53: then any order of summation gives the same integer on every machine. Knows nothing of members.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    out = np.empty((len(chunk_ids(layout)), len(rows), len(rows)), dtype=np.float64)
    chunk = 0
    for _, pieces in _pieces(rows, layout):
        _upper_products(pieces, out[chunk : chunk + len(pieces)])
        chunk += len(pieces)
    half = len(rows) // 2
    out[:, half:, :half] = out[:, :half, half:].transpose(0, 2, 1)
    return out.astype(np.int64)  # Exact: a chunk is too short for a sum to reach 2^53.


def tensor_grams(rows: Sequence[Int16], layout: Layout) -> Int64:
    """The Gram matrix of each tensor. Returns int64, shape (tensors, rows, rows).

    The same as adding up `chunk_grams`, and without the memory: of thirty-two rows of 11M coordinates 88 MB.
    Whoever asks has seen to it that a sum over the whole model fits in int64.
    """
    out = np.zeros((len(layout.tensors), len(rows), len(rows)), dtype=np.int64)
    products = np.zeros((_CHUNKS_AT_ONCE, len(rows), len(rows)), dtype=np.float64)
    for tensor, pieces in _pieces(rows, layout):
        _upper_products(pieces, products[: len(pieces)])
        out[tensor] += products[: len(pieces)].sum(axis=0).astype(np.int64)
    half = len(rows) // 2
    out[:, half:, :half] = out[:, :half, half:].transpose(0, 2, 1)
    return out


def _pieces(rows: Sequence[Int16], layout: Layout) -> Iterator[tuple[int, Float64]]:
    """A tensor's number and some of its chunks: float64, shape (chunks, rows, width); good until the next."""
    if CHUNK_COORDINATES * _CHUNKS_AT_ONCE > EXACT_COORDINATES_MAX:
        raise ArithmeticError("a sum over some chunks could reach 2^53: it may be rounded")
    if any(row.dtype != np.int16 or row.shape != (layout.size,) for row in rows):
        raise ValueError(f"each row is an int16 vector of {layout.size} coordinates")
    span = CHUNK_COORDINATES * _CHUNKS_AT_ONCE
    wide = np.empty((len(rows), span + _PADDING), dtype=np.float64)
    for tensor, part in enumerate(layout.slices()):
        for start in range(part.start, part.stop, span):
            width = min(span, part.stop - start)
            for index, row in enumerate(rows):
                wide[index, :width] = row[start : start + width]
            whole = width // CHUNK_COORDINATES
            if whole:
                pieces = wide[:, : whole * CHUNK_COORDINATES].reshape(len(rows), whole, CHUNK_COORDINATES)
                yield tensor, pieces.transpose(1, 0, 2)
            if width % CHUNK_COORDINATES:
                yield tensor, wide[np.newaxis, :, whole * CHUNK_COORDINATES : width]


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
