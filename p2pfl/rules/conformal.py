"""How unusual a member's round is beside a pool of honest ones: a p-value that holds whatever the data are.

    features -> the rank of each in the pool -> their product -> its rank among the pool's own products

Full conformal prediction (Vovk, Gammerman, Shafer 2005, chapter 2): the row that is judged and the pool's
rows are ranked as one set, so that, when all are exchangeable, p <= a with a chance of at most a. Ranks are
integers, their products float64 in a fixed order: the same bits everywhere. Knows no member.
"""

from __future__ import annotations

import numpy as np

from p2pfl.params import Int64
from p2pfl.records import MICRO


def p_values_ppm(rows: Int64, pool: Int64) -> list[int]:
    """The p-value of each row alone against the pool, in millionths, rounded up; MICRO without a pool.

    rows: int64, shape (rows, features); pool: int64, shape (pooled, features): larger is odder. A pool of N
    rows gives no value below 1 / (N + 1). Rounded up, p_ppm <= rate_ppm says exactly that p <= rate.
    """
    size = len(pool) + 1
    columns = [np.sort(pool[:, k]) for k in range(pool.shape[1])]
    within = np.stack([_at_least(column, pool[:, k]) for k, column in enumerate(columns)], axis=1)
    return [-(-MICRO * _rank(row, pool, columns, within) // size) for row in rows]


def _rank(row: Int64, pool: Int64, columns: list[Int64], within: Int64) -> int:
    """How many of pool and row are at least as odd as the row, itself among them."""
    own, others = 1.0, np.ones(len(pool))
    for k, column in enumerate(columns):
        own = own * float(1 + len(column) - int(np.searchsorted(column, row[k], side="left")))
        others = others * (within[:, k] + (row[k] >= pool[:, k])).astype(np.float64)
    return 1 + int(np.count_nonzero(others <= own))


def _at_least(column: Int64, values: Int64) -> Int64:
    """How many of the sorted column are at least each value."""
    return len(column) - np.searchsorted(column, values, side="left").astype(np.int64)
