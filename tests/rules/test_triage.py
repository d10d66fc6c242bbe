"""Features are those of the reals, hard rules have exact edges, and warnings point at the right chunk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.types import MemberId
from p2pfl.genesis import Rules
from p2pfl.params import Layout, TensorSpec, Update, blob_id
from p2pfl.records import MICRO
from p2pfl.rules.chunks import CHUNK_COORDINATES, chunk_grams
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.filters import simhash
from p2pfl.rules.gram import view_of
from p2pfl.rules.pool import FEATURE_MAX, FEATURES, Pool, pack
from p2pfl.rules.repeats import Sent
from p2pfl.rules.triage import (
    NEAREST_MAX_MICRO,
    WARNINGS_PER_REASON,
    features,
    is_left_out,
    most_unusual,
    triage,
    warnings,
    without_pool,
)

LAYOUT = Layout((TensorSpec("w", (3 * CHUNK_COORDINATES,)), TensorSpec("b", (64,))))
RULES = replace(DEFAULT_RULES, duplicate_max_micro=100_000, norm_ratio_max_micro=4_000_000)


def members(count: int) -> list[MemberId]:
    return [MemberId(bytes([i]) * 20) for i in range(1, count + 1)]


def update(values: np.ndarray, exponents: tuple[int, int] = (-10, -10)) -> Update:
    return Update(LAYOUT, exponents, np.asarray(values, dtype=np.int16))


def group(seed: int, count: int, *, signal: float = 300, noise: float = 300) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    common = rng.normal(0, signal, LAYOUT.size)
    return [np.rint(common + rng.normal(0, noise, LAYOUT.size)) for _ in range(count)]


def rows_of(
    vectors: list[np.ndarray],
    f: int = 1,
    previous: np.ndarray | None = None,
    root: np.ndarray | None = None,
    *,
    rules: Rules = RULES,
    **more: Any,
):
    nothing = np.zeros(LAYOUT.size)
    extra = [nothing if each is None else each for each in (previous, root)]
    updates = [update(vector) for vector in (*vectors, *extra)]
    return triage(members(len(vectors)), view_of(updates), f, rules, **more)


def test_the_features_are_those_of_the_reals() -> None:
    vectors = group(1, 5)
    previous, root = group(2, 2)
    rows = rows_of(vectors, 1, previous, root)
    norms = [float(np.linalg.norm(v)) for v in vectors]
    squared = np.array([[float((a - b) @ (a - b)) for b in vectors] for a in vectors])
    scores = [sum(sorted(np.delete(squared[i], i))[:2]) for i in range(5)]
    for i, row in enumerate(rows):
        assert row.norm_ratio_micro / MICRO == pytest.approx(norms[i] / sorted(norms)[2], abs=2e-6)
        relative = [np.sqrt(squared[i][j]) / max(norms[i], norms[j]) for j in range(5) if j != i]
        assert row.nearest_micro / MICRO == pytest.approx(min(relative), abs=2e-6)
        assert row.krum_micro / MICRO == pytest.approx(scores[i] / sorted(scores)[2], abs=2e-6)
        cosine = float(vectors[i] @ previous) / (norms[i] * float(np.linalg.norm(previous)))
        assert row.previous_cos_micro / MICRO == pytest.approx(cosine, abs=2e-6)
        cosine = float(vectors[i] @ root) / (norms[i] * float(np.linalg.norm(root)))
        assert row.root_cos_micro / MICRO == pytest.approx(cosine, abs=2e-6)
        assert not row.out_of_bounds and not row.duplicate


@given(st.permutations(range(5)))
def test_the_order_of_members_changes_the_order_of_rows_only(order: list[int]) -> None:
    vectors = group(3, 5)
    straight = rows_of(vectors)
    mixed = rows_of([vectors[i] for i in order])
    for place, i in enumerate(order):
        assert replace(mixed[place], member=straight[i].member) == straight[i]


@pytest.mark.parametrize(("factor", "broken"), [(4.0, 0), (4.01, 1), (0.25, 0), (0.249, 1), (0.0, 1)])
def test_a_length_is_out_of_bounds_beyond_four_times_the_median_or_below_a_quarter(
    factor: float, broken: int
) -> None:
    base = np.zeros(LAYOUT.size)
    vectors = []
    for i in range(4):  # Orthogonal, all of length 1000 but the last.
        vector = base.copy()
        vector[i] = 1000 * (factor if i == 3 else 1)
        vectors.append(vector)
    rows = rows_of(vectors)
    assert [row.out_of_bounds for row in rows] == [0, 0, 0, broken]


@pytest.mark.parametrize(("distance", "duplicate"), [(99, 1), (100, 0), (0, 1)])
def test_two_updates_nearer_than_a_tenth_are_duplicates_of_each_other(distance: int, duplicate: int) -> None:
    vectors = [np.zeros(LAYOUT.size) for _ in range(4)]
    for i, vector in enumerate(vectors):
        vector[i] = 1000
    vectors[3] = vectors[0].copy()
    vectors[3][0] = 1000 - distance
    rows = rows_of(vectors)
    assert [row.duplicate for row in rows] == [duplicate, 0, 0, duplicate]
    assert rows[3].nearest_micro == distance * 1000


def test_a_member_alone_and_members_that_are_all_zero_have_rows_too() -> None:
    (alone,) = rows_of([np.ones(LAYOUT.size)])
    assert (alone.nearest_micro, alone.duplicate, alone.out_of_bounds) == (NEAREST_MAX_MICRO, 0, 0)
    still = rows_of([np.zeros(LAYOUT.size)] * 3)
    assert all(row.duplicate and not row.out_of_bounds for row in still)
    assert rows_of([]) == ()


# ---------------------------------------------------------------------------
# Warnings.


def warned(
    vectors: list[np.ndarray], root: np.ndarray | None = None, exponents: tuple[int, int] = (-10, -10)
):
    rows = [*vectors, np.zeros(LAYOUT.size) if root is None else root]
    updates = [update(row, exponents) for row in rows]
    chunks = chunk_grams([each.values for each in updates], LAYOUT)
    return warnings(members(len(vectors)), chunks, view_of(updates), LAYOUT, exponents)


def of(found, member: int, reason: str) -> set[tuple[int, int]]:
    who = members(member + 1)[member]
    return {(row.tensor, row.chunk) for row in found if row.member == who and row.reason == reason}


def test_a_group_that_agrees_has_no_warnings() -> None:
    assert warned(group(5, 4)) == ()


def test_who_pushes_against_the_others_in_a_chunk_is_warned_of_there_and_nowhere_else() -> None:
    vectors = group(6, 4)
    vectors[2][CHUNK_COORDINATES : 2 * CHUNK_COORDINATES] *= -1
    found = warned(vectors)
    assert of(found, 2, "opposed") == {(0, 1)}
    assert {row.member for row in found} == {members(3)[2]}


def test_length_does_not_help_a_flipper_to_make_the_others_look_opposed() -> None:
    vectors = group(7, 4)
    vectors[1] *= -20
    found = warned(vectors)
    assert of(found, 1, "opposed") == {(0, 0), (0, 1), (0, 2), (1, 0)}
    assert all(not of(found, i, "opposed") for i in (0, 2, 3))


def test_the_root_update_speaks_for_the_honest_where_flippers_are_half() -> None:
    vectors = group(8, 4)
    root = np.rint(sum(vectors) / 4)
    for i in (0, 1):
        vectors[i] *= -1
    with_root, without = warned(vectors, root), warned(vectors)
    assert all(of(with_root, i, "opposed") for i in (0, 1))
    assert all(not of(with_root, i, "opposed") for i in (2, 3))
    assert any(of(without, i, "opposed") for i in (2, 3))  # Without it the honest look just as opposed.


def test_loud_and_silent_chunks_are_told_from_the_median() -> None:
    vectors = group(9, 5)
    vectors[0][:CHUNK_COORDINATES] *= 5
    vectors[4][2 * CHUNK_COORDINATES : 3 * CHUNK_COORDINATES] = 0
    found = warned(vectors)
    assert of(found, 0, "loud") == {(0, 0)}
    assert of(found, 4, "silent") == {(0, 2)}


def test_warnings_are_bounded_and_the_weightiest_stay() -> None:
    layout = Layout((TensorSpec("w", (40 * CHUNK_COORDINATES,)),))
    rng = np.random.default_rng(10)
    common = rng.normal(0, 300, layout.size)
    common[: 20 * CHUNK_COORDINATES] *= 3  # Here it weighs more.
    vectors = [np.rint(common + rng.normal(0, 200, layout.size)) for _ in range(4)]
    vectors[3] *= -1
    updates = [Update(layout, (-10,), v.astype(np.int16)) for v in (*vectors, np.zeros(layout.size))]
    chunks = chunk_grams([each.values for each in updates], layout)
    found = warnings(members(4), chunks, view_of(updates), layout, (-10,))
    assert len(found) == WARNINGS_PER_REASON == len({row.chunk for row in found})
    assert all(row.chunk < 20 and row.member == members(4)[3] for row in found)
    assert list(found) == sorted(found, key=lambda row: (row.tensor, row.chunk, row.reason))


def test_a_tensor_of_a_larger_exponent_weighs_more() -> None:
    """Twenty chunks of large integers and one of small ones: its power of two brings it into the bound."""
    layout = Layout((TensorSpec("w", (20 * CHUNK_COORDINATES,)), TensorSpec("b", (64,))))
    rng = np.random.default_rng(11)
    common = rng.normal(0, 300, layout.size)
    vectors = [np.rint(common + rng.normal(0, 100, layout.size)) for _ in range(4)]
    vectors[0] *= -1

    def chunks_of_tensor_1(exponents: tuple[int, int]) -> int:
        rows = [*vectors, np.zeros(layout.size)]
        updates = [Update(layout, exponents, v.astype(np.int16)) for v in rows]
        chunks = chunk_grams([each.values for each in updates], layout)
        found = warnings(members(4), chunks, view_of(updates), layout, exponents)
        assert len(found) == WARNINGS_PER_REASON
        return sum(row.tensor == 1 for row in found)

    assert chunks_of_tensor_1((-10, -10)) == 0
    assert chunks_of_tensor_1((-14, -10)) == 1


@given(st.integers(0, 1000), st.permutations(range(4)))
def test_the_order_of_members_does_not_change_who_is_warned_of(seed: int, order: list[int]) -> None:
    vectors = group(seed, 4, signal=50)
    straight = warned(vectors)
    mixed = warned([vectors[i] for i in order])
    for place, i in enumerate(order):
        for reason in ("opposed", "loud", "silent"):
            assert of(mixed, place, reason) == of(straight, i, reason)


# ---------------------------------------------------------------------------
# Against the pool, and against what was sent before.


def test_whose_features_are_rarer_than_the_rate_is_left_out_and_below_the_alarm_rate_a_case() -> None:
    previous, root = group(2, 2)
    near_root = [np.rint(root + noise) for noise in group(3, 5, signal=0, noise=300)]
    pool = Pool.founded(
        pack(
            np.concatenate(
                [
                    features(rows_of([np.rint(root + n) for n in group(s, 5, signal=0)], 1, previous, root))
                    for s in range(10, 60)
                ]
            )
        )
    )
    honest = rows_of(near_root, 1, previous, root, pool=pool)
    assert not any(row.alarm for row in honest)
    near_root[1] *= -1
    rows = rows_of(near_root, 1, previous, root, pool=pool)
    flipped = rows[1]
    assert (flipped.p_ppm, flipped.unusual, flipped.alarm) == (
        -(-MICRO // 251),
        1,
        0,
    )  # 250 rows: 3e-4 is too rare.
    assert is_left_out(flipped) and most_unusual({row.member: row.p_ppm for row in rows})[0] == flipped.member
    rules = replace(RULES, alarm_rate_ppm=5_000)
    assert rows_of(near_root, 1, previous, root, pool=pool, rules=rules)[1].alarm
    assert without_pool(flipped) == rows_of(near_root, 1, previous, root)[1]


def test_what_nobody_has_a_cosine_to_says_nothing() -> None:
    rows = rows_of(group(4, 5))
    found = features(rows)
    assert (found[:, [1, 2, 4]] == -FEATURE_MAX).all() and (found[:, 0] >= MICRO).all()
    (root,) = group(5, 1)
    assert (features(rows_of(group(4, 5), root=root))[:, [2, 4]] > -FEATURE_MAX).all()
    assert features(()).shape == (0, FEATURES)


def test_rows_that_a_quorum_of_liars_wrote_stop_nobody() -> None:
    (row, *_) = rows_of(group(4, 5))
    worst = (1 << 63) - 1
    wild = replace(row, norm_ratio_micro=-1, previous_cos_micro=-worst - 1, root_cos_micro=worst)
    found = features([wild, replace(wild, others_cos_micro=-worst - 1, norm_ratio_micro=worst)])
    assert (np.abs(found) <= FEATURE_MAX).all()


def test_too_short_is_as_odd_as_too_long() -> None:
    vectors = [np.zeros(LAYOUT.size) for _ in range(5)]
    for i, (vector, length) in enumerate(zip(vectors, (1000, 1000, 2000, 500, 1000), strict=True)):
        vector[i] = length
    assert features(rows_of(vectors))[:, 0].tolist() == [MICRO, MICRO, 2 * MICRO, 2 * MICRO, MICRO]


@pytest.mark.parametrize("public", ["previous", "root"])
def test_the_previous_aggregate_and_the_root_update_are_no_ones_own_work(public: str) -> None:
    vectors, (shown,) = group(6, 4), group(7, 1)
    vectors[2] = shown.copy()
    vectors[2][:9] += 50
    rows = rows_of(vectors, **{public: shown})
    assert [row.repeated for row in rows] == [0, 0, 1, 0]
    assert not any(row.repeated for row in rows_of(vectors))


def sent(vectors: list[np.ndarray], first: int = 1) -> list[Sent]:
    updates = [update(vector) for vector in vectors]
    return [
        Sent(MemberId(bytes([first + i]) * 20), blob_id(each.to_bytes()), simhash(each, b"s" * 32))
        for i, each in enumerate(updates)
    ]


def test_an_earlier_update_of_somebody_else_is_found_under_noise_and_the_own_one_exactly() -> None:
    before, now = group(8, 4, signal=0), group(9, 4, signal=0)
    now[0] = before[1] + np.rint(np.random.default_rng(1).normal(0, 15, LAYOUT.size))  # A 20th of its length.
    now[2] = before[2].copy()
    now[3] = before[3] + np.rint(
        np.random.default_rng(2).normal(0, 15, LAYOUT.size)
    )  # Its own direction again.
    rows = rows_of(now, sent=sent(now), earlier=sent(before))
    assert [row.repeated for row in rows] == [1, 0, 1, 0]
    now[1] = np.zeros(LAYOUT.size)
    nothing = rows_of(now, sent=sent(now), earlier=sent([np.zeros(LAYOUT.size)]))
    assert not any(row.repeated for row in nothing)
