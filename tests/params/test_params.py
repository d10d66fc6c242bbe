"""Updates and bases have one byte form; fixed point rounds to even and never wraps."""

from __future__ import annotations

from fractions import Fraction
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import merkle
from p2pfl.errors import PeerFault
from p2pfl.params import (
    EXPONENT_MAX,
    EXPONENT_MIN,
    INT16_MAX,
    LEAF_BYTES,
    Base,
    Layout,
    TensorSpec,
    Update,
    apply_update,
    blob_id,
    byte_length,
    data_offset,
    delta_of,
    divide_round_half_even,
    fitting_exponents,
    leaf_hashes,
    parse_base,
    parse_update,
    quantize,
)

LAYOUT = Layout((TensorSpec("conv.weight", (4, 3, 3)), TensorSpec("conv.bias", (4,)), TensorSpec("s", ())))
EXPONENTS = (-14, -12, 0)


def update(seed: int = 1) -> Update:
    values = np.random.default_rng(seed).integers(-32767, 32768, LAYOUT.size)
    return Update(LAYOUT, EXPONENTS, values.astype(np.int16))


def base(seed: int = 1) -> Base:
    return Base(LAYOUT, np.random.default_rng(seed).normal(0, 1, LAYOUT.size).astype(np.float32))


def test_a_layout_cuts_and_joins_the_flat_vector() -> None:
    assert LAYOUT.size == 41 and [part.start for part in LAYOUT.slices()] == [0, 36, 40]
    values = base().values
    tensors = LAYOUT.unflatten(values)
    assert [tensor.shape for tensor in tensors] == [(4, 3, 3), (4,), ()]
    assert (LAYOUT.flatten(tensors) == values).all()
    with pytest.raises(ValueError, match=r"conv\.bias has shape"):
        LAYOUT.flatten([tensors[0], tensors[1][:3], tensors[2]])
    with pytest.raises(ValueError, match="argument"):
        LAYOUT.flatten(tensors[:2])


def test_bytes_survive_a_round_trip_and_have_the_announced_length() -> None:
    one, two = update(), base()
    found = parse_update(one.to_bytes(), LAYOUT, EXPONENTS)
    assert (found.values == one.values).all() and found.exponents == EXPONENTS
    assert (parse_base(two.to_bytes(), LAYOUT).values == two.values).all()
    assert len(one.to_bytes()) == byte_length("update", LAYOUT, EXPONENTS)
    assert len(two.to_bytes()) == byte_length("base", LAYOUT)


def test_data_begin_at_a_whole_leaf_and_the_id_is_the_root_over_leaves() -> None:
    blob = update().to_bytes()
    assert data_offset(blob) % LEAF_BYTES == 0 and len(blob) == data_offset(blob) + 2 * LAYOUT.size
    leaves = [blob[start : start + LEAF_BYTES] for start in range(0, len(blob), LEAF_BYTES)]
    assert leaf_hashes(blob) == [sha256(b"\0" + leaf).digest() for leaf in leaves]
    assert blob_id(blob) == merkle.root(leaves)


def test_data_are_little_endian_whatever_the_machine() -> None:
    one = Update(LAYOUT, EXPONENTS, np.full(LAYOUT.size, 0x0102, dtype=np.int16))
    assert one.to_bytes()[-2:] == b"\x02\x01"
    big = Update(LAYOUT, EXPONENTS, one.values.astype(">i2"))
    assert big.to_bytes() == one.to_bytes()


@pytest.mark.parametrize("at", [0, 9, 13, 40, -1])
def test_a_changed_byte_is_another_blob(at: int) -> None:
    blob = bytearray(update().to_bytes())
    blob[at] ^= 1
    assert blob_id(bytes(blob)) != blob_id(update().to_bytes())
    if 0 <= at < 60:  # In the header: not an update of this layout at all.
        with pytest.raises(PeerFault, match="bad_blob"):
            parse_update(bytes(blob), LAYOUT, EXPONENTS)


def test_bytes_of_another_length_kind_or_scale_are_refused() -> None:
    blob = update().to_bytes()
    for bad in (b"", blob[:-1], blob + b"\0", blob[:12]):
        with pytest.raises(PeerFault, match="bad_blob"):
            parse_update(bad, LAYOUT, EXPONENTS)
    with pytest.raises(PeerFault, match="bad_blob"):
        parse_update(blob, LAYOUT, (-14, -12, 1))
    with pytest.raises(PeerFault, match="bad_blob"):
        parse_base(blob, LAYOUT)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_base_that_is_not_finite_is_refused(bad: float) -> None:
    values = base().values.copy()
    values[7] = bad
    with pytest.raises(PeerFault, match="not finite"):
        parse_base(Base(LAYOUT, values).to_bytes(), LAYOUT)
    with pytest.raises(ValueError, match="not finite"):
        quantize(values, LAYOUT, EXPONENTS)


@given(st.integers(-(2**50), 2**50), st.integers(1, 2**40))
def test_division_rounds_half_to_even(numerator: int, denominator: int) -> None:
    found = divide_round_half_even(np.array([numerator]), denominator)
    assert int(found[0]) == round(Fraction(numerator, denominator))


def test_ties_go_to_even_on_both_sides_of_zero() -> None:
    found = divide_round_half_even(np.array([-5, -3, -1, 1, 3, 5]), 2)
    assert found.tolist() == [-2, -2, 0, 0, 2, 2]
    with pytest.raises(ValueError, match="positive"):
        divide_round_half_even(np.array([1]), 0)


@given(st.floats(-1000, 1000), st.integers(-20, 5))
def test_fixed_point_is_the_nearest_or_saturates(value: float, exponent: int) -> None:
    layout = Layout((TensorSpec("x", (1,)),))
    found, saturated = quantize(np.array([value]), layout, (exponent,))
    exact = Fraction(value) / Fraction(2) ** exponent
    assert saturated == int(abs(round(exact)) > INT16_MAX)
    assert int(found.values[0]) == max(-INT16_MAX, min(INT16_MAX, round(exact)))


def test_applying_an_update_rounds_once_to_float32() -> None:
    one, two = base(), update()
    found = apply_update(one, two)
    for part, exponent in zip(LAYOUT.slices(), EXPONENTS, strict=True):
        for k in range(part.start, part.stop):
            exact = float(one.values[k]) + int(two.values[k]) * 2.0**exponent
            assert found.values[k] == np.float32(exact)


def test_what_was_quantized_comes_back_within_half_a_step() -> None:
    one = base()
    after = (one.values + np.random.default_rng(2).normal(0, 0.1, LAYOUT.size)).astype(np.float32)
    delta = delta_of(one, after)
    found, saturated = quantize(delta, LAYOUT, (-14, -14, -14))
    assert saturated == 0
    assert np.abs(found.values * 2.0**-14 - delta).max() <= 2.0**-15


@pytest.mark.parametrize(("largest", "shift"), [(1, -11), (4095, 0), (4096, 1), (32767, 3), (0, 0)])
def test_fitting_exponents_leave_three_bits_free(largest: int, shift: int) -> None:
    layout = Layout((TensorSpec("x", (3,)),))
    found = fitting_exponents(Update(layout, (-5,), np.array([0, -largest, 0], dtype=np.int16)))
    assert found == (-5 + shift,)


def test_exponents_stay_within_their_limits() -> None:
    layout = Layout((TensorSpec("x", (1,)),))
    high = Update(layout, (EXPONENT_MAX,), np.array([32767], dtype=np.int16))
    low = Update(layout, (EXPONENT_MIN,), np.array([1], dtype=np.int16))
    assert fitting_exponents(high) == (EXPONENT_MAX,)
    assert fitting_exponents(low) == (EXPONENT_MIN,)
