"""The table of aggregators: what a rule gets, what it gives, and how it is named.

Knows no rule. Those that are weighted sums are in `weighted`, those that look at each coordinate alone in
`coordinates`; `aggregate` applies them, `sums` adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from p2pfl.params import Int16, Int64
from p2pfl.rules.gram import Gram
from p2pfl.rules.sums import narrow, narrow_sum

Factors = tuple[tuple[int, ...], int]


@dataclass(frozen=True)
class Root:
    """The council's root update beside the members': its inner product with each, and its squared norm."""

    dots: tuple[int, ...]
    norm_sq: int


@dataclass(frozen=True)
class Accepted:
    """What an aggregator gets: the updates with a weight above 0.

    rows: int16 vectors of one scale, each of shape (coordinates,); empty where only factors are wanted.
    gram: their inner products. f: how many of the whole committee may lie. root: None without a root update.
    """

    rows: Sequence[Int16]
    weights: Sequence[int]
    gram: Gram
    f: int
    root: Root | None = None

    @property
    def faulty(self) -> int:
        """How many of these may lie: f, but always fewer than half of them."""
        return min(self.f, (len(self.weights) - 1) // 2)


@dataclass(frozen=True)
class Aggregator:
    """One rule. tolerates: against how many of n liars it stands, for people.

    combine: int16 of shape (coordinates,), never -32,768. factors: for rules that are a weighted sum, each
    row's integer factor, and what their sum is divided by.
    """

    name: str
    tolerates: str
    combine: Callable[[Accepted], Int16]
    factors: Callable[[Accepted], Factors] | None = None


AGGREGATORS: dict[str, Aggregator] = {}


def aggregator(
    name: str, *, tolerates: str
) -> Callable[[Callable[[Accepted], Int64]], Callable[[Accepted], Int64]]:
    """Add a rule to the table under this name."""

    def add(function: Callable[[Accepted], Int64]) -> Callable[[Accepted], Int64]:
        def combine(accepted: Accepted) -> Int16:
            found = function(accepted)
            out = np.empty(found.shape, dtype=np.int16)
            narrow(found, out, saturates=False)
            return out

        _register(Aggregator(name, tolerates, combine))
        return function

    return add


def weighted_sum(
    name: str, *, tolerates: str, saturates: bool = False
) -> Callable[[Callable[[Accepted], Factors]], Callable[[Accepted], Factors]]:
    """Add a rule that is a weighted sum: the function gives each row's factor and the divisor.

    What one member adds to such an aggregate is a multiple of its update: backtracking can take it out
    again, and a contract can check one coordinate alone. saturates: factors may add up to more than one, so
    coordinates end at int16's bounds.
    """

    def add(function: Callable[[Accepted], Factors]) -> Callable[[Accepted], Factors]:
        def combine(accepted: Accepted) -> Int16:
            return narrow_sum(accepted.rows, *function(accepted), saturates=saturates)

        _register(Aggregator(name, tolerates, combine, function))
        return function

    return add


def _register(rule: Aggregator) -> None:
    if rule.name in AGGREGATORS:
        raise ValueError(f"there is an aggregator {rule.name!r} already")
    AGGREGATORS[rule.name] = rule
