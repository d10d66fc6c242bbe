r"""Runs of leaves: the nodes of a blob's tree by which its pieces are proved, without holding the blob.

A piece is an aligned run of 2^k leaves, one node of the RFC 9162 tree, k levels above the leaves; its proof
is that node's audit path in the tree of such runs. What is kept of a blob are the nodes 6 levels up, 32 bytes
for 64 KiB: no piece is shorter. Knows neither who has a blob nor where it lies.

    blob id            o                 runs of 4 leaves of a blob of 11:   0..3   4..7   8..10
                    /     \              proof of the second run:            [first run, third run]
                  o         o
                /   \        |
              0..3  4..7   8..10
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from consensus import merkle
from consensus.types import Digest
from p2pfl.params import LEAF_BYTES, leaf_hashes

Bytes = bytes | bytearray | memoryview

# The shortest piece, and the least that a peer of 1 Mbit/s delivers within two seconds.
RUN_LEAVES = 64
RUN_BYTES = RUN_LEAVES * LEAF_BYTES
# The longest: a request costs little beside it, and a liar costs little.
PIECE_LEAVES_MAX = 1024
PIECE_BYTES_MAX = PIECE_LEAVES_MAX * LEAF_BYTES
_HASH_BYTES = 32
# Hashes of the leaves of so many runs are kept: of 64 MiB of blobs, in 2.3 MB. Whoever checks a proposal
# needs those of all its updates, which it has made when the blobs came or were read.
LEAVES_KNOWN_MAX = 1024


def piece_leaves(length: int) -> int:
    """How many leaves a piece of a blob of this length has: about sixteen pieces, within the limits."""
    leaves = max(1, -(-length // LEAF_BYTES))
    return min(PIECE_LEAVES_MAX, max(RUN_LEAVES, 1 << (leaves // 16).bit_length()))


def run_hashes(data: Bytes) -> bytes:
    """The node of each run of 64 leaves of these bytes, one after another. 1 MiB costs about 1.5 ms."""
    view = memoryview(data)
    nodes = bytearray()
    for start in range(0, len(view), RUN_BYTES):
        hashes = leaf_hashes(view[start : start + RUN_BYTES])
        nodes += _leaves.keep(merkle.root_of_hashes(hashes), hashes)
    return bytes(nodes)


def leaves_of(runs: Bytes) -> bytes:
    """The hashes of all leaves under these runs, one after another, if they were made lately; or nothing."""
    return _leaves.under(_split(runs))


class _Leaves:
    """What was under a run. Its node is a hash over it, so that nothing here can be wrong; for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, bytes] = OrderedDict()

    def keep(self, node: Digest, hashes: Sequence[bytes]) -> Digest:
        with self._lock:
            self._known[node] = b"".join(hashes)
            self._known.move_to_end(node)
            if len(self._known) > LEAVES_KNOWN_MAX:
                self._known.popitem(last=False)
        return node

    def under(self, nodes: Sequence[bytes]) -> bytes:
        with self._lock:
            found = [self._known.get(node) for node in nodes]
            return b"" if None in found else b"".join(each for each in found if each)


_leaves = _Leaves()


def root_of(runs: Bytes) -> Digest:
    """The node above these runs: the blob's id, if they are all of its runs."""
    return merkle.root_of_hashes(_split(runs))


def runs_of(read: Callable[[int, int], Bytes], length: int) -> bytes:
    """The runs of a blob that is read in pieces: `read(offset, size)`. For threads.

    Hashing a leaf holds the interpreter's lock, and who holds it is asked for it only every 5 milliseconds:
    the event loop would wait so long for each of its turns. So it is given away now and then.
    """
    nodes = bytearray()
    for offset in range(0, length, PIECE_BYTES_MAX):
        nodes += run_hashes(read(offset, min(PIECE_BYTES_MAX, length - offset)))
        time.sleep(0)
    return bytes(nodes)


def proved(
    runs: Bytes, first_leaf: int, leaf_count: int, length: int, proof: Sequence[bytes], blob_id: bytes
) -> bool:
    """Whether a piece with these runs is this run of leaves of this blob."""
    pieces = -(-length // (leaf_count * LEAF_BYTES))
    return merkle.verify_inclusion(root_of(runs), first_leaf // leaf_count, pieces, proof, blob_id)


class RunTree:
    """The upper levels of a blob's tree: what proofs are made of. 64 bytes for 64 KiB of the blob."""

    def __init__(self, runs: Bytes) -> None:
        # _levels[k] has the nodes that cover 64 * 2^k leaves each, as bytes: objects weigh twice as much.
        self._levels: list[bytes] = [bytes(runs)]
        while len(level := self._levels[-1]) > _HASH_BYTES:
            nodes = _split(level)
            above = [merkle.node_hash(*nodes[n : n + 2]) for n in range(0, len(nodes) - 1, 2)]
            self._levels.append(b"".join((*above, *(nodes[-1:] if len(nodes) % 2 else ()))))

    def proof(self, first_leaf: int, leaf_count: int) -> tuple[Digest, ...]:
        """The audit path of this run."""
        start = min((leaf_count // RUN_LEAVES).bit_length() - 1, len(self._levels) - 1)
        index = first_leaf // leaf_count
        path: list[Digest] = []
        for level in self._levels[start:]:
            place = (index ^ 1) * _HASH_BYTES
            if place < len(level):
                path.append(Digest(level[place : place + _HASH_BYTES]))
            index //= 2
        return tuple(path)


def _split(runs: Bytes) -> list[bytes]:
    return [bytes(runs[place : place + _HASH_BYTES]) for place in range(0, len(runs), _HASH_BYTES)]
