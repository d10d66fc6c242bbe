"""Which Python types have a canonical form, and what each of them refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from p2pfl.codec import DecodeError, decode, encode


@dataclass(frozen=True, slots=True)
class Pair:
    """A fixed number of values of different types, and the list of a type that is its own plain form."""

    both: tuple[int, bytes]
    nested: tuple[tuple[int, ...], str]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Even:
    """Refuses what it cannot be."""

    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("odd")


@dataclass(frozen=True, slots=True)
class Measured:
    """A float has more than one byte form that means the same."""

    value: float


def test_a_fixed_tuple_comes_back_as_it_was() -> None:
    pair = Pair((1, b"x"), ((2, 3), "y"), ("z",))
    assert decode(encode(pair), Pair, size_max=100) == pair


@pytest.mark.parametrize(
    "raw", [[[1], [[2], "y"], []], [[1, b"x", 2], [[2], "y"], []], [7, [[2], "y"], []]], ids=str
)
def test_a_fixed_tuple_has_its_length(raw: list[Any]) -> None:
    with pytest.raises(DecodeError, match="array"):
        decode(encode(raw, list), Pair, size_max=100)


def test_what_a_type_refuses_to_be_cannot_be_decoded() -> None:
    assert decode(encode(Even(2)), Even, size_max=10) == Even(2)
    with pytest.raises(DecodeError, match="Even: odd"):
        decode(encode([3], list), Even, size_max=10)


def test_a_float_is_not_read() -> None:
    with pytest.raises(TypeError, match="no canonical form"):
        decode(encode([1], list), Measured, size_max=10)
