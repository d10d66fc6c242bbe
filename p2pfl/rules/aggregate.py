"""Many updates become one: a rule of the table is applied, all in exact integers.

The rules are in `weighted` and `coordinates`, their table in `table`. Knows nothing of members, blocks or
where a weight came from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from p2pfl.params import EXPONENT_MAX, INT16_MAX, Int16, Layout, Update
from p2pfl.rules import coordinates, weighted
from p2pfl.rules.gram import Gram, common_exponent
from p2pfl.rules.sums import sum_of_multiples
from p2pfl.rules.table import AGGREGATORS, Accepted, Factors, Root

# They fill the table when they are imported.
RULES = (weighted, coordinates)


def aggregate(rule: str, rows: Sequence[Int16], weights: Sequence[int], gram: Gram, f: int) -> Int16:
    """The aggregate of the rows whose weight is above 0; zero when there is none.

    rows: int16, each of shape (coordinates,). gram: their inner products, perhaps with two rows more, those
    of the previous aggregate and of the council's root update (zero: there is none).
    Raises KeyError for an unknown rule, ArithmeticError when the result leaves int16.
    """
    accepted, _ = _accept(rows, weights, gram, f)
    if not accepted.rows:
        return np.zeros_like(rows[0])
    return AGGREGATORS[rule].combine(accepted)


def factors_of(
    rule: str, rows: Sequence[Int16], weights: Sequence[int], gram: Gram, f: int
) -> Factors | None:
    """Each row's factor in the aggregate (0 where its weight is 0) and the divisor; None: no weighted sum.

    rows may be empty vectors: factors follow from weights and inner products alone (`gram` as above).
    """
    function = AGGREGATORS[rule].factors
    accepted, kept = _accept(rows, weights, gram, f)
    if function is None or not kept:
        return None
    found, divisor = function(accepted)
    factors = [0] * len(weights)
    for index, factor in zip(kept, found, strict=True):
        factors[index] = factor
    return tuple(factors), divisor


def recorded_factors(rule: str, weights: Sequence[int], gram: Gram, f: int) -> tuple[int, ...]:
    """What a body says of them: the factor of each row whose weight is above 0, then the divisor.

    Empty if the rule is no weighted sum; (1,) if there is no such row.
    """
    if AGGREGATORS[rule].factors is None:
        return ()
    nothing = [np.zeros(0, dtype=np.int16)] * len(weights)
    factors, divisor = factors_of(rule, nothing, weights, gram, f) or ((), 1)
    return (*(factor for factor, weight in zip(factors, weights) if weight > 0), divisor)


def _accept(rows: Sequence[Int16], weights: Sequence[int], gram: Gram, f: int) -> tuple[Accepted, list[int]]:
    """Those with a weight above 0, and their indices."""
    kept = [index for index, weight in enumerate(weights) if weight > 0]
    root = None
    if gram.size == len(weights) + 2:
        last = gram.inner[-1]
        root = Root(tuple(last[index] for index in kept), last[-1])
    accepted = Accepted([rows[i] for i in kept], [weights[i] for i in kept], gram.pick(kept), f, root)
    return accepted, kept


def combine(updates: Sequence[Update], factors: Sequence[int], divisor: int) -> Update:
    """round_half_even(sum(factor * update) / divisor) for updates of any exponents, as one update.

    A tensor gets the finest exponent among the updates, and a coarser one only as far as the sum needs it: a
    coarse update must not take the others' digits away.
    Raises ArithmeticError when exponents lie so far apart that the sum leaves int64.
    """
    layout = updates[0].layout
    values = np.empty(layout.size, dtype=np.int16)
    exponents: list[int] = []
    common_exponent([update.exponents for update in updates])
    for tensor, part in enumerate(layout.slices()):
        own = [update.exponents[tensor] for update in updates]
        shifted = [factor << (e - min(own)) for factor, e in zip(factors, own, strict=True)]
        exponent = min(own)
        rows = [update.values[part] for update in updates]
        while True:
            result = sum_of_multiples(rows, shifted, divisor << (exponent - min(own)))
            largest = int(np.abs(result).max(initial=0))
            if largest <= INT16_MAX or exponent >= EXPONENT_MAX:
                break
            # As many steps as it surely needs; rounding may ask for one more.
            exponent = min(EXPONENT_MAX, exponent + max(1, largest.bit_length() - 15))
        exponents.append(exponent)
        values[part] = np.clip(result, -INT16_MAX, INT16_MAX).astype(np.int16)
    return Update(layout, tuple(exponents), values)


def zero_update(layout: Layout, exponents: Sequence[int]) -> Update:
    """The update that changes nothing."""
    return Update(layout, tuple(exponents), np.zeros(layout.size, dtype=np.int16))
