"""More liars than the protocol bears, who know each other: they try to make two honest members decide apart.

The honest are cut into sides. A liar has one process on each side, all with its one key: each of them is
honest towards its own side and has never heard of the other. Some messages leak, some honest members change
sides, so that locks and justifications of one side turn up on the other.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from consensus.types import MemberId
from tests.sim.epochs import Epochs

if TYPE_CHECKING:
    from tests.sim.member import Member
    from tests.sim.world import World

SIDES = 2


class Sides:
    """Who hears whom. leak: how often a message crosses. drift_ms: how often two change places."""

    def __init__(self, rng: random.Random, liars: frozenset[MemberId], epochs: Epochs) -> None:
        self._rng, self._liars = rng, liars
        self.leak = rng.choice((0.0, 0.0, 0.02, 0.05, 0.1))
        self.drift_ms = rng.choice((0, 0, 0, 600, 1500))
        # Halves, so that each can have its quorum with the liars. Who joins stands where somebody left.
        self.of: dict[MemberId, int] = {}
        for committee in epochs.committees:
            honest = [member for member in committee.members if member not in liars]
            new = [member for member in honest if member not in self.of]
            rng.shuffle(new)
            for member in new:
                taken = [self.of[each] for each in honest if each in self.of]
                self.of[member] = int(2 * sum(taken) < len(taken)) if taken else rng.randrange(SIDES)
        self._copies: dict[int, int] = {}

    def settle(self, members: list[Member]) -> None:
        """Give each copy of a liar a side of its own."""
        seen: dict[MemberId, int] = {}
        for member in members:
            if member.id in self._liars:
                self._copies[member.name] = seen[member.id] = seen.get(member.id, -1) + 1

    def side(self, member: Member) -> int:
        """Where it stands now."""
        copy = self._copies.get(member.name)
        return self.of[member.id] if copy is None else copy

    def lets(self, sender: Member, receiver: Member) -> bool:
        """Whether a message between them may pass."""
        return self.side(sender) == self.side(receiver) or self._rng.random() < self.leak

    def drift(self, world: World) -> None:
        """Two honest members, one of each side, change places; again and again."""
        if self.drift_ms:
            world.at(self._rng.randrange(self.drift_ms * 2), self._swap, world)

    def _swap(self, world: World) -> None:
        sides = [sorted(member for member, side in self.of.items() if side == here) for here in range(SIDES)]
        if all(sides):
            swapped = [self._rng.choice(side) for side in sides]
            for here, member in enumerate(swapped):
                self.of[member] = 1 - here
            world.tell("change sides", members=[world.ids.index(member) for member in swapped])
        self.drift(world)
