"""The row tree: an aggregate beside the updates it was made of, so that one wrong number is a small proof.

    leaf k = coordinates 32 k .. 32 k + 31 of each accepted update in the order of the commitments, then the
             aggregate's: 64 bytes each, little-endian int16, zeros after the last coordinate
    root   = RFC 9162 over these leaves

Who holds the body's `row_root` and `factors` needs one leaf and its audit path to see that a coordinate of
the aggregate is not what the factors make of the updates. Knows nothing of members, nor where factors come
from.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from consensus import merkle
from consensus.types import Digest
from p2pfl.params import INT16_MAX, Int16, divide_round_half_even

ROW_COORDINATES = 32
ROW_BYTES = 2 * ROW_COORDINATES
# Leaves that are laid side by side at a time: 4.5 MB of sixteen members', and some 2 ms of hashing.
_LEAVES_AT_ONCE = 4096


@dataclass(frozen=True)
class RowProof:
    """One leaf of a row tree under its root. path: from the leaf's side upwards (RFC 9162, 2.1.3.1)."""

    leaf: bytes
    index: int
    size: int
    path: tuple[Digest, ...]

    def holds(self, row_root: Digest) -> bool:
        """Whether it is this leaf of the tree of `size` leaves with this root."""
        found = merkle.leaf_hash(self.leaf)
        return merkle.verify_inclusion(found, self.index, self.size, self.path, row_root)


def row_root(updates: Sequence[Int16], aggregate: Int16) -> Digest:
    """The root. updates: the accepted ones; all vectors int16 of one length.

    About as dear as hashing the vectors' blobs, most of it under the interpreter's lock: for threads.
    """
    return merkle.root_of_hashes(_hashes(updates, aggregate))


def prove_row(updates: Sequence[Int16], aggregate: Int16, coordinate: int) -> RowProof:
    """The leaf in which this coordinate lies, with its path. Raises IndexError when there is none."""
    index = coordinate // ROW_COORDINATES
    hashes = _hashes(updates, aggregate)
    path = merkle.inclusion_proof(hashes, index)
    part = slice(index * ROW_COORDINATES, (index + 1) * ROW_COORDINATES)
    pieces = [row[part].astype("<i2").tobytes().ljust(ROW_BYTES, b"\0") for row in (*updates, aggregate)]
    return RowProof(b"".join(pieces), index, len(hashes), path)


def wrong_coordinates(leaf: bytes, factors: Sequence[int], divisor: int) -> list[int]:
    """Where in a leaf, from 0 to 31, the aggregate is not round_half_even(sum(factor * update) / divisor).

    Beyond int16 an aggregate ends at plus or minus 32,767. Raises ValueError for a leaf of other members.
    """
    if len(leaf) != ROW_BYTES * (len(factors) + 1):
        raise ValueError(f"a leaf of {len(factors)} updates and an aggregate has not {len(leaf)} bytes")
    values = np.frombuffer(leaf, dtype="<i2").reshape(-1, ROW_COORDINATES).astype(np.int64)
    total = np.array(factors, dtype=np.int64) @ values[:-1]
    expected = np.clip(divide_round_half_even(total, divisor), -INT16_MAX, INT16_MAX)
    return np.flatnonzero(expected != values[-1]).tolist()


def _hashes(updates: Sequence[Int16], aggregate: Int16) -> list[bytes]:
    return [sha256(leaf).digest() for leaves in _prefixed(updates, aggregate) for leaf in leaves]


def _prefixed(updates: Sequence[Int16], aggregate: Int16) -> Iterator[Iterator[memoryview]]:
    """The leaves, each after the byte 0x00 that a leaf is hashed with; some thousand at a time."""
    rows = (*updates, aggregate)
    if any(row.dtype != np.int16 or row.shape != aggregate.shape for row in rows):
        raise ValueError("the rows of a tree are int16 vectors of one length")
    width, step = 1 + ROW_BYTES * len(rows), _LEAVES_AT_ONCE * ROW_COORDINATES
    for start in range(0, len(aggregate), step):
        count = -(-min(step, len(aggregate) - start) // ROW_COORDINATES)
        leaves = np.zeros((count, width), dtype=np.uint8)
        for index, row in enumerate(rows):
            octets = row[start : start + step].astype("<i2", copy=False).view(np.uint8)
            place = slice(1 + index * ROW_BYTES, 1 + (index + 1) * ROW_BYTES)
            whole = len(octets) // ROW_BYTES
            leaves[:whole, place] = octets[: whole * ROW_BYTES].reshape(whole, ROW_BYTES)
            if rest := len(octets) - whole * ROW_BYTES:
                leaves[whole, place.start : place.start + rest] = octets[whole * ROW_BYTES :]
        flat = memoryview(leaves.data).cast("B")
        yield (flat[place : place + width] for place in range(0, len(flat), width))
        time.sleep(0)  # The event loop would wait 5 ms for each of its turns.
