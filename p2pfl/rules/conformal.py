"""How unusual a member's round is beside a pool of honest ones: a p-value that holds whatever the data are.

    features -> the rank of each in the pool -> their product -> its rank among the pool's own products

Full conformal prediction (Vovk, Gammerman, Shafer 2005, chapter 2): the row that is judged and the pool's
rows are ranked as one set, so that, when all are exchangeable, p <= a with a chance of at most a. A rank
beyond the oddest twentieth counts as that: what is not odd in one feature must not excuse what is in another
(the truncated product of Zaykin et al. 2002). Ranks are integers, their products float64 in a fixed order:
the same bits everywhere. Knows no member.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2pfl.params import Int64
from p2pfl.records import MICRO

# One part in so many of pool and row: the larger this, the more a single very odd feature decides.
TRUNCATION = 20


@dataclass(frozen=True, eq=False)
class Calibration:
    """A pool, ranked. columns: each feature of all rows, sorted, shape (features, rows). values: unsorted.

    ranks: how many of the pool are at least as odd as each row in each feature, itself among them.
    """

    columns: Int64
    values: Int64
    ranks: Int64

    @classmethod
    def of(cls, pool: Int64) -> Calibration:
        """pool: int64, shape (rows, features): larger is odder."""
        values = np.ascontiguousarray(pool.T)
        columns = np.sort(values, axis=1)
        ranks = [_at_least(column, own) for column, own in zip(columns, values, strict=True)]
        return cls(columns, values, np.array(ranks, dtype=np.int64).reshape(values.shape))

    @property
    def size(self) -> int:
        """How many rows."""
        return self.values.shape[1]

    def p_values_ppm(self, rows: Int64) -> list[int]:
        """The p-value of each row alone against the pool, in millionths, rounded up; MICRO without a pool.

        rows: int64, shape (rows, features). A pool of N rows gives no value below 1 / (N + 1). Rounded up,
        p_ppm <= rate_ppm says exactly that p <= rate.
        """
        return [-(-MICRO * self._rank(row) // (self.size + 1)) for row in rows]

    def _rank(self, row: Int64) -> int:
        """How many of pool and row are at least as odd as the row, itself among them."""
        own, others = 1.0, np.ones(self.size)
        largest = max(1, (self.size + 1) // TRUNCATION)
        for column, values, ranks, value in zip(self.columns, self.values, self.ranks, row, strict=True):
            own *= float(min(largest, 1 + int(_at_least(column, value))))
            others *= np.minimum(ranks + (value >= values), largest).astype(np.float64)
        return 1 + int(np.count_nonzero(others <= own))


def _at_least(column: Int64, values: Int64) -> Int64:
    """How many of the sorted column are at least each value."""
    return len(column) - np.searchsorted(column, values, side="left")
