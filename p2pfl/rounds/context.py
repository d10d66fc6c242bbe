"""What the applications of a node share: who I am, the rooms, and how a step is told to watchers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from consensus.committee import Committee
from consensus.signing import Domain
from consensus.types import Digest, MemberId
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.keys import Guard
from p2pfl.roster import Roster
from p2pfl.rounds.clocks import Clocks
from p2pfl.rounds.council_view import CouncilView
from p2pfl.rounds.follow import Chain
from p2pfl.rounds.patience import when_there_is_room
from p2pfl.rounds.shelf import Shelf
from p2pfl.rounds.trainer import Trainer
from p2pfl.rules.filters import epoch_salt

T = TypeVar("T")

Observe = Callable[[str, dict[str, Any]], None]


def wall_clock_ms() -> int:
    """Milliseconds since 1970, for header times only."""
    return time.time_ns() // 1_000_000


@dataclass
class Context:
    """One node's rooms in one epoch, as the applications see them. `name` is the own group's, or "council".

    committee: the own group's in this epoch.
    """

    genesis: Genesis
    name: str
    committee: Committee
    me: MemberId
    directory: Path
    chain: Chain
    council: CouncilView
    shelf: Shelf
    network: Any
    guard: Guard
    trainer: Trainer
    observe: Observe
    on_double: Callable[[Any], None]
    evaluates: bool = False  # Whether each new base is tried on the public test set, not only own proposals.
    clock_ms: Callable[[], int] = wall_clock_ms
    # Heavy numpy work leaves the event loop, two jobs at a time: more would only fight for the processors.
    heavy: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(2))

    @cached_property
    def group_id(self) -> Digest:
        """The own group's id."""
        return self.genesis.group_id(self.name)

    @cached_property
    def domain(self) -> Domain:
        """Where the own signatures count."""
        return self.genesis.domain(self.name)

    @property
    def roster(self) -> Roster:
        """All epochs, as far as the council's chain is known here."""
        return self.council.tip.roster

    @cached_property
    def others(self) -> tuple[MemberId, ...]:
        """The other members of the own group."""
        return tuple(member for member in self.committee.members if member != self.me)

    @property
    def seats(self) -> tuple[MemberId, ...]:
        """The council's seats."""
        return self.roster.newest(COUNCIL).members

    @cached_property
    def salt(self) -> bytes:
        """Of the filters of the own chain in this epoch."""
        epoch = self.committee.epoch
        return epoch_salt(self.genesis.network_id, epoch, self.chain.before(epoch))

    @cached_property
    def clocks(self) -> Clocks:
        """How far the others' clocks are from the own."""
        return Clocks(
            faulty_max=self.committee.faulty_max,
            skew_ms_max=self.genesis.times.clock_skew_ms,
            clock_ms=self.clock_ms,
            name_of=self.name_of,
        )

    def name_of(self, member: MemberId) -> str:
        """A member's name for people."""
        return self.roster.entry(member).name

    async def aside(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        """Heavy work in a thread."""
        return await trio.to_thread.run_sync(partial(work, *args, **options), limiter=self.heavy)

    async def sign(self, struct: Any, domain: Domain | None = None) -> bytes:
        """The guarded signature (durable before it returns). Raises keys.Refused."""
        return await when_there_is_room(partial(self.guard.sign, domain or self.domain, struct))
