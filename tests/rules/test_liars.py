"""What each paper promises against f liars, and what no rule of the table may do whatever it is given.

The liars know everything: what the honest sent, the rule, and f.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from p2pfl.params import INT16_MAX, Int16
from p2pfl.rules.aggregate import aggregate, factors_of, recorded_factors
from p2pfl.rules.table import AGGREGATORS

from .test_aggregators import gram_of

SIZE = 24
ALL = sorted(AGGREGATORS)
ZERO = np.zeros(SIZE, dtype=np.int16)
ROUNDED = 0.5 * SIZE**0.5 + 1  # Half a unit in each coordinate, and factors rounded down.


def fixed(values: np.ndarray) -> Int16:
    return np.clip(np.rint(values), -INT16_MAX - 1, INT16_MAX).astype(np.int16)


# What the liars send, from the honest rows: a liar for each index.
LIES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "nothing": lambda honest, _: np.zeros(SIZE),
    "all at the end of the range": lambda honest, _: np.full(SIZE, 32767.0),
    "below it, each of its own": lambda honest, i: np.full(SIZE, -32768.0) * (np.arange(SIZE) % (i + 2) == 0),
    "flipped and long": lambda honest, i: -(8.0 + i) * honest.mean(axis=0),
    "a little is enough": lambda honest, _: honest.mean(axis=0) - 1.5 * honest.std(axis=0),
    "inner product": lambda honest, _: -0.1 * honest.mean(axis=0),
    "one coordinate": lambda honest, i: honest[0] + 30_000.0 * (np.arange(SIZE) == 3 + i),
    "a copy": lambda honest, _: honest[0],
    "noise": lambda honest, i: np.random.default_rng(i).normal(0, 20_000, SIZE),
}


def honest_rows(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.rint(rng.normal(0, 400, SIZE) + rng.normal(0, 200, (count, SIZE)))


def attacked(rule: str, lie: str, n: int, f: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The honest rows, and the aggregate with the liars' first among the rows; the root update is honest."""
    honest = honest_rows(n - f, seed)
    rows = [fixed(LIES[lie](honest, i)) for i in range(f)] + [fixed(row) for row in honest]
    root = fixed(honest_rows(n - f, seed)[0] * 0.8)
    found = aggregate(rule, rows, [1] * n, gram_of(rows, ZERO, root), f)
    return honest, found.astype(float)


def longest(rows: np.ndarray) -> float:
    return float(np.linalg.norm(rows, axis=1).max())


EVERY_LIE = pytest.mark.parametrize("lie", sorted(LIES))
SEEDS = range(2)


@EVERY_LIE
@pytest.mark.parametrize("rule", ["median", "trimmed_mean"])
def test_no_coordinate_leaves_the_range_of_the_honest(rule: str, lie: str) -> None:
    """Yin et al. 2018: f < n / 2 liars cannot push a value past the last honest one."""
    for (n, f), seed in itertools.product([(3, 1), (4, 1), (7, 3), (10, 4), (15, 7)], SEEDS):
        honest, found = attacked(rule, lie, n, f, seed)
        assert (found >= honest.min(axis=0)).all() and (found <= honest.max(axis=0)).all()


@EVERY_LIE
def test_bulyan_stays_within_the_honest_spread_around_the_honest_range(lie: str) -> None:
    """El Mhamdi et al. 2018: what is averaged is no farther from an honest median than the honest are."""
    for (n, f), seed in itertools.product([(7, 1), (11, 2), (15, 3)], SEEDS):
        honest, found = attacked("bulyan", lie, n, f, seed)
        low, high = honest.min(axis=0), honest.max(axis=0)
        spread = high - low
        assert (found >= low - spread).all() and (found <= high + spread).all()


@EVERY_LIE
def test_krum_takes_a_row_that_is_as_near_to_honest_ones_as_an_honest_one(lie: str) -> None:
    """Blanchard et al. 2017: of the n - f - 2 nearest to the chosen one at least one is honest."""
    for (n, f), seed in itertools.product([(5, 1), (7, 2), (13, 5)], SEEDS):
        honest, found = attacked("krum", lie, n, f, seed)
        squares = ((honest[:, None] - honest[None]) ** 2).sum(axis=2)
        # The best honest score cannot be worse than with honest neighbours only.
        score = np.sort(squares, axis=1)[:, 1 : n - f - 1].sum(axis=1).min()
        nearest = ((honest - found) ** 2).sum(axis=1).min() ** 0.5
        assert nearest <= score**0.5 + ROUNDED


@EVERY_LIE
def test_multi_krum_leaves_out_whoever_is_far(lie: str) -> None:
    """The f it leaves out have the worst scores: each that is kept scores no worse than an honest one."""
    for (n, f), seed in itertools.product([(7, 1), (9, 3), (13, 4)], SEEDS):
        honest, found = attacked("multi_krum", lie, n, f, seed)
        squares = ((honest[:, None] - honest[None]) ** 2).sum(axis=2)
        worst = np.sort(squares, axis=1)[:, 1 : n - f - 1].sum(axis=1).max()
        centre = honest.mean(axis=0)
        assert np.linalg.norm(found - centre) <= worst**0.5 + longest(honest - centre) + ROUNDED


@EVERY_LIE
@pytest.mark.parametrize("rule", ["geometric_median", "bucketing"])
def test_the_geometric_median_is_within_its_bound(rule: str, lie: str) -> None:
    """Lopuhaa and Rousseeuw 1991: 2 (1 - a) / (1 - 2 a) times the honest spread, a the liars' share."""
    for (n, f), seed in itertools.product([(5, 1), (9, 2), (13, 3)], SEEDS):
        honest, found = attacked(rule, lie, n, f, seed)
        share = f / n if rule == "geometric_median" else f / (-(-n // 2) if n > 4 * f else n)
        centre = honest.mean(axis=0)
        bound = 2 * (1 - share) / (1 - 2 * share) * longest(honest - centre)
        assert np.linalg.norm(found - centre) <= bound + ROUNDED


@EVERY_LIE
@pytest.mark.parametrize("rule", ["clipped_mean", "clipped_mean_fltrust"])
def test_a_clipped_mean_is_no_longer_than_an_honest_update(rule: str, lie: str) -> None:
    """With f < n / 2 liars the lower median of the lengths is at most an honest one (Sun et al. 2019)."""
    for (n, f), seed in itertools.product([(3, 1), (4, 1), (7, 3), (10, 4)], SEEDS):
        honest, found = attacked(rule, lie, n, f, seed)
        assert np.linalg.norm(found) <= longest(honest) + ROUNDED


@EVERY_LIE
def test_centred_clipping_moves_no_farther_than_its_steps(lie: str) -> None:
    """Karimireddy et al. 2021: a step is at most the bound, here the lower median of the distances."""
    for (n, f), seed in itertools.product([(3, 1), (7, 3), (10, 4)], SEEDS):
        honest, found = attacked("centred_clipping", lie, n, f, seed)
        reach = 0.0
        for _ in range(3):
            reach += longest(honest) + reach
        assert np.linalg.norm(found) <= reach + ROUNDED


@EVERY_LIE
@pytest.mark.parametrize("rule", ["fltrust", "clipped_mean_fltrust"])
def test_fltrust_is_never_turned_away_from_the_root_update(rule: str, lie: str) -> None:
    """Cao et al. 2021: any f; who points away has no weight, and nobody's length counts."""
    for (n, f), seed in itertools.product([(4, 1), (4, 3), (10, 9)], SEEDS):
        _, found = attacked(rule, lie, n, f, seed)
        root = fixed(honest_rows(n - f, seed)[0] * 0.8).astype(float)
        assert found @ root >= 0
        if rule == "fltrust":
            assert np.linalg.norm(found) <= np.linalg.norm(root) + ROUNDED


def test_weights_of_trust_go_with_the_cosine() -> None:
    honest, root = honest_rows(4, 1), fixed(honest_rows(4, 1)[0])
    rows = [*(fixed(row) for row in honest), fixed(-honest[0])]
    gram, samples = gram_of(rows, ZERO, root), [50, 60, 70, 80, 90]
    *factors, divisor = recorded_factors("clipped_mean_fltrust", samples, gram, 1)
    lengths = np.linalg.norm(np.array(rows, dtype=float), axis=1)
    cosines = np.array(rows, dtype=float) @ root / lengths / np.linalg.norm(root.astype(float))
    trusted = np.maximum(cosines, 0) * samples
    expected = trusted / trusted.sum() * np.minimum(1, np.sort(lengths)[2] / lengths)
    assert np.abs(np.array(factors) / divisor - expected).max() < 0.001
    assert factors[-1] == 0


def test_trust_without_a_root_update_or_in_nobody() -> None:
    rows = [fixed(row) for row in honest_rows(5, 1)]
    without = aggregate("clipped_mean_fltrust", rows, [1] * 5, gram_of(rows, ZERO, ZERO), 1)
    assert (without == aggregate("clipped_mean", rows, [1] * 5, gram_of(rows), 1)).all()
    assert not aggregate("clipped_mean_fltrust", rows[:1], [9], gram_of(rows[:1], ZERO, -rows[0]), 0).any()


# ---------------------------------------------------------------------------
# Whatever they are given.


def extremes() -> list[Int16]:
    """Zero, ends of the range, ones, a single spike."""
    spike = ZERO.copy()
    spike[0] = -32768
    low, high = np.full(SIZE, -32768), np.full(SIZE, 32767)
    return [ZERO, spike, *(np.asarray(each, dtype=np.int16) for each in (low, high, low + 1)), ZERO + 1]


@pytest.mark.parametrize("rule", ALL)
def test_no_mixture_of_extremes_breaks_a_rule_or_leaves_the_range(rule: str) -> None:
    for count in (1, 2, 3):
        for rows in itertools.combinations(extremes(), count):
            gram = gram_of(list(rows), extremes()[3], extremes()[1])
            for weights, f in (([1] * count, 0), ([10_000, 1, 1][:count], 5)):
                found = aggregate(rule, rows, weights, gram, f)
                assert found.dtype == np.int16 and found.min() >= -INT16_MAX


@pytest.mark.parametrize("rule", ALL)
def test_a_lone_update_is_its_own_aggregate(rule: str) -> None:
    """But for FLTrust, whose lengths are the root update's: here it is the update itself."""
    one = fixed(honest_rows(1, 5)[0])
    found = aggregate(rule, [one], [37], gram_of([one], ZERO, one), 3)
    assert np.abs(found.astype(int) - one).max() <= 1


@pytest.mark.parametrize("rule", ALL)
def test_who_ties_counts_alike(rule: str) -> None:
    """Equal updates in any places give one aggregate; the rules break ties by nobody's place."""
    two = [fixed(row) for row in honest_rows(2, 6)]
    found = set[bytes]()
    for places in sorted(set(itertools.permutations((0, 0, 0, 1, 1)))):
        rows = [two[place] for place in places]
        found.add(aggregate(rule, rows, [1] * 5, gram_of(rows), 1).tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("rule", [rule for rule in ALL if AGGREGATORS[rule].factors is not None])
def test_no_factor_is_negative_and_they_add_up_to_one_at_most(rule: str) -> None:
    """So a weighted sum lies in the hull of zero and the updates; FLTrust alone lengthens."""
    for lie, seed in itertools.product(LIES, SEEDS):
        honest = honest_rows(6, seed)
        rows = [fixed(LIES[lie](honest, i)) for i in range(2)] + [fixed(row) for row in honest]
        found = factors_of(rule, rows, [1 + seed] * 8, gram_of(rows, ZERO, rows[-1]), 2)
        assert found is not None and min(found[0]) >= 0
        assert rule == "fltrust" or sum(found[0]) <= found[1]
