"""Inner products are the integers that Python's own arithmetic gives, whatever the order and the machine."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.params import Layout, TensorSpec, Update
from p2pfl.records import MICRO
from p2pfl.rules import chunks
from p2pfl.rules.chunks import CHUNK_COORDINATES, chunk_grams, chunk_ids, exact_int64
from p2pfl.rules.gram import (
    RATIO_MAX_MICRO,
    add_up,
    common_exponent,
    cosine_micro,
    gram,
    lower_median,
    ratio_micro,
    view,
    view_of,
)

LAYOUT = Layout((TensorSpec("w", (CHUNK_COORDINATES + 7,)), TensorSpec("b", (5,)), TensorSpec("one", (1,))))
VALUE = st.integers(-32768, 32767)


def row(seed: int, layout: Layout = LAYOUT) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32768, 32768, layout.size).astype(np.int16)


def by_hand(rows: list[np.ndarray], layout: Layout) -> list[list[int]]:
    """Each tensor's upper triangle in Python integers."""
    found: list[list[int]] = []
    for part in layout.slices():
        parts = [[int(x) for x in each[part]] for each in rows]
        found.append(
            [
                sum(a * b for a, b in zip(parts[i], parts[j]))
                for i in range(len(rows))
                for j in range(i, len(rows))
            ]
        )
    return found


def test_the_gram_matrix_is_that_of_python_integers() -> None:
    rows = [row(seed) for seed in range(4)]
    assert [list(each) for each in gram(rows, LAYOUT)] == by_hand(rows, LAYOUT)


def test_the_extremes_are_exact() -> None:
    lowest = np.full(LAYOUT.size, -32768, dtype=np.int16)
    highest = np.full(LAYOUT.size, 32767, dtype=np.int16)
    first = gram([lowest, highest], LAYOUT)[0]
    n = CHUNK_COORDINATES + 7
    assert first == (n << 30, -n * 32768 * 32767, n * 32767 * 32767)


def test_the_order_of_coordinates_does_not_matter_within_a_tensor() -> None:
    rows = [row(seed) for seed in range(3)]
    order = np.random.default_rng(1).permutation(CHUNK_COORDINATES + 7)
    shuffled = [np.concatenate((each[order], each[len(order) :])) for each in rows]
    assert gram(shuffled, LAYOUT) == gram(rows, LAYOUT)


def test_chunks_add_up_to_tensors_and_never_cross_into_the_next() -> None:
    rows = [row(seed) for seed in range(3)]
    found = chunk_grams(rows, LAYOUT)
    assert chunk_ids(LAYOUT) == ((0, 0), (0, 1), (1, 0), (2, 0))
    assert found.shape == (4, 3, 3) and found.dtype == np.int64
    tail = rows[0][CHUNK_COORDINATES : CHUNK_COORDINATES + 7].astype(int)
    assert found[1, 0, 0] == int((tail * tail).sum())
    assert (found == found.transpose(0, 2, 1)).all()


def test_the_span_that_is_converted_at_once_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(seed) for seed in range(3)]
    before = chunk_grams(rows, LAYOUT)
    monkeypatch.setattr(chunks, "_CHUNKS_AT_ONCE", 1)
    assert (chunk_grams(rows, LAYOUT) == before).all()


@pytest.mark.parametrize("bad", [np.zeros(3, dtype=np.int16), np.zeros(LAYOUT.size, dtype=np.int32)])
def test_a_row_of_another_shape_or_kind_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="int16 vector"):
        gram([row(1), bad], LAYOUT)


def test_a_sum_that_may_have_been_rounded_is_refused() -> None:
    assert exact_int64(np.array([2.0**53 - 1])).tolist() == [2**53 - 1]
    with pytest.raises(ArithmeticError, match=r"2\^53"):
        exact_int64(np.array([1.0, -(2.0**53)]))


def test_a_model_whose_sums_could_leave_int64_is_refused() -> None:
    from p2pfl.rules.gram import add_up

    huge = Layout((TensorSpec("w", (1 << 33,)),))
    with pytest.raises(ValueError, match="int64"):
        add_up(np.zeros((1, 1, 1), dtype=np.int64), huge)


@given(st.lists(st.lists(VALUE, min_size=7, max_size=7), min_size=2, max_size=4), st.data())
def test_rows_of_any_exponents_give_exact_inner_products(
    values: list[list[int]], data: st.DataObject
) -> None:
    layout = Layout((TensorSpec("a", (4,)), TensorSpec("b", (3,))))
    exponent = st.integers(-40, 10)
    exponents = [data.draw(st.tuples(exponent, exponent)) for _ in values]
    found = view_of([Update(layout, e, np.array(v, dtype=np.int16)) for v, e in zip(values, exponents)])
    reals = [
        [Fraction(q) * Fraction(2) ** e[0 if k < 4 else 1] for k, q in enumerate(v)]
        for v, e in zip(values, exponents)
    ]
    for i, left in enumerate(reals):
        for j, right in enumerate(reals):
            exact = sum((a * b for a, b in zip(left, right)), Fraction(0))
            assert found.inner[i][j] * Fraction(4) ** found.unit_exponent == exact


@given(st.lists(st.lists(VALUE, min_size=5, max_size=5), min_size=3, max_size=3))
def test_cosines_and_distances_are_those_of_the_reals(values: list[list[int]]) -> None:
    layout = Layout((TensorSpec("a", (5,)),))
    found = view_of([Update(layout, (-3,), np.array(v, dtype=np.int16)) for v in values])
    a, b, c = (np.array(v, dtype=float) / 8 for v in values)
    if a.any() and b.any():
        exact = float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))
        assert abs(found.cos_micro(0, 1) / MICRO - exact) <= 2e-6
        assert abs(found.cos_micro(0, 1)) <= MICRO
    scale = 4.0**found.unit_exponent
    assert found.distance_sq(0, 1) * scale == pytest.approx(float((a - b) @ (a - b)))
    left, right = 3 * a - 2 * b, a + 5 * c
    assert found.dot((3, -2, 0), (1, 0, 5)) * scale == pytest.approx(float(left @ right))


def test_rounding_is_towards_zero_and_zero_vectors_have_no_direction() -> None:
    assert cosine_micro(2, 3, 3) == 666_666 and cosine_micro(-2, 3, 3) == -666_666
    assert cosine_micro(0, 0, 9) == 0 == cosine_micro(5, 9, 0)
    assert ratio_micro(9, 4) == 1_500_000
    assert ratio_micro(0, 0) == MICRO and ratio_micro(1, 0) == RATIO_MAX_MICRO
    assert ratio_micro(10**60, 1) == RATIO_MAX_MICRO


def test_the_median_is_the_lower_one_and_always_there() -> None:
    assert lower_median([5, 1, 9]) == 5
    assert lower_median([4, 1, 9, 6]) == 4
    assert lower_median([7]) == 7
    with pytest.raises(IndexError):
        lower_median([])


def test_picking_rows_is_the_same_as_never_having_had_the_others() -> None:
    rows = [Update(LAYOUT, (-3, 0, 2), row(seed)) for seed in range(4)]
    picked = view_of(rows).pick([2, 0])
    assert picked.inner == view_of([rows[2], rows[0]]).inner


def test_a_triangle_of_the_wrong_size_or_a_wild_exponent_is_refused() -> None:
    with pytest.raises(ValueError, match="upper triangle"):
        view([(1, 2)], [(0,), (0,)])
    with pytest.raises(ValueError, match="exponent"):
        common_exponent([(0, 99)])


@pytest.mark.parametrize("members", [1, 2, 3, 6])
def test_tensors_and_the_sums_of_their_chunks_are_alike(members: int) -> None:
    rng = np.random.default_rng(members)
    rows = [rng.integers(-32768, 32768, LAYOUT.size).astype(np.int16) for _ in range(members)]
    exact = [[int(a.astype(object) @ b.astype(object)) for b in rows] for a in rows]
    whole = gram(rows, LAYOUT)
    assert whole == add_up(chunk_grams(rows, LAYOUT), LAYOUT)
    assert [list(row) for row in view(whole, [(0, 0, 0)] * members).inner] == exact
