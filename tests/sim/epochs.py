"""Who votes at which height of one world: the committees, and the blocks that end their epochs."""

from __future__ import annotations

import random
from dataclasses import dataclass

from consensus.committee import Committee
from consensus.types import Digest, MemberId

# How often a committee changes, and after which block at the latest: within the heights that a world decides.
CHANGE_RATE = 0.35
LAST_HEIGHT_MAX = 2


@dataclass(frozen=True)
class Epochs:
    """committees: one an epoch. last_heights: of each epoch but the last one."""

    committees: tuple[Committee, ...]
    last_heights: tuple[int, ...] = ()

    @classmethod
    def draw(cls, rng: random.Random, ids: tuple[MemberId, ...], *, change: bool | None = None) -> Epochs:
        """All of `ids` but the last vote at first; then, perhaps, one of them gives way to the last."""
        *first, joiner = ids
        before = Committee(0, tuple(first))
        if not (rng.random() < CHANGE_RATE if change is None else change):
            return cls((before,))
        after = list(first)
        after[rng.randrange(len(after))] = joiner
        rng.shuffle(after)
        return cls((before, Committee(1, tuple(after))), (rng.randrange(LAST_HEIGHT_MAX + 1),))

    def at(self, height: int) -> Committee:
        """Who decides this height."""
        if not self.last_heights:
            return self.committees[0]
        for last, committee in zip(self.last_heights, self.committees, strict=False):
            if height <= last:
                return committee
        return self.committees[-1]

    def next_root(self, height: int) -> Digest:
        """What the header of this height has to name."""
        return self.at(height + 1).root()

    @property
    def members(self) -> tuple[MemberId, ...]:
        """Everybody who votes at some time, in a fixed order."""
        return tuple(dict.fromkeys(member for each in self.committees for member in sorted(each.members)))

    def stays(self, member: MemberId) -> bool:
        """Whether it votes to the end."""
        return member in self.committees[-1]
