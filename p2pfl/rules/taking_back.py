"""A group's block that its members rejected is taken back: out of the group's own base, and the council's.

    own base = the council's base + the own aggregates that it does not count yet

A block that was not counted yet is simply not added. What the council has added of one that it counted is
made again from the aggregate and a few numbers that the council's state keeps (`Added`), and subtracted: by
the council with the block that rejects it, by the group until then. Sums are of integers, so nothing is left
but the rounding of the float32 base: none where its sums are exact, a unit of the last place elsewhere.
Knows no loss; which block rejects the one before it says `ballots.rejects`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from consensus.signing import block_id
from consensus.types import Digest
from p2pfl.params import Base, Update, apply_update
from p2pfl.records import CountedBlock, GroupBody, GroupRow
from p2pfl.rules.aggregate import combine
from p2pfl.rules.ballots import rejects
from p2pfl.rules.compare import shortened
from p2pfl.rules.limits import EXPONENT_LAG_MAX


@dataclass(frozen=True, slots=True)
class Added:
    """What the council's base holds of a group's last counted block: share / total of its aggregate.

    length_factor: by how much the group's delta was shortened first, in units of 2^-20. share 0: nothing.
    """

    epoch: int
    height: int
    aggregate_id: Digest
    exponents: tuple[int, ...]
    length_factor: int
    share: int
    total: int


def is_recent(exponents: Sequence[int], current: Sequence[int]) -> bool:
    """Whether this scale is near enough to today's to be added up exactly. An older block adds nothing."""
    return all(abs(a - b) <= EXPONENT_LAG_MAX for a, b in zip(exponents, current, strict=True))


def added_by(
    counted: Sequence[CountedBlock], rows: Sequence[GroupRow], exponents: Sequence[int]
) -> dict[Digest, Added]:
    """Of each group in a council block, what was added of its last block. exponents: those of before."""
    by_group = {row.group_id: row for row in rows}
    total = sum(row.weight for row in rows if not row.flagged)
    found: dict[Digest, Added] = {}
    for block in counted:  # In the order of heights: the last one stays.
        header, row = block.header, by_group[block.header.group_id]
        adds = block.weight and not row.flagged and is_recent(block.exponents, exponents)
        found[header.group_id] = Added(
            epoch=header.epoch,
            height=header.height,
            aggregate_id=block.aggregate_id,
            exponents=block.exponents,
            length_factor=row.length_factor,
            share=row.weight if adds else 0,
            total=total,
        )
    return found


def contribution(added: Added, aggregate: Update) -> Update:
    """What the council's base holds of this aggregate, as it was computed when it was added."""
    return combine([shortened(aggregate, added.length_factor)], [added.share], added.total)


def rejected_before(
    added: Mapping[Digest, Added], counted: Sequence[CountedBlock], bodies: Mapping[Digest, GroupBody]
) -> tuple[Added, ...]:
    """What a council block takes back: of each group whose first block here rejects the last one counted.

    bodies: of the counted blocks, by block id.
    """
    found: list[Added] = []
    seen: set[Digest] = set()
    for block in counted:
        group_id = block.header.group_id
        last = None if group_id in seen else added.get(group_id)
        seen.add(group_id)
        # The first block of an epoch judges none of the one before.
        if last is not None and last.share and last.epoch == block.header.epoch:
            found += [last] if rejects(bodies[block_id(block.header)]) else []
    return tuple(found)


def less(mean: Update, contributions: Sequence[Update]) -> Update:
    """The mean without these: what a council block adds to the base before it."""
    if not contributions:
        return mean
    return combine([mean, *contributions], [1] + [-1] * len(contributions), 1)


# ---------------------------------------------------------------------------
# The group's own base.


@dataclass(frozen=True, slots=True)
class Step:
    """One aggregate on the way from the council's base to the own: added as it is, or taken back."""

    aggregate_id: Digest
    exponents: tuple[int, ...]
    taken_back: Added | None = None


def own_steps(
    last: Added | None, bodies: Mapping[int, GroupBody], height: int, *, without_last: bool = False
) -> tuple[Step, ...]:
    """From the council's base to the own base for `height`, in order.

    last: what that base holds of the own last counted block. bodies: of the own blocks since, by height.
    without_last: the base without the block before `height`, for a block of that height that rejects it.
    """
    rejecting = {each for each, body in bodies.items() if rejects(body)}
    if without_last:
        rejecting.add(height)
    dropped = rejecting | {each - 1 for each in rejecting}
    steps = [
        Step(body.aggregate_id, body.exponents)
        for each, body in sorted(bodies.items())
        if each not in dropped
    ]
    if last is not None and last.share and _first(bodies, height) in rejecting:
        steps.insert(0, Step(last.aggregate_id, last.exponents, last))
    return tuple(steps)


def _first(heights: Collection[int], height: int) -> int:
    return min(heights, default=height)


def take(base: Base, step: Step, aggregate: Update) -> Base:
    """The base after this step. aggregate: the one it names."""
    if step.taken_back is None:
        return apply_update(base, aggregate)
    return apply_update(base, combine([contribution(step.taken_back, aggregate)], [-1], 1))
