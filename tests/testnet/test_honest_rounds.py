"""Founding pools: rounds that honest members really trained, and what they say of one that does not."""

from __future__ import annotations

import numpy as np

from p2pfl.records import MICRO
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.pool import FEATURES, FOUNDING_MAX, Pool, pack, unpack
from testnet.honest_rounds import Setting, broken, rows_of, run, shipped


def test_the_pool_that_is_brought_along_supports_the_alarm_rate() -> None:
    pool = Pool.founded(shipped())
    assert pool.size <= FOUNDING_MAX and (pool.size + 1) * DEFAULT_RULES.alarm_rate_ppm >= MICRO
    # Cosines are cosines, and no row is one that a hard rule leaves out.
    told = pool.features[:, 1:4]
    assert np.abs(told[told > -MICRO - 1]).max() <= MICRO
    assert pool.features[:, 0].min() >= MICRO and pool.features[:, 0].max() <= 4 * MICRO


def test_who_flips_its_sign_is_rarer_than_any_honest_round() -> None:
    """A fresh seed: three rounds of two groups, judged by the pool that the testnet's genesis holds."""
    setting = Setting("logistic", 0.5, 2001, 2, 5, "sign flip x3")
    heights = run(setting, 3, Pool.founded(shipped()))
    later = [judged for groups in heights[1:] for judged in groups]  # Then there is a root update.
    liars = [row for judged in later for row, lied in zip(judged.rows, judged.lied, strict=True) if lied]
    others = [row for judged in later for row, lied in zip(judged.rows, judged.lied, strict=True) if not lied]
    assert liars and all(row.alarm or broken(row) for row in liars)
    assert not any(row.alarm for row in others)
    rows = rows_of(judged for groups in heights for judged in groups)
    assert rows.shape[1] == FEATURES and np.array_equal(unpack(pack(rows)), rows)
