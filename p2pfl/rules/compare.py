"""One group among the groups: the cosine of its delta to the others', and the chunks in which it deviates.

Raw parameters of groups look alike whatever happens (cosines of 0.998); the deltas of one period do not.
Knows nothing of members: from a group to a member leads `cases`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

from consensus.types import Digest
from p2pfl.genesis import Rules
from p2pfl.params import Update
from p2pfl.records import MICRO, GroupRow
from p2pfl.rules.aggregate import combine
from p2pfl.rules.chunks import ChunkId, chunk_grams, chunk_ids
from p2pfl.rules.gram import Gram, Triangle, common_exponent, gram, lower_median, view, view_of
from p2pfl.rules.weighted import FACTOR_BITS

# Where chunks are compared, a group's delta is scaled to the others' length by a number of this many bits.
RATIO_BITS = 32

Weighted = tuple[int, Update]


def compare_groups(
    group_ids: Sequence[Digest],
    deltas: Sequence[Update],
    weights: Sequence[int],
    root_update: Update | None,
    rules: Rules,
) -> tuple[tuple[Triangle, ...], tuple[GroupRow, ...]]:
    """The Gram matrix of the deltas (then the root update, zero if None), and a row for each group.

    weights: whole numbers above 0 where a group counts. A group whose weight is 0 is no reference to others.
    """
    if not deltas:
        return (), ()
    rows = [delta.values for delta in deltas]
    exponents = [delta.exponents for delta in deltas]
    root = root_update.values if root_update else rows[0] * 0
    triangles = gram([*rows, root], deltas[0].layout)
    whole = view(triangles, [*exponents, root_update.exponents if root_update else exponents[0]])
    flagged = standing_apart(whole, weights, rules.group_cos_min_micro)
    return triangles, tuple(
        GroupRow(
            group_id=group_id,
            weight=weights[index],
            others_cos_micro=_others_cos(whole, weights, index, range(len(deltas))),
            root_cos_micro=whole.cos_micro(index, len(deltas)),
            flagged=int(index in flagged),
        )
        for index, group_id in enumerate(group_ids)
    )


def standing_apart(whole: Gram, weights: Sequence[int], cos_min_micro: int) -> frozenset[int]:
    """The groups that stand apart: one by one, the least like the others, while it is below the threshold.

    Who is apart must not make the others look so: each is taken out before the next is looked at. Two groups
    are equally far from each other; only a third can say which of them is apart, so the last two stay.
    """
    left = [index for index, weight in enumerate(weights) if weight > 0]
    out: set[int] = set()
    while len(left) > 2:
        cosines = [(_others_cos(whole, weights, index, left), index) for index in left]
        lowest, index = min(cosines)
        if lowest >= cos_min_micro:
            break
        left.remove(index)
        out.add(index)
    return frozenset(out)


def bounded(
    deltas: Sequence[Update],
    triangles: Sequence[Triangle],
    rows: Sequence[GroupRow],
    blocks: Sequence[int],
    root_update: Update | None,
    ratio_max_micro: int,
) -> list[Update]:
    """The deltas, none longer a block than `ratio_max_micro` times the lower median of theirs.

    A cosine says nothing of a length: a quorum of liars that writes other exponents makes its group's delta
    some hundred times as long. The root update counts as one more where there are others; a lone group may
    be the square of the ratio times as long as it (honest groups learn more from more data).

    triangles, rows: as `compare_groups` gave them. blocks: how many each delta is the sum of.
    """
    if not deltas:
        return []
    exponents = [delta.exponents for delta in deltas]
    whole = view(triangles, [*exponents, root_update.exponents if root_update else exponents[0]])
    factors = length_factors(whole, rows, blocks, ratio_max_micro)
    return [shortened(delta, factor) for delta, factor in zip(deltas, factors, strict=True)]


def length_factors(
    whole: Gram, rows: Sequence[GroupRow], blocks: Sequence[int], ratio_max_micro: int
) -> list[int]:
    """By how much `bounded` shortens each delta, in units of 2^-20. whole: of deltas and root update."""
    norms_sq, root_sq = whole.norms_sq[: len(rows)], whole.norms_sq[-1]
    heard = [
        norm_sq // max(1, count) ** 2
        for norm_sq, row, count in zip(norms_sq, rows, blocks, strict=True)
        if row.weight and not row.flagged and norm_sq
    ]
    ratio = ratio_max_micro
    if len(heard) > 1:
        median_sq = lower_median([*heard, root_sq] if root_sq else heard)
    elif heard and root_sq:
        median_sq, ratio = root_sq, ratio_max_micro**2 // MICRO
    else:
        return [1 << FACTOR_BITS] * len(rows)
    limit_sq = median_sq * ratio**2 // MICRO**2
    return [
        _length_factor(norm_sq, limit_sq * count**2) for norm_sq, count in zip(norms_sq, blocks, strict=True)
    ]


def _length_factor(norm_sq: int, limit_sq: int) -> int:
    if norm_sq <= limit_sq:
        return 1 << FACTOR_BITS
    return isqrt((limit_sq << 2 * FACTOR_BITS) // norm_sq)


def shortened(delta: Update, length_factor: int) -> Update:
    """The delta times this factor, in units of 2^-20; as it is if that is one."""
    return delta if length_factor == 1 << FACTOR_BITS else combine([delta], [length_factor], 1 << FACTOR_BITS)


def _others_cos(whole: Gram, weights: Sequence[int], index: int, among: Sequence[int] | range) -> int:
    others = [0] * whole.size
    for other in among:
        if other != index:
            others[other] = weights[other]
    return whole.cos_of_sums_micro(whole.unit(index), others)


def least_alike(aggregates: Sequence[Update], others: Sequence[Weighted]) -> int:
    """The index of the aggregate with the lowest cosine to the others' weighted sum, the first of equals."""
    whole = view_of([*aggregates, *(delta for _, delta in others)])
    others_sum = [*([0] * len(aggregates)), *(weight for weight, _ in others)]
    cosines = [whole.cos_of_sums_micro(whole.unit(i), others_sum) for i in range(len(aggregates))]
    return cosines.index(min(cosines))


def deviating_chunks(group_delta: Update, others: Sequence[Weighted], top: int) -> tuple[ChunkId, ...]:
    """The `top` chunks in which the group falls farthest short of the others, the farthest first.

    others: (weight, delta) of the groups it is compared with. In chunk c the group g, scaled to the length of
    the others' sum o, falls short by <o, o>_c - |o| / |g| <g, o>_c.
    """
    layout = group_delta.layout
    ids = chunk_ids(layout)
    deltas = [group_delta, *(delta for _, delta in others)]
    unit = common_exponent([delta.exponents for delta in deltas])
    factors = [0, *(weight for weight, _ in others)]
    own_sq, with_others, others_sq = 0, [0] * len(ids), [0] * len(ids)
    for index, matrix in enumerate(chunk_grams([delta.values for delta in deltas], layout).tolist()):
        tensor = ids[index][0]
        scaled = [factor << (delta.exponents[tensor] - unit) for factor, delta in zip(factors, deltas)]
        own = 1 << (group_delta.exponents[tensor] - unit)
        own_sq += own * own * matrix[0][0]
        with_others[index] = own * sum(a * matrix[0][i] for i, a in enumerate(scaled))
        others_sq[index] = sum(
            a * b * matrix[i][j] for i, a in enumerate(scaled) for j, b in enumerate(scaled)
        )
    total_sq = sum(others_sq)
    ratio = isqrt((total_sq << 2 * RATIO_BITS) // own_sq) if own_sq else 0
    short = [(oo << RATIO_BITS) - ratio * go for oo, go in zip(others_sq, with_others, strict=True)]
    ranked = sorted(range(len(ids)), key=lambda index: (-short[index], index))
    return tuple(ids[index] for index in ranked[:top] if short[index] > 0)
