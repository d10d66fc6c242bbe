"""Each aggregator beside a plain float or fraction form of what its paper says."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.params import Int16, Layout, TensorSpec, Update
from p2pfl.rules.aggregate import aggregate
from p2pfl.rules.coordinates import network
from p2pfl.rules.gram import Gram, view_of

SIZE = 64
LAYOUT = Layout((TensorSpec("w", (SIZE,)),))
ROBUST = ("clipped_mean", "multi_krum", "geometric_median", "centred_clipping", "median", "trimmed_mean")
ROWS = st.integers(1, 9).flatmap(
    lambda n: st.lists(st.lists(st.integers(-32767, 32767), min_size=4, max_size=4), min_size=n, max_size=n)
)


def gram_of(rows: list[Int16], *extra: Int16) -> Gram:
    layout = Layout((TensorSpec("w", rows[0].shape),))
    return view_of([Update(layout, (-9,), row) for row in (*rows, *extra)])


def run(rule: str, rows: list[Int16], f: int, weights: list[int] | None = None, *extra: Int16) -> Int16:
    return aggregate(rule, rows, weights or [1] * len(rows), gram_of(rows, *extra), f)


def drawn(seed: int, n: int, liars: int = 0) -> list[Int16]:
    """Honest rows around one direction, then liars far away in the opposite one."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(0, 600, SIZE)
    honest = [centre + rng.normal(0, 300, SIZE) for _ in range(n - liars)]
    bad = [-8 * centre + rng.normal(0, 300, SIZE) for _ in range(liars)]
    return [np.round(row).astype(np.int16) for row in (*honest, *bad)]


# ---------------------------------------------------------------------------
# Coordinates.


@pytest.mark.parametrize("size", range(1, 13))
def test_a_network_sorts_every_row_of_zeros_and_ones(size: int) -> None:
    """By the 0-1 principle (Knuth, volume 3, 5.3.4) it then sorts anything."""
    lines = np.array(list(itertools.product((0, 1), repeat=size)), dtype=np.int16).T.copy()
    for a, b in network(size, frozenset(range(size))):
        lines[a], lines[b] = np.minimum(lines[a], lines[b]), np.maximum(lines[a], lines[b])
    assert (np.diff(lines, axis=0) >= 0).all()


@pytest.mark.parametrize("size", [2, 5, 10, 16, 23, 32])
def test_a_pruned_network_is_smaller_and_right_where_it_was_asked(size: int) -> None:
    values = np.random.default_rng(size).integers(-32768, 32768, (size, 500)).astype(np.int16)
    ordered = np.sort(values, axis=0)
    for ranks in ({size // 2}, {0, size - 1}):
        lines = values.copy()
        comparators = network(size, frozenset(ranks))
        for a, b in comparators:
            lines[a], lines[b] = np.minimum(lines[a], lines[b]), np.maximum(lines[a], lines[b])
        assert all((lines[rank] == ordered[rank]).all() for rank in ranks)
        assert len(comparators) <= len(network(size, frozenset(range(size))))
    assert size < 10 or len(network(size, frozenset({0}))) < len(network(size, frozenset(range(size))))


@given(ROWS, st.integers(0, 3))
def test_medians_and_trimmed_means_are_exact(values: list[list[int]], f: int) -> None:
    rows = [np.array(row, dtype=np.int16) for row in values]
    n, trimmed = len(rows), min(f, (len(rows) - 1) // 2)
    for k in range(4):
        column = sorted(row[k] for row in values)
        middle = Fraction(column[(n - 1) // 2] + column[n // 2], 2)
        assert run("median", rows, f)[k] == round(middle)
        kept = column[trimmed : n - trimmed]
        assert run("trimmed_mean", rows, f)[k] == round(Fraction(sum(kept), len(kept)))


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = drawn(3, 9)
    before = {rule: run(rule, rows, 1) for rule in ("median", "trimmed_mean", "bulyan")}
    monkeypatch.setattr("p2pfl.rules.coordinates.BLOCK_COORDINATES", 7)
    for rule, found in before.items():
        assert (run(rule, rows, 1) == found).all()


@pytest.mark.parametrize(("n", "f"), [(7, 1), (11, 2), (16, 3)])
def test_bulyan_is_the_mean_of_what_is_nearest_to_the_median_of_whom_krum_chose(n: int, f: int) -> None:
    rows = drawn(n, n, f)
    left, chosen = list(range(n)), list[int]()
    while len(chosen) < n - 2 * f:
        scores = float_krum([rows[i] for i in left], f)
        chosen.append(left.pop(int(np.argmin(scores))))
    picked = np.array([rows[i] for i in chosen], dtype=np.int64)
    count = len(chosen) - 2 * f
    middle = np.median(picked, axis=0)
    for k in range(SIZE):
        column = sorted(picked[:, k].tolist())
        windows = [column[i : i + count] for i in range(len(column) - count + 1)]
        best = min(windows, key=lambda w, m=middle[k]: max(abs(w[0] - m), abs(w[-1] - m)))
        assert run("bulyan", rows, f)[k] == round(Fraction(sum(best), count))


# ---------------------------------------------------------------------------
# Weighted sums.


def float_krum(rows: list[Int16], f: int) -> np.ndarray:
    wide = np.array(rows, dtype=np.float64)
    squares = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    return np.sort(squares, axis=1)[:, 1 : max(2, len(rows) - f - 1)].sum(axis=1)


@pytest.mark.parametrize(("n", "f"), [(5, 1), (10, 2), (16, 5)])
def test_krum_takes_the_one_and_multi_krum_the_n_minus_f_with_the_smallest_scores(n: int, f: int) -> None:
    rows = drawn(n, n, f)
    order = np.argsort(float_krum(rows, f))
    assert (run("krum", rows, f) == rows[order[0]]).all()
    kept = np.mean([rows[i].astype(float) for i in order[: n - f]], axis=0)
    assert np.abs(run("multi_krum", rows, f) - kept).max() <= 0.5
    assert not set(range(n - f, n)) & set(order[: n - f].tolist())


def test_those_that_tie_count_alike() -> None:
    rows = [np.array(row, dtype=np.int16) for row in ([10, 0], [20, 0], [900, 0], [1800, 0])]
    assert run("krum", rows, 1).tolist() == [15, 0]


def spread_of(point: np.ndarray, rows: list[Int16], weights: list[int]) -> float:
    distances = [float(np.linalg.norm(row - point)) for row in rows]
    return sum(weight * distance for weight, distance in zip(weights, distances, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_nothing_near_the_geometric_median_has_smaller_distances(seed: int) -> None:
    rows, rng = drawn(seed, 9, 3), np.random.default_rng(seed)
    weights = rng.integers(1, 50, 9).tolist()
    point = run("geometric_median", rows, 3, weights).astype(float)
    least = spread_of(point, rows, weights)
    for _ in range(50):
        aside = point + rng.normal(0, 20, SIZE)
        assert spread_of(aside, rows, weights) > least * 0.9999
    assert least < spread_of(np.average(rows, axis=0, weights=weights), rows, weights) * 0.95


@pytest.mark.parametrize("seed", range(3))
def test_centred_clipping_steps_as_the_float_form_does(seed: int) -> None:
    rows = drawn(seed, 8, 2)
    wide, centre = np.array(rows, dtype=np.float64), np.zeros(SIZE)
    for _ in range(3):
        differences = wide - centre
        lengths = np.linalg.norm(differences, axis=1)
        bound = np.sort(lengths)[(len(rows) - 1) // 2]
        centre = centre + (differences * np.minimum(1, bound / lengths)[:, None]).mean(axis=0)
    assert np.abs(run("centred_clipping", rows, 2) - centre).max() <= 1


@pytest.mark.parametrize("seed", range(3))
def test_fltrust_weighs_by_the_cosine_to_the_root_update(seed: int) -> None:
    rows = drawn(seed, 8, 3)
    root = (drawn(seed, 1)[0] // 2).astype(np.int16)
    zero = np.zeros(SIZE, dtype=np.int16)
    length = np.linalg.norm(root.astype(float))
    cosines = [float(row @ root.astype(float)) / (np.linalg.norm(row.astype(float)) * length) for row in rows]
    trust = np.maximum(cosines, 0)
    shortened = [row * length / np.linalg.norm(row.astype(float)) for row in rows]
    expected = np.average(shortened, axis=0, weights=trust)
    assert np.abs(run("fltrust", rows, 3, None, zero, root) - expected).max() <= 1
    assert (trust[-3:] == 0).all()


def test_fltrust_ends_at_the_bounds_and_trusts_nobody_who_points_away() -> None:
    zero = np.zeros(SIZE, dtype=np.int16)
    root = np.full(SIZE, 30_000, dtype=np.int16)
    spike = zero.copy()
    spike[0] = 900  # Lengthened to the root update it would leave int16.
    found = run("fltrust", [spike, spike, spike], 1, None, zero, root)
    assert found[0] == 32_767 and not found[1:].any()
    assert not run("fltrust", [-spike, -spike], 1, None, zero, root).any()
    faint = zero.copy()
    faint[0] = 1  # And no farther than 64 times.
    assert run("fltrust", [faint], 0, None, zero, root)[0] == 64


def test_fltrust_without_a_root_update_is_the_clipped_mean() -> None:
    rows, zero = drawn(1, 6, 1), np.zeros(SIZE, dtype=np.int16)
    assert (run("fltrust", rows, 1, None, zero, zero) == run("clipped_mean", rows, 1)).all()


@pytest.mark.parametrize("n", [9, 10, 16])
def test_bucketing_is_near_the_honest_mean(n: int) -> None:
    rows = drawn(n, n, 1)
    honest = np.mean([row.astype(float) for row in rows[:-1]], axis=0)
    far = np.linalg.norm(rows[-1] - honest)
    assert np.linalg.norm(run("bucketing", rows, 1) - honest) < 0.1 * far
    assert np.linalg.norm(run("mean", rows, 1) - honest) > 0.9 * far / n


@pytest.mark.parametrize("rule", [*ROBUST, "krum", "bulyan", "bucketing"])
def test_liars_within_the_bound_do_not_turn_the_aggregate(rule: str) -> None:
    rows = drawn(7, 13, 2)
    honest = np.mean([row.astype(float) for row in rows[:-2]], axis=0)
    found = run(rule, rows, 2).astype(float)
    cosine = found @ honest / (np.linalg.norm(found) * np.linalg.norm(honest))
    assert cosine > 0.75
    assert np.linalg.norm(found - honest) < np.linalg.norm(run("mean", rows, 2) - honest)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("rule", [*ROBUST, "krum", "bulyan", "bucketing", "fltrust"])
def test_few_updates_and_none_that_moves_are_no_error(rule: str, n: int) -> None:
    zero = np.zeros(SIZE, dtype=np.int16)
    assert not run(rule, [zero] * n, 1, None, zero, zero).any()
    extreme = np.full(SIZE, -32768, dtype=np.int16)
    assert run(rule, [extreme] * n, 1, None, zero, extreme).min() >= -32767
