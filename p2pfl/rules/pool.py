"""What honest rounds look like: the feature rows that every member's p-value is calibrated against.

The founding rows are in the genesis; the council's blocks add those of the members whom their groups
accepted. So the pool of a height is a pure function of the council block that its base names. What a feature
means is said in `triage`, what follows from a pool in `conformal`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from weakref import WeakValueDictionary

import numpy as np

from consensus.types import Digest, MemberId
from p2pfl import codec
from p2pfl.params import Int64
from p2pfl.records import PoolRow
from p2pfl.rules.conformal import Calibration

# Of a row: how many features, each a signed 32-bit integer.
FEATURES = 5
FEATURE_MAX = (1 << 31) - 1
# Founding rows in a genesis: 80 kB. A rate of 3e-4 needs 3,333.
FOUNDING_MAX = 4_096
# Rows from the chain, the newest: with the founding ones 8,192, which are ranked in a millisecond.
RING_MAX = 4_096
# Of one member among them, so that nobody's own habits become the norm.
MEMBER_ROWS_MAX = RING_MAX // 8
ROW_BYTES = 4 * FEATURES
_ADDED = tuple[tuple[PoolRow, ...], tuple[PoolRow, ...]]


@dataclass(frozen=True, eq=False)
class Pool:
    """Two pools are equal when their digests are: a digest names everything that ever came in, in its order.

    founding: int64, shape (rows, FEATURES). ring: the newest last. withheld: the row of a member with an open
    case; it comes in when the member is cleared by a quorum's replays.
    """

    digest: Digest
    founding: Int64
    ring: tuple[PoolRow, ...] = ()
    withheld: Mapping[MemberId, PoolRow] = field(default_factory=lambda: MappingProxyType({}))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pool) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @classmethod
    def founded(cls, packed: bytes) -> Pool:
        """The pool of a genesis. Raises ValueError for bytes that are no rows, or too many."""
        return cls(Digest(sha256(b"MPS pool" + packed).digest()), unpack(packed))

    @property
    def size(self) -> int:
        """How many rows."""
        return len(self.founding) + len(self.ring)

    @property
    def features(self) -> Int64:
        """All rows: int64, shape (size, FEATURES)."""
        if not self.ring:
            return self.founding
        newer = np.array([row.features for row in self.ring], dtype=np.int64)
        return np.concatenate([self.founding, newer])

    @property
    def calibration(self) -> Calibration:
        """The pool as p-values need it: once for all members that are judged by it."""
        return _calibrated(self)

    def after(
        self, rows: Sequence[PoolRow], *, opened: Iterable[MemberId], ended: Mapping[MemberId, bool]
    ) -> Pool:
        """The pool after a council block.

        rows: with `alarm` as the council says it (`triage.pool_rows`). opened: against whom it opens a case;
        ended: whose case it ends, True if a quorum of seats measured a replay that matches. The row of a
        suspect waits for that: were it lost, a pool would grow narrower the longer it judges.
        """
        withheld = dict(self.withheld)
        added = [withheld.pop(member) for member, cleared in ended.items() if member in withheld and cleared]
        for member in ended:
            withheld.pop(member, None)
        accused = frozenset(opened)
        for row in rows:
            if row.member in accused:
                withheld[row.member] = row
            elif not row.alarm:
                added.append(row)
        if not added and withheld == self.withheld:
            return self
        told = codec.encode((tuple(added), tuple(withheld.values())), _ADDED)
        digest = Digest(sha256(b"MPS pool" + self.digest + told).digest())
        if (known := _KNOWN.get(digest)) is not None:
            return known
        ring = _newest((*self.ring, *added))
        found = _KNOWN[digest] = Pool(digest, self.founding, ring, MappingProxyType(withheld))
        return found


# Many nodes in one process, and a node that folds a chain again, share what they come to.
_KNOWN: WeakValueDictionary[Digest, Pool] = WeakValueDictionary()


# A node's rounds stand on one council block or on the next; a ranked pool of 8,192 rows has a megabyte.
@lru_cache(maxsize=4)
def _calibrated(pool: Pool) -> Calibration:
    return Calibration.of(pool.features)


def _newest(rows: tuple[PoolRow, ...]) -> tuple[PoolRow, ...]:
    """The newest RING_MAX rows, of each member at most MEMBER_ROWS_MAX."""
    if len(rows) <= MEMBER_ROWS_MAX:
        return rows
    kept: list[PoolRow] = []
    counts: Counter[MemberId] = Counter()
    for row in reversed(rows):
        if counts[row.member] < MEMBER_ROWS_MAX and len(kept) < RING_MAX:
            counts[row.member] += 1
            kept.append(row)
    return tuple(reversed(kept))


def pack(features: Int64) -> bytes:
    """The bytes of founding rows for a genesis: signed 32-bit little-endian, row by row."""
    if features.ndim != 2 or features.shape[1] != FEATURES or len(features) > FOUNDING_MAX:
        raise ValueError(f"at most {FOUNDING_MAX} rows of {FEATURES} features")
    return np.clip(features, -FEATURE_MAX, FEATURE_MAX).astype("<i4").tobytes()


def unpack(packed: bytes) -> Int64:
    """The founding rows: int64, shape (rows, FEATURES). Raises ValueError."""
    rows, rest = divmod(len(packed), ROW_BYTES)
    if rest or rows > FOUNDING_MAX:
        raise ValueError(
            f"a pool has at most {FOUNDING_MAX} rows of {ROW_BYTES} bytes, not {len(packed)} bytes"
        )
    return np.frombuffer(packed, dtype="<i4").reshape(rows, FEATURES).astype(np.int64)


EMPTY = Pool.founded(b"")
