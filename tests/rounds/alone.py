"""One seat whose own votes decide: the real driver, log, guard and chain on a real disk, and no network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import trio

from consensus import types as ct
from consensus.chain import HEADER_VERSION
from consensus.replica import Replica
from consensus.types import ZERO_MEMBER
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL, ChainEntry, Genesis
from p2pfl.keys import Guard, load_signing_key
from p2pfl.roster import Roster
from p2pfl.rounds.chain import Chain, Checked
from p2pfl.rounds.driver import Driver
from p2pfl.store import Store
from testnet import plan
from testnet.scenarios import load


def network_of_one(folder: Path) -> plan.Plan:
    """A network on paper whose council has one seat."""
    ground = plan.break_ground(load("honest", groups=1, seats=1), folder)
    return plan.draw_plan(ground, ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER))


class Alone:
    """One seat: its own votes decide. `said` is what it sent."""

    def __init__(self, seat: plan.Plan, folder: Path, heights: int) -> None:
        own = next(each for each in seat.ground.seats if each.group == COUNCIL)
        self.genesis: Genesis = seat.genesis
        self.store = Store(folder, seat.genesis)
        try:
            self.wal = self.store.wal(COUNCIL)
            self.chain = Chain(
                self.genesis, COUNCIL, self.store.chain(COUNCIL), lambda: Roster.of(self.genesis)
            )
            self.chain.fits = lambda block: True  # Its bodies are of no kind.  # type: ignore[method-assign]
            self.guard = Guard(
                self.store.folder.guard, load_signing_key(own.folder.signing_key), new_key=True
            )
        except UserError:
            self.store.close()
            raise
        self.heights = heights
        self.said: list[ct.Message] = []
        self.done = trio.Event()

    async def run(self) -> None:
        committee = self.genesis.committee(COUNCIL)
        driver = Driver(
            replica=Replica(
                committee,
                self.guard.member_id,
                self.genesis.domain(COUNCIL),
                decided_at=self.chain.get,
            ),
            app=self,
            domain=self.genesis.domain(COUNCIL),
            wal=self.wal,
            guard=self.guard,
            network=self,
            me=self.guard.member_id,
            members=committee.members,
            on_fault=lambda fault: None,
            on_behind=lambda peer, height: None,
            on_vote=lambda kind: None,
        )
        async with trio.open_nursery() as nursery:
            if self.chain.height + 1 < self.heights:
                nursery.start_soon(lambda: driver.run(self.started(), resume=True))
                await self.done.wait()
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        self.guard.close()
        self.store.close()

    # The application, and the network, of one.

    def started(self) -> ct.Started:
        return self.chain.started(0)

    def entered(self, effect: ct.EnteredRound) -> None:
        pass

    async def build(self, effect: ct.Build) -> ct.Block:
        header = ct.Header(
            version=HEADER_VERSION,
            network_id=self.genesis.network_id,
            group_id=self.chain.group_id,
            epoch=0,
            height=effect.height,
            parent_id=effect.parent_id,
            proposer=self.guard.member_id,
            time_ms=effect.height + 1,
            app_root=ct.Digest(os.urandom(32)),  # Another block each time it is asked.
            log_root=effect.log_root,
            next_committee_root=self.genesis.committee(COUNCIL).root(),
        )
        return ct.Block(header, bytes(300))

    async def validate(self, effect: ct.Validate) -> bool:
        return True

    async def decided(self, decided: ct.DecidedBlock) -> bool:
        await self.chain.append(decided)
        if self.chain.height + 1 >= self.heights:
            self.done.set()
            return False
        return True

    async def caught_up(self, checked: Checked) -> bool | None:
        return None  # Nobody is ahead of one.

    def send(self, to: ct.MemberId, message: Any) -> None:
        self.said.append(message.message)

    def broadcast(self, to: Any, message: Any) -> None:
        self.said.append(message.message)
