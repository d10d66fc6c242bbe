"""The messages by which blobs are asked for and come: part of the table of messages in `wire`.

Knows their shapes and limits only; who may have which blob is asked of the node, what proves a piece is in
`p2pfl.runs`.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.types import Digest
from p2pfl.params import BLOB_BYTES_MAX, LEAF_BYTES
from p2pfl.runs import PIECE_BYTES_MAX, PIECE_LEAVES_MAX, RUN_LEAVES

_LEAVES_MAX = -(-BLOB_BYTES_MAX // LEAF_BYTES)
# The audit path in the largest blob.
PROOF_DIGESTS_MAX = (_LEAVES_MAX - 1).bit_length()
# A bit for each of the shortest pieces of the largest blob.
HELD_BYTES_MAX = -(-_LEAVES_MAX // RUN_LEAVES // 8)


def a_digest(value: bytes) -> None:
    """Raises ValueError for what cannot be a digest."""
    if len(value) != 32:
        raise ValueError("a digest has 32 bytes")


def a_length(value: int) -> None:
    """Raises ValueError for what cannot be the length of a blob."""
    if not 0 <= value <= BLOB_BYTES_MAX:
        raise ValueError(f"a blob has at most {BLOB_BYTES_MAX} bytes")


def _run(leaves: int) -> None:
    if leaves & (leaves - 1) or not RUN_LEAVES <= leaves <= PIECE_LEAVES_MAX:
        raise ValueError(f"a run is a power of two from {RUN_LEAVES} to {PIECE_LEAVES_MAX} leaves")


@dataclass(frozen=True, slots=True)
class GetPiece:
    """An aligned run of leaves: `leaf_count` is a power of two and divides `first_leaf`."""

    blob_id: Digest
    first_leaf: int
    leaf_count: int

    def __post_init__(self) -> None:
        a_digest(self.blob_id)
        _run(self.leaf_count)
        if not 0 <= self.first_leaf < _LEAVES_MAX or self.first_leaf % self.leaf_count:
            raise ValueError("a run begins at a multiple of its length")


@dataclass(frozen=True, slots=True)
class GetHeld:
    """Asks which pieces of this length the receiver has: it may be fetching the blob itself."""

    blob_id: Digest
    leaf_count: int

    def __post_init__(self) -> None:
        a_digest(self.blob_id)
        _run(self.leaf_count)


@dataclass(frozen=True, slots=True)
class Held:
    """Which pieces are here: a bit for each, the first one the highest bit of the first byte."""

    total_length: int
    bits: bytes

    def __post_init__(self) -> None:
        a_length(self.total_length)
        if len(self.bits) > HELD_BYTES_MAX:
            raise ValueError("more bits than any blob has pieces")


@dataclass(frozen=True, slots=True)
class PieceHead:
    """What stands before a piece's bytes. `length` raw bytes follow the frame, outside of CBOR.

    proof: audit path of the run's own root under the blob's id, in the tree whose leaves are such runs.
    """

    total_length: int
    proof: tuple[Digest, ...]
    length: int

    def __post_init__(self) -> None:
        a_length(self.total_length)
        if not 0 <= self.length <= min(PIECE_BYTES_MAX, self.total_length):
            raise ValueError("a piece is no longer than a run")
        if len(self.proof) > PROOF_DIGESTS_MAX:
            raise ValueError("the path is longer than any tree is high")
        for digest in self.proof:
            a_digest(digest)


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece as the fetcher gets it: its head and its bytes."""

    total_length: int
    proof: tuple[Digest, ...]
    data: bytes | bytearray | memoryview
