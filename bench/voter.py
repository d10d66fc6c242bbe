"""One member of `bench consensus`: a real driver, core, guard, log, store and network, with nothing to learn.

Its application builds a block of random bytes, finds every block valid, and between two stretches of
decisions runs the floor with the others. Or, when somebody is to die, there is no floor, and whoever leads
that height kills its own process where it should propose. Tells its figures as one line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from bench.exchange import Exchange
from consensus import types as ct
from consensus.replica import Replica
from p2pfl import genesis as genesis_file
from p2pfl.errors import PeerFault
from p2pfl.genesis import Genesis
from p2pfl.keys import Guard, load_peer_key, load_signing_key
from p2pfl.net import wire
from p2pfl.net.host import Network
from p2pfl.net.interface import BlobSource, PeerAddress
from p2pfl.roster import Roster
from p2pfl.rounds.chain import Chain, Checked
from p2pfl.rounds.driver import Driver
from p2pfl.store import Store

GROUP = "g0"
CONNECT_S_MAX = 60.0


class Idle:
    """The application: blocks of random bytes, all of them valid."""

    def __init__(
        self, chain: Chain, me: ct.MemberId, genesis: Genesis, exchange: Exchange, spec: dict[str, Any]
    ) -> None:
        self.chain, self.me, self.genesis, self.exchange = chain, me, genesis, exchange
        self.heights, self.stretch, self.body_bytes = spec["heights"], spec["stretch"], spec["body_bytes"]
        self.dies_at: int | None = spec["dies_at"]
        self.timer_s: float = spec["timer_s"]
        self.set_deadline: Callable[[float], None] = lambda at: None
        self._leader = genesis.committee(GROUP).proposer
        self._dead = None if self.dies_at is None else self._leader(self.dies_at, 0)
        self.decision_ms: list[float] = []
        self.dead_ms: list[float] = []
        self.round_changes = 0
        self.done = trio.Event()
        self._ended: float | None = None

    def entered(self, effect: ct.EnteredRound) -> None:
        """Only who waits for the dead has a timer."""
        self.round_changes = max(self.round_changes, effect.round)
        if self._dead is not None:
            self.set_deadline(trio.current_time() + self.timer_s * 2**effect.round)

    def started(self) -> ct.Started:
        """After the tip."""
        return self.chain.started(0)

    async def build(self, effect: ct.Build) -> ct.Block:
        """A block that follows the tip; not by who is to die."""
        if self.me == self._dead and effect.height == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        committee = self.genesis.committee(GROUP)
        header = ct.Header(
            version=1,
            network_id=self.genesis.network_id,
            group_id=self.chain.group_id,
            epoch=0,
            height=effect.height,
            parent_id=effect.parent_id,
            proposer=self.me,
            time_ms=time.time_ns() // 1_000_000 if effect.parent is None else effect.parent.time_ms + 1,
            app_root=ct.Digest(os.urandom(32)),
            log_root=effect.log_root,
            next_committee_root=committee.root(),
        )
        return ct.Block(header, os.urandom(self.body_bytes))

    async def validate(self, effect: ct.Validate) -> bool:
        """Nothing to find out."""
        return True

    async def decided(self, decided: ct.DecidedBlock) -> bool:
        """Keep it; time it; at the end of a stretch, the floor's turn."""
        await self.chain.append(decided)
        now = time.perf_counter()
        height = decided.block.header.height
        if self._ended is not None:
            dies_at = self.heights if self.dies_at is None else self.dies_at
            late = height >= dies_at and self._leader(height, 0) == self._dead
            (self.dead_ms if late else self.decision_ms).append((now - self._ended) * 1000)
        self._ended = now
        height += 1
        if self._dead is None and height % self.stretch == 0:
            await self.exchange.run(decided, self.stretch)
            self._ended = None  # What follows begins with the floor's end, not with a decision's.
        if height < self.heights:
            return True
        self.done.set()
        return False

    async def caught_up(self, checked: Checked) -> bool | None:
        """Nobody is away here."""
        return None


class Desk:
    """What comes in goes to the driver, or to the floor."""

    def __init__(self, driver: Driver, exchange: Exchange) -> None:
        self.driver, self.exchange = driver, exchange

    async def received(self, sender: ct.MemberId, message: wire.Message) -> None:
        """A message of a peer."""
        assert isinstance(message, wire.ConsensusMessage)
        if message.group_id == self.exchange.mark:
            self.exchange.received(sender, message.message)
        else:
            self.driver.deliver(sender, message.message)

    async def answer(self, sender: ct.MemberId | None, request: wire.Request) -> wire.Refused:
        """Nobody needs a chain here."""
        return wire.Refused("not_held")

    def blob(self, sender: ct.MemberId | None, blob_id: ct.Digest) -> BlobSource | None:
        """No blobs here."""
        return None


def main(spec: dict[str, Any], events: socket.socket) -> int:
    """Run one member until its launcher ends it.

    spec: name, dir, heights, stretch, body_bytes, dies_at (None: nobody dies), timer_s.
    """
    trio.run(_run, spec, events)
    return 0


async def _run(spec: dict[str, Any], events: socket.socket) -> None:
    genesis = genesis_file.load(Path(spec["dir"]) / "genesis.json")
    store = Store(Path(spec["dir"]), genesis)
    key = load_signing_key(store.folder.signing_key)
    guard = Guard(store.folder.guard, key, new_key=True)
    committee = genesis.committee(GROUP)
    entries = {entry.member_id: entry for entry in genesis.entry(GROUP).members}
    peers = {
        each: PeerAddress(entry.peer_id, entry.address)
        for each, entry in entries.items()
        if each != key.member_id
    }
    network = Network(
        me=key.member_id,
        peer_key=load_peer_key(store.folder.peer_key),
        listen=entries[key.member_id].address,
        peers=peers,
    )
    chain = Chain(genesis, GROUP, store.chain(GROUP), lambda: Roster.of(genesis))
    chain.fits = lambda block: True  # type: ignore[method-assign]
    exchange = Exchange(network, key.member_id, committee, Path(spec["dir"]))
    idle = Idle(chain, key.member_id, genesis, exchange, spec)
    driver = Driver(
        replica=Replica(committee, key.member_id, genesis.domain(GROUP), decided_at=chain.get),
        app=idle,
        domain=genesis.domain(GROUP),
        wal=store.wal(GROUP),
        guard=guard,
        network=network,
        me=key.member_id,
        members=committee.members,
        on_fault=_fail,
        on_behind=lambda peer, height: None,
        on_vote=lambda kind: None,
    )
    async with trio.open_nursery() as nursery:
        network.handlers = Desk(driver, exchange)
        idle.set_deadline = driver.set_deadline
        await nursery.start(network.run)
        await network.wait_connected(peers, CONNECT_S_MAX)
        nursery.start_soon(lambda: driver.run(idle.started(), resume=True))
        await idle.done.wait()
        figures = {
            "decision_ms": idle.decision_ms,
            "dead_ms": idle.dead_ms,
            "floor_ms": exchange.floor_ms,
            "fsync_ms": exchange.fsync_ms,
            "round_changes": idle.round_changes,
        }
        line = json.dumps(figures).encode() + b"\n"
        await trio.SocketStream(trio.socket.from_stdlib_socket(events)).send_all(line)
        await trio.sleep_forever()


def _fail(fault: ct.Fault) -> None:
    raise PeerFault(fault.reason, "honest members only: a bug")
