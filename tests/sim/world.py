"""One group in one world: a clock made of integers, a heap of things to come, and what may go wrong.

First a bad time (loss, delay, duplicates, reordering, partitions, crashes, a lost WAL, clocks apart), then a
healed one that demands progress. The processes in it are in `member`; who votes when, in `epochs`.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from consensus.evidence import culprits
from consensus.replica import Replica
from consensus.types import MemberId, Message
from tests.sim.colluders import SIDES, Sides
from tests.sim.epochs import Epochs
from tests.sim.member import AHEAD_MS, DOMAIN, DOUBLINGS_MAX, TRAPS, Liar, Member
from tests.sim.notary import Notary
from tests.sim.oracles import Audit, Oracles

# The bad time ends after so many blocks, or so late. The healed time has to bring HEIGHTS_AFTER more.
HEIGHTS_BEFORE = 2
HEIGHTS_AFTER = 2
# Healed: whoever is in a long round waits its timer out; then one round for each liar in a row, one to meet,
# one to decide; twice, since a height may have been left in the middle.
ROUNDS_TO_PROGRESS = 4
HEALED_DELAY_MS = 10
STEPS_MAX = 60_000
# Clocks of healed members are that near to the true time; any two of them do not differ by AHEAD_MS.
HEALED_SKEW_MS = AHEAD_MS // 2 - 5
# Above f liars the bad time lasts longer, since nothing comes after it.
ABOVE_END_MS = 3000


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
    skew_ms: int = 0  # How far from the true time a clock may be.

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
        sides: bool = False,
        change: bool | None = None,
        replica: type[Replica] = Replica,
        member: type[Member] = Member,
        audit: Audit = culprits,
        story: list[str] | None = None,
    ) -> None:
        self.rng = random.Random(seed * 1_000_003 + members)
        self.now_ms = 0
        self.healed = False
        self.last: int | None = None
        self.story = story
        self.notary = Notary()
        ids = tuple(MemberId(bytes([i + 1]) * 20) for i in range(members + 1))
        also = self._also = random.Random(f"{seed} {members} epochs")
        self.epochs = Epochs.draw(also, ids, change=change)
        self.ids = self.epochs.members
        self.weather = Weather.draw(self.rng)
        self.weather.skew_ms = also.choice((0, HEALED_SKEW_MS, 60, 200))
        self.replica = replica
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._sides: dict[MemberId, int] = {}
        liars = liars or {}
        bad = frozenset(self.ids[i] for i in (*liars, *twins))
        honest = frozenset(self.ids) - bad
        self.oracles = Oracles(self.epochs, self.notary.recover, DOMAIN, honest=honest, audit=audit)
        # A twin is one more process with the same id: both get what is sent to it.
        places = [*range(len(self.ids)), *twins]
        self.members = [member(self, self.ids[i], liar=liars.get(i), name=k) for k, i in enumerate(places)]
        self.colluders = Sides(also, bad, self.epochs) if sides else None
        if self.colluders is not None:
            # Each side needs all its members: liars who want to break something choose a quiet day.
            self.weather.loss, self.weather.partitions = also.choice((0.0, 0.0, 0.05)), 0
            self.weather.crashes = min(self.weather.crashes, 1)
            self.weather.skew_ms = min(self.weather.skew_ms, HEALED_SKEW_MS)
            assert len(places) == len(self.ids) + len(twins) * (SIDES - 1)
            self.colluders.settle(self.members)
        for each in self.members:
            each.skew_ms = also.randint(-self.weather.skew_ms, self.weather.skew_ms)
        self.homes = {m: [member for member in self.members if member.id == m] for m in self.ids}
        self.honest = [member for member in self.members if member.id not in bad]

    def at(self, delay_ms: int, do: Callable[..., None], *arguments: Any) -> None:
        """Do it later."""
        self._count += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._count, do, arguments))

    def run(self) -> None:
        """The bad time, the healing, the time of progress; above f liars, the bad time and an audit."""
        weather, rng, above = self.weather, self.rng, self.oracles.above
        for member in self.members:
            self.at(0, member.start)
            self.at(weather.base_ms, member.tick)
        for _ in range(weather.crashes):
            when_ms, who, actions = rng.randrange(weather.end_ms), rng.choice(self.members), rng.randrange(12)
            self.at(when_ms, who.crash_soon, actions, self._also.choice((None, None, *TRAPS)))
        first = self.epochs.at(0)
        if weather.crashes and len(self.honest) == len(self.ids) and first.size > first.quorum:
            rng.choice(self.members).wipe = True  # Mute for a height: as bad as a liar, so not beside one.
        for _ in range(weather.partitions):
            self.at(rng.randrange(weather.end_ms), self.split)
        if self.colluders is not None:
            self.colluders.drift(self)
        self._run_until(ABOVE_END_MS if above else weather.end_ms, HEIGHTS_BEFORE + above)
        if above:
            self.oracles.audited(record for member in self.honest for record in member.records())
            return
        self.heal()
        # There the chain ends: who is last is helped by R7 alone, since nobody speaks of later heights.
        # Not at an epoch's end: a replica of the next one has to be begun before it answers.
        goal = max(len(member.store) for member in self.members) + HEIGHTS_AFTER
        self.last = goal = goal + (goal - 1 in self.epochs.last_heights)
        longest_ms = weather.base_ms * 2**DOUBLINGS_MAX
        limit_ms = (
            self.now_ms + longest_ms * (ROUNDS_TO_PROGRESS + self.epochs.at(0).faulty_max) * HEIGHTS_AFTER
        )
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

    def dissolve(self) -> None:
        """The end of it: what holds what in circles is let go, so that no collector has to find it."""
        for member in self.members:
            vars(member).clear()
        vars(self).clear()

    def home_of(self, peer: MemberId, reader: Member) -> Member | None:
        """The process of a peer whose blocks another may read."""
        homes = self.homes[peer]
        if self.colluders is not None:
            homes = [home for home in homes if self.colluders.lets(home, reader)]
        return homes[0] if homes else None

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
        self.healed, self._sides, self.colluders = True, {}, None
        for member in self.members:
            member.fuse = member.trap = None
            member.skew_ms = max(-HEALED_SKEW_MS, min(HEALED_SKEW_MS, member.skew_ms))
            if not member.alive:
                member.start()

    def send(self, sender: Member, to: MemberId, message: Message) -> None:
        """Put a message on its way to every process with this id, or lose it."""
        for home in self.homes[to]:
            if home is sender:
                continue
            if self.colluders is not None and not self.colluders.lets(sender, home):
                delays: tuple[int, ...] = ()
            elif self.healed:
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
