"""One group in one world: a clock made of integers, a heap of things to come, and what may go wrong.

First a bad time (loss, delay, duplicates, reordering, partitions, crashes, a lost WAL), then a healed one
that demands progress. The processes in it are in `member`.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from consensus.committee import Committee
from consensus.replica import Replica
from consensus.types import MemberId, Message
from tests.sim.member import DOMAIN, DOUBLINGS_MAX, Liar, Member
from tests.sim.notary import Notary
from tests.sim.oracles import Oracles

# The bad time ends after so many blocks, or so late. The healed time has to bring HEIGHTS_AFTER more.
HEIGHTS_BEFORE = 2
HEIGHTS_AFTER = 2
# Healed: whoever is in a long round waits its timer out; then one round for each liar in a row, one to meet,
# one to decide; twice, since a height may have been left in the middle.
ROUNDS_TO_PROGRESS = 4
HEALED_DELAY_MS = 10
STEPS_MAX = 60_000


@dataclass
class Weather:
    """What may go wrong in the bad time, drawn from the seed."""

    loss: float
    duplicate: float
    delay_ms: int
    base_ms: int
    crashes: int
    partitions: int
    stubborn: float  # How often a fresh block displeases one member for a reason of its own (its clock).
    end_ms: int

    @classmethod
    def draw(cls, rng: random.Random) -> Weather:
        """Every tenth world is calm; short timers against long delays give many round changes."""
        calm = rng.random() < 0.1
        return cls(
            loss=0.0 if calm else rng.choice((0.0, 0.05, 0.2, 0.4)),
            duplicate=0.0 if calm else rng.choice((0.0, 0.1)),
            delay_ms=10 if calm else rng.choice((20, 60, 150)),
            base_ms=rng.choice((80, 150, 300)),
            crashes=0 if calm else rng.choice((0, 1, 2, 3)),
            partitions=0 if calm else rng.choice((0, 0, 1, 2)),
            stubborn=0.0 if calm else rng.choice((0.0, 0.1)),
            end_ms=rng.choice((600, 1500, 3000)),
        )


class World:
    """Members, messages on their way, and the oracles."""

    def __init__(
        self,
        *,
        members: int,
        seed: int,
        liars: dict[int, Liar] | None = None,
        twins: tuple[int, ...] = (),
        replica: type[Replica] = Replica,
        member: type[Member] = Member,
        story: list[str] | None = None,
    ) -> None:
        self.rng = random.Random(seed * 1_000_003 + members)
        self.now_ms = 0
        self.healed = False
        self.last: int | None = None
        self.story = story
        self.notary = Notary()
        self.ids = tuple(MemberId(bytes([i + 1]) * 20) for i in range(members))
        self.committee = Committee(0, self.ids)
        self.weather = Weather.draw(self.rng)
        self.replica = replica
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._sides: dict[MemberId, int] = {}
        liars = liars or {}
        bad = frozenset(self.ids[i] for i in (*liars, *twins))
        self.oracles = Oracles(self.committee, self.notary.recover, DOMAIN, honest=frozenset(self.ids) - bad)
        # A twin is one more process with the same id: both get what is sent to it.
        places = [*range(members), *twins]
        self.members = [member(self, self.ids[i], liar=liars.get(i), name=k) for k, i in enumerate(places)]
        self.homes = {m: [member for member in self.members if member.id == m] for m in self.ids}
        self.honest = [member for member in self.members if member.id not in bad]

    def at(self, delay_ms: int, do: Callable[..., None], *arguments: Any) -> None:
        """Do it later."""
        self._count += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._count, do, arguments))

    def run(self) -> None:
        """The bad time, the healing, the time of progress."""
        weather, rng = self.weather, self.rng
        for member in self.members:
            self.at(0, member.start)
            self.at(weather.base_ms, member.tick)
        for _ in range(weather.crashes):
            self.at(rng.randrange(weather.end_ms), rng.choice(self.members).crash_soon, rng.randrange(12))
        if weather.crashes and len(self.honest) == len(self.ids) > self.committee.quorum:
            rng.choice(self.members).wipe = True  # Mute for a height: as bad as a liar, so not beside one.
        for _ in range(weather.partitions):
            self.at(rng.randrange(weather.end_ms), self.split)
        self._run_until(weather.end_ms, HEIGHTS_BEFORE)
        self.heal()
        # There the chain ends: who is last is helped by R7 alone, since nobody speaks of later heights.
        goal = self.last = max(len(member.store) for member in self.members) + HEIGHTS_AFTER
        longest_ms = weather.base_ms * 2**DOUBLINGS_MAX
        limit_ms = self.now_ms + longest_ms * (ROUNDS_TO_PROGRESS + self.committee.faulty_max) * HEIGHTS_AFTER
        self._run_until(limit_ms, goal)
        late = [member.name for member in self.honest if len(member.store) < goal]
        if late:
            self.oracles.report("progress", f"members {late} have not reached height {goal}")

    def _run_until(self, end_ms: int, heights: int) -> None:
        steps = 0
        while self._heap and self._heap[0][0] <= end_ms:
            self.now_ms, _, do, arguments = heapq.heappop(self._heap)
            do(*arguments)
            steps += 1
            if steps % 8 == 0 and all(len(member.store) >= heights for member in self.honest):
                return
            if steps > STEPS_MAX:
                self.oracles.report("bounds", f"{steps} steps in one phase")
                return

    def split(self) -> None:
        """Cut the members into two sides for a while."""
        if self.healed:
            return
        self._sides = {member: self.rng.randrange(2) for member in self.ids}
        self.tell("the network splits", sides=list(self._sides.values()))
        self.at(self.rng.randrange(1000), self.join)

    def join(self) -> None:
        """End the partition."""
        self._sides = {}

    def heal(self) -> None:
        """From now on: no loss, short delays, everybody is up."""
        self.tell("the network heals")
        self.healed, self._sides = True, {}
        for member in self.members:
            member.fuse = None
            if not member.alive:
                member.start()

    def send(self, sender: Member, to: MemberId, message: Message) -> None:
        """Put a message on its way to every process with this id, or lose it."""
        for home in self.homes[to]:
            if home is sender:
                continue
            if self.healed:
                delays = (self.rng.randrange(1, HEALED_DELAY_MS),)
            else:
                delays = self._fate(sender.id, to)
            for delay_ms in delays:
                self.at(delay_ms, home.deliver, sender.id, message)

    def _fate(self, sender: MemberId, to: MemberId) -> tuple[int, ...]:
        rng, weather = self.rng, self.weather
        if self._sides and self._sides[sender] != self._sides[to]:
            return ()
        if rng.random() < weather.loss:
            return ()
        delay_ms = 1 + int(rng.random() * weather.delay_ms)
        if rng.random() < 0.02:
            delay_ms *= 8
        if rng.random() < weather.duplicate:
            return delay_ms, 1 + int(rng.random() * weather.delay_ms * 4)
        return (delay_ms,)

    def tell(self, what: str, **fields: Any) -> None:
        """One line of the story."""
        if self.story is not None:
            said = " ".join(f"{key}={value}" for key, value in fields.items())
            self.story.append(f"{self.now_ms:6d} ms  {what} {said}")
