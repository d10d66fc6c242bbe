"""One member in its group: features from the Gram matrix, p-value, hard rules, warnings about single chunks.

Everything is an exact function of the round's updates. A warning is a lead for backtracking, nothing more.
Which weight a member gets in the end is decided in `validate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt

import numpy as np

from consensus.types import MemberId
from p2pfl.genesis import Rules
from p2pfl.params import Int64, Layout
from p2pfl.records import MICRO, GroupBody, PoolRow, TriageRow, WarningRow
from p2pfl.rules.chunks import ChunkId, chunk_ids
from p2pfl.rules.gram import RATIO_MAX_MICRO, Gram, lower_median, ratio_micro, view
from p2pfl.rules.pool import EMPTY, FEATURE_MAX, FEATURES, Pool
from p2pfl.rules.repeats import Sent, was_sent

# Two updates are at most this far apart relative to the longer one; also what a member without others gets.
NEAREST_MAX_MICRO = 2 * MICRO
# Warnings a member may have for each reason, the weightiest first: enough to recognise an attack on the whole
# model among the chunks in which a group deviates most, few enough for a block.
WARNINGS_PER_REASON = 16
# The others are shortened to the median norm in these units, so that a chunk's sums stay inside int64.
SHORTENING_ONE = 64
# Measured (docs/detection.md): with these a sign flip is warned of in most chunks, an honest member in few.
OPPOSED_COS = -0.15
LOUD_RATIO = 3.0
SILENT_RATIO = 0.1


def triage(
    members: Sequence[MemberId],
    gram: Gram,
    f: int,
    rules: Rules,
    pool: Pool = EMPTY,
    sent: Sequence[Sent] = (),
    earlier: Sequence[Sent] = (),
) -> tuple[TriageRow, ...]:
    """A row for each revealed member.

    gram: the revealed updates in the order of `members`, then the previous aggregate, then the root update.
    pool: of the council block that the round's base names. sent: the members' updates (none: they are not
    compared with anything earlier); earlier: those that counted in the last rounds.
    """
    n = len(members)
    if gram.size != n + 2:
        raise ValueError("a row for each member, the previous aggregate and the root update")
    if not n:
        return ()
    median_sq = lower_median(gram.norms_sq[:n])
    scores = [_krum(gram, i, n, f) for i in range(n)]
    median_score = lower_median(scores)
    factors = _shortenings(gram, n)
    rows: list[TriageRow] = []
    for i, member in enumerate(members):
        norm = ratio_micro(gram.norms_sq[i], median_sq)
        nearest = min((relative_distance_micro(gram, i, j) for j in range(n) if j != i), default=None)
        rows.append(
            TriageRow(
                member=member,
                norm_ratio_micro=norm,
                nearest_micro=NEAREST_MAX_MICRO if nearest is None else nearest,
                previous_cos_micro=gram.cos_micro(i, n),
                root_cos_micro=gram.cos_micro(i, n + 1),
                others_cos_micro=_others_cos_micro(gram, i, factors),
                krum_micro=_share_micro(scores[i], median_score),
                p_ppm=MICRO,
                out_of_bounds=int(_out_of_bounds(norm, rules)),
                duplicate=int(nearest is not None and nearest < rules.duplicate_max_micro),
                repeated=int(_is_public(gram, i, n, rules) or (bool(sent) and was_sent(sent[i], earlier))),
                unusual=0,
                alarm=0,
            )
        )
    return _with_p_values(rows, rules, pool)


def _with_p_values(rows: Sequence[TriageRow], rules: Rules, pool: Pool) -> tuple[TriageRow, ...]:
    return tuple(
        replace(
            row,
            p_ppm=p_ppm,
            unusual=int(p_ppm <= rules.leave_out_rate_ppm),
            alarm=int(p_ppm <= rules.alarm_rate_ppm),
        )
        for row, p_ppm in zip(rows, pool.calibration.p_values_ppm(features(rows)), strict=True)
    )


def features(rows: Sequence[TriageRow]) -> Int64:
    """What is compared with the pool: larger is odder, and none depends on scale, model or group.

    rows: of one round. Returns int64, shape (rows, FEATURES): the norm ratio or its inverse; cosines to the
    previous aggregate, to the root update and to the others, reversed; how far the cosine to the root update
    is below the group's median. Where there is no such update the whole column says nothing.
    """
    roots = [row.root_cos_micro for row in rows]
    median = lower_median(roots) if roots else 0
    # A cosine of exactly 0 is that of everybody to nothing, and of hardly anybody to something.
    rooted, followed = any(roots), any(row.previous_cos_micro for row in rows)
    found = [
        (
            _either(row.norm_ratio_micro),
            -row.previous_cos_micro if followed else -FEATURE_MAX,
            -row.root_cos_micro if rooted else -FEATURE_MAX,
            -row.others_cos_micro,
            median - row.root_cos_micro if rooted else -FEATURE_MAX,
        )
        for row in rows
    ]
    # A quorum of liars may have written anything into its rows; the council reads them all the same.
    kept = [[max(-FEATURE_MAX, min(FEATURE_MAX, value)) for value in own] for own in found]
    return np.array(kept, dtype=np.int64).reshape(len(rows), FEATURES)


def _either(norm_ratio_micro: int) -> int:
    """Too long is as odd as too short."""
    return max(norm_ratio_micro, MICRO * MICRO // norm_ratio_micro) if norm_ratio_micro else FEATURE_MAX


def without_pool(row: TriageRow) -> TriageRow:
    """The row as it is where there is no pool: all that needs none."""
    return replace(row, p_ppm=MICRO, unusual=0, alarm=0)


def is_left_out(row: TriageRow) -> bool:
    """Whether the member's update does not count in this round, by what the row alone says."""
    return bool(row.out_of_bounds or row.duplicate or row.repeated or row.unusual or row.alarm)


def pool_rows(
    body: GroupBody, suspected: frozenset[MemberId], pool: Pool, alarm_rate_ppm: int
) -> tuple[PoolRow, ...]:
    """What a counted block adds to the pool: all but whom a hard rule left out. suspected: by a case.

    pool: of the council before it counts the block. A row that is too rare by it is marked, whatever the
    group says of it: one that is odder than everything would make all after it look usual. Its features are
    those of the Gram matrix: a member's good replay says nothing of what others wrote about it. The merely
    unusual are not marked, or the pool would be narrower each time it is used. Raises as `by_gram`.
    """
    found = features(by_gram(body))
    return tuple(
        PoolRow(row.member, tuple(own), int(bool(row.alarm) or p_ppm <= alarm_rate_ppm))
        for row, own, p_ppm in zip(
            body.triage, found.tolist(), pool.calibration.p_values_ppm(found), strict=True
        )
        if row.member not in suspected and not (row.out_of_bounds or row.duplicate or row.repeated)
    )


def by_gram(body: GroupBody) -> tuple[TriageRow, ...]:
    """The body's rows with the features that its own Gram matrix tells, whatever its quorum wrote there.

    The body does not tell the powers of two of the previous aggregate: of the cosine to it, as written and as
    in this round's powers, the less odd one stands. Raises ValueError or IndexError for a Gram matrix of
    another shape.
    """
    n = len(body.triage)
    if not n:
        return ()
    gram = view(body.gram, [body.exponents] * (n + 2))
    median_sq, factors = lower_median(gram.norms_sq[:n]), _shortenings(gram, n)
    return tuple(
        replace(
            row,
            norm_ratio_micro=ratio_micro(gram.norms_sq[i], median_sq),
            previous_cos_micro=max(row.previous_cos_micro, gram.cos_micro(i, n)),
            root_cos_micro=gram.cos_micro(i, n + 1),
            others_cos_micro=_others_cos_micro(gram, i, factors),
        )
        for i, row in enumerate(body.triage)
    )


def rarity(body: GroupBody, pool: Pool) -> dict[MemberId, int]:
    """Each revealed member's p-value by this pool and the Gram matrix, in millionths. Raises as `by_gram`."""
    rows = by_gram(body)
    found = pool.calibration.p_values_ppm(features(rows))
    return {row.member: p_ppm for row, p_ppm in zip(rows, found, strict=True)}


def most_unusual(p_ppm: Mapping[MemberId, int]) -> tuple[MemberId, ...]:
    """The members by their p-values, the rarest first; equals in the given order."""
    return tuple(sorted(p_ppm, key=lambda member: p_ppm[member]))


def _others_cos_micro(gram: Gram, i: int, factors: Sequence[int]) -> int:
    others = [0 if j == i else factor for j, factor in enumerate(factors)] + [0, 0]
    return gram.cos_of_sums_micro(gram.unit(i), others)


def _is_public(gram: Gram, i: int, n: int, rules: Rules) -> bool:
    """Whether it is the previous aggregate or the council's root update again: anybody has those."""
    return any(
        gram.norms_sq[public] > 0 and relative_distance_micro(gram, i, public) < rules.duplicate_max_micro
        for public in (n, n + 1)
    )


def relative_distance_micro(gram: Gram, i: int, j: int) -> int:
    """|a - b| / max(|a|, |b|) in millionths; 0 when both are zero."""
    longer_sq = max(gram.norms_sq[i], gram.norms_sq[j])
    return ratio_micro(gram.distance_sq(i, j), longer_sq) if longer_sq else 0


def _out_of_bounds(norm_ratio_micro: int, rules: Rules) -> bool:
    """Above the bound or below its inverse, compared as products."""
    bound = rules.norm_ratio_max_micro
    return norm_ratio_micro > bound or norm_ratio_micro * bound < MICRO * MICRO


def _krum(gram: Gram, i: int, n: int, f: int) -> int:
    """The sum of the n - f - 2 smallest squared distances (Blanchard et al. 2017), at least one of them."""
    distances = sorted(gram.distance_sq(i, j) for j in range(n) if j != i)
    return sum(distances[: max(1, n - f - 2)])


def _share_micro(part: int, whole: int) -> int:
    if whole <= 0:
        return MICRO if part <= 0 else RATIO_MAX_MICRO
    return min(RATIO_MAX_MICRO, MICRO * part // whole)


# ---------------------------------------------------------------------------
# Warnings about chunks.


@dataclass(frozen=True)
class ChunkView:
    """One member's chunks beside the others': int64, shape (chunks,), in units of 4^exponent of the tensor.

    own_sq: |q_i|^2. others_dot, others_sq: inner product with, and squared norm of, the sum of the others and
    the root update, each shortened to the median norm, in units of 1/64. median_sq: the lower median of the
    members' |q_j|^2.
    """

    own_sq: Int64
    others_dot: Int64
    others_sq: Int64
    median_sq: Int64


# A rule says how weighty a warning about each chunk is, 0 for none: int64, shape (chunks,). Float64 with one
# correctly rounded operation at a time is the same on every machine.
ChunkRule = Callable[[ChunkView], Int64]
CHUNK_RULES: dict[str, ChunkRule] = {}


def chunk_rule(reason: str) -> Callable[[ChunkRule], ChunkRule]:
    """Add a reason for a warning to the table."""

    def add(rule: ChunkRule) -> ChunkRule:
        if reason in CHUNK_RULES:
            raise ValueError(f"there is a reason {reason!r} already")
        CHUNK_RULES[reason] = rule
        return rule

    return add


@chunk_rule("opposed")
def opposed(chunks: ChunkView) -> Int64:
    """It pushes against what the others agree on. Weighs the inner product."""
    lengths = np.sqrt(chunks.own_sq.astype(np.float64)) * np.sqrt(chunks.others_sq.astype(np.float64))
    broken = (lengths > 0) & (chunks.others_dot.astype(np.float64) <= OPPOSED_COS * lengths)
    return np.where(broken, -chunks.others_dot, 0)


@chunk_rule("loud")
def loud(chunks: ChunkView) -> Int64:
    """It is several times as long as the members' median. Weighs its squared norm."""
    own, median = chunks.own_sq.astype(np.float64), chunks.median_sq.astype(np.float64)
    return np.where((median > 0) & (own > LOUD_RATIO * LOUD_RATIO * median), chunks.own_sq, 0)


@chunk_rule("silent")
def silent(chunks: ChunkView) -> Int64:
    """It hardly moves where the members' median does. Weighs the median's squared norm."""
    own, median = chunks.own_sq.astype(np.float64), chunks.median_sq.astype(np.float64)
    return np.where(own < SILENT_RATIO * SILENT_RATIO * median, chunks.median_sq, 0)


REASONS = tuple(CHUNK_RULES)


def warnings(
    members: Sequence[MemberId], chunks: Int64, gram: Gram, layout: Layout, exponents: Sequence[int]
) -> tuple[WarningRow, ...]:
    """The warnings of a round: by member in the given order, then by tensor, chunk and reason.

    chunks: int64, shape (chunks, members + 1, members + 1): the Gram matrix of each chunk, with the root
    update in the last row. gram: the same over the whole model. exponents: of the round. Each member has at
    most WARNINGS_PER_REASON for a reason: the weightiest, the earlier chunk first where two weigh the same.
    """
    if gram.size != len(members) + 1:
        raise ValueError("a row for each member, and the root update")
    ids = chunk_ids(layout)
    found: list[WarningRow] = []
    for member, chunk_view in zip(members, chunk_views(chunks, gram), strict=True):
        picked = [
            (*ids[index], reason)
            for reason, rule in CHUNK_RULES.items()
            for index in _weightiest(chunk_view, rule, ids, exponents)
        ]
        found += [WarningRow(member, *row) for row in sorted(picked)]
    return tuple(found)


def _weightiest(
    chunk_view: ChunkView, rule: ChunkRule, ids: Sequence[ChunkId], exponents: Sequence[int]
) -> list[int]:
    weights, least = rule(chunk_view), min(exponents)
    picked = np.flatnonzero(weights > 0).tolist()
    ranked = sorted((-(int(weights[i]) << 2 * (exponents[ids[i][0]] - least)), i) for i in picked)
    return [index for _, index in ranked[:WARNINGS_PER_REASON]]


def chunk_views(chunks: Int64, gram: Gram) -> list[ChunkView]:
    """Each member's chunks beside the sum of the others and the root update, which is the last row."""
    members = gram.size - 1
    if not members:
        return []
    factors = np.array(_shortenings(gram, members), dtype=np.int64)
    own = np.diagonal(chunks, axis1=1, axis2=2)
    median_sq = np.sort(own[:, :members], axis=1)[:, (members - 1) // 2]
    with_total = chunks @ factors
    total_sq = with_total @ factors
    views: list[ChunkView] = []
    for index, factor in enumerate(factors[:members].tolist()):
        own_sq, dot = own[:, index], with_total[:, index]
        others_dot = dot - factor * own_sq
        others_sq = total_sq - 2 * factor * dot + factor * factor * own_sq
        views.append(ChunkView(own_sq, others_dot, others_sq, median_sq))
    return views


def _shortenings(gram: Gram, members: int) -> list[int]:
    """min(1, median / norm) of each row, in units of 1/64, rounded down: nobody drowns out the others.

    The median is that of the first rows, the members'.
    """
    bound = lower_median(gram.norms_sq[:members])
    return [
        SHORTENING_ONE if norm <= bound else isqrt(bound * SHORTENING_ONE * SHORTENING_ONE // norm)
        for norm in gram.norms_sq
    ]
