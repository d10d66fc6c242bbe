"""Short aligned runs of coordinates inside a tensor: where in a model two updates agree or disagree.

    tensor 0: |--- chunk 0 ---|--- chunk 1 ---|-- 2 --|     a chunk never crosses into the next tensor
    tensor 1: |- 0 -|

Knows nothing of members and warnings.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from p2pfl.params import Int16, Int64, Layout

# Eight leaves of a blob. Short enough to say where, long enough that an inner product is more than noise; a
# model of 11 million coordinates has 2,700 of them.
CHUNK_COORDINATES = 4096

ChunkId = tuple[int, int]  # (index of the tensor in the layout, index of the chunk in the tensor)


@lru_cache(maxsize=8)
def chunk_ids(layout: Layout) -> tuple[ChunkId, ...]:
    """All chunks of a model, in the order in which they lie in a flat vector."""
    return tuple(
        (tensor, chunk)
        for tensor, spec in enumerate(layout.tensors)
        for chunk in range(-(-spec.size // CHUNK_COORDINATES))
    )


@lru_cache(maxsize=8)
def _starts(layout: Layout) -> Int64:
    starts = [
        start for part in layout.slices() for start in range(part.start, part.stop, CHUNK_COORDINATES)
    ]
    return np.array(starts, dtype=np.int64)


def chunk_dots(left: Int16 | Int64, right: Int16 | Int64, layout: Layout) -> Int64:
    """The inner product of two vectors in each chunk. Returns int64, shape (chunks,).

    left, right: integers, shape (layout.size,); the product of their largest absolute values times 4,096
    must stay below 2^63, or ArithmeticError is raised.
    """
    largest = [int(np.abs(each.astype(np.int64)).max(initial=0)) for each in (left, right)]
    if largest[0] * largest[1] * CHUNK_COORDINATES >= 1 << 63:
        raise ArithmeticError("an inner product of a chunk may leave int64")
    return np.add.reduceat(left.astype(np.int64) * right.astype(np.int64), _starts(layout))
