"""Every draw of this room, as a pure function of a purpose and a seed.

Only the raw 64-bit words of numpy's Philox are used where machines must agree: numpy keeps those the
same for ever, while the methods of its Generator may change between versions (NEP 19).
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np
from numpy.typing import NDArray


def words(purpose: str, *seeds: bytes | int) -> np.random.Philox:
    """A Philox stream keyed by SHA-256 over the purpose and the seeds, each with its length before it."""
    hasher = sha256()
    for part in (purpose.encode(), *(_as_bytes(seed) for seed in seeds)):
        hasher.update(len(part).to_bytes(4, "big") + part)
    return np.random.Philox(key=int.from_bytes(hasher.digest()[:16], "little"))


def shuffled(count: int, stream: np.random.Philox) -> NDArray[np.int64]:
    """A permutation of 0..count-1: the order of `count` raw words, ties by position."""
    return np.argsort(stream.random_raw(count), kind="stable").astype(np.int64, copy=False)


def symmetric(count: int, stream: np.random.Philox) -> NDArray[np.float64]:
    """`count` draws, uniform on (-1, 1), each an odd multiple of 2^-24: exact in float32 and float64."""
    grid = (stream.random_raw(count) >> np.uint64(40)).astype(np.int64)
    return (2 * grid - ((1 << 24) - 1)).astype(np.float64) * 2.0**-24


def _as_bytes(seed: bytes | int) -> bytes:
    return seed if isinstance(seed, bytes) else seed.to_bytes(8, "big", signed=True)
