"""Strangers that may look: auditors and joiners. They read blocks and public blobs, and hear announcements.

They are answered only as far as no member has to wait for it, so all that they cost has limits: how many,
how many from one host, streams, requests a second, bytes a second in both directions. Knows peer ids; what is
answered comes from the exchange.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from p2pfl.errors import PeerFault
from p2pfl.net import ask, wire
from p2pfl.net.bans import OBSERVER, Bans
from p2pfl.net.door import customer_of
from p2pfl.net.exchange import Unfit
from p2pfl.net.options import NetOptions
from p2pfl.net.peer import Standing
from p2pfl.net.queues import Bucket
from p2pfl.net.stream import Stream, StreamBroken
from p2pfl.telemetry import counters, logger

log = logger("net")

# Of all places for observers, one host gets half: whoever makes itself many ids leaves room for others.
PLACES_PER_HOST_SHARE = 2
# Streams on which one observer may ask at the same time: two of requests, and two for a blob from each side.
ASKED_STREAMS_MAX = 4
# All streams of one observer, libp2p's own included: ping, identify, gossip both ways, and those above.
STREAMS_MAX = 16
# An observer that has asked nothing for so long gives its place to another that wants it.
QUIET_S = 60.0
# Requests of one observer, a second and at once. Status: a look at a few chains each second or two. Blocks:
# their bytes are the limit. Pieces: the smallest has 64 KiB, so 64 of them a second are 4 MiB.
RATES = {
    wire.GetStatus: (4.0, 32),
    wire.GetBlocks: (4.0, 32),
    wire.GetPiece: (64.0, 256),
    wire.GetHeld: (16.0, 64),
}
# What an observer may send: requests are 40 bytes, gossip and window updates little more.
INBOUND_BYTES_S, INBOUND_BURST = 64 * 1024, 1024 * 1024
# What we send it beyond answers (announcements, identify, pings), a second; more means that it asks for it.
CHATTER_BYTES_S, CHATTER_BURST = 32 * 1024, 1024 * 1024
# Of the bytes a second of all observers, what one of them may have.
SHARE = 2
# How many misbehaved ids are remembered; a new id costs nothing, but a place is still one of few.
BARRED_MAX = 1000
# Hashing is paid for as if it were sent, 64 bytes for one. At 512 KiB a second for all, they have us hash
# 32 MiB a second at most, a tenth of a processor; the first piece of a blob of 100 MB costs 3 s.
HASHED_BYTES_PER_BYTE = 64
# What was answered to one observer and it has not taken: while it is more, no further answer is made for it,
# so it holds as much and one answer at the worst (blocks of 4 MiB). One piece is read while the next is made.
UNTAKEN_BYTES = 2 * 1024 * 1024
# The same of all observers: whoever has most of it gives way. At the rate of all it is 32 s of answers.
UNTAKEN_ALL_BYTES = 16 * 1024 * 1024
WATCH_S = 1.0

Answer = Callable[[str, bytes, Callable[[int], None]], Awaitable[Sequence[bytes]]]


class Turns:
    """Who may write when, at so many bytes a second: first come, first served."""

    def __init__(self, bytes_s: float) -> None:
        self._bytes_s = bytes_s
        self._free_s = 0.0
        self._queue = trio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until what was written before is paid for; giving up costs the others nothing."""
        async with self._queue:
            await trio.sleep_until(self._free_s)
            yield

    def spend(self, size: float) -> None:
        """So many bytes go out, or cost as much."""
        self._free_s = max(trio.current_time(), self._free_s) + size / self._bytes_s


class Spent:
    """Bytes that a socket has carried, against so many a second."""

    def __init__(self, bytes_s: float, burst: int) -> None:
        self._bytes_s = bytes_s
        self._burst = float(burst)
        self._left = self._burst

    def add(self, size: int, passed_s: float) -> bool:
        """Whether that is still within the limit."""
        self._left = min(self._burst, self._left + passed_s * self._bytes_s) - size
        return self._left >= 0


@dataclass
class Observer:
    """One stranger that was let in. host: where its connection comes from."""

    peer_id: str
    host: str
    turns: Turns
    asked_s: float
    asking: int = 0
    answered: int = 0
    standing: Standing = field(default_factory=Standing)
    # Of each stream on which it asks: how many bytes were answered that it has not taken.
    untaken: dict[trio.CancelScope, int] = field(default_factory=dict[trio.CancelScope, int])
    taken: trio.Event = field(default_factory=trio.Event)
    buckets: dict[type, Bucket] = field(
        default_factory=lambda: {kind: Bucket(*rate) for kind, rate in RATES.items()}
    )
    inbound: Spent = field(default_factory=lambda: Spent(INBOUND_BYTES_S, INBOUND_BURST))
    chatter: Spent = field(default_factory=lambda: Spent(CHATTER_BYTES_S, CHATTER_BURST))
    seen: tuple[int, int] = (0, 0)  # Sent and received on its connection when last looked.
    most_chatter: int = 0  # The most that was ever sent on it beyond answers.

    def end(self) -> None:
        """It is gone, and nobody waits for what it asked: libp2p goes on with its streams."""
        for scope in self.untaken:
            scope.cancel()

    @property
    def untaken_bytes(self) -> int:
        """What it was answered and has not taken."""
        return sum(self.untaken.values())

    def took(self) -> None:
        """An answer was taken, or its stream has ended: who waits for that looks again."""
        self.taken.set()
        self.taken = trio.Event()


class Observers:
    """All strangers of one node.

    sockets: `sockets.Sockets`. answer: from a protocol and a packed request to what is to be written; its
    last argument is told how many bytes are hashed for it.
    """

    def __init__(self, options: NetOptions, sockets: Any, answer: Answer, bans: Bans) -> None:
        self.faults: dict[str, int] = Counter()
        self._places = options.observers
        self._bytes_s = options.observers_kib_s * 1024
        self._all_turns = Turns(self._bytes_s)
        self._sockets = sockets
        self._answer = answer
        self._bans = bans
        self._here: dict[str, Observer] = {}
        self._barred: OrderedDict[str, Standing] = OrderedDict()

    def __len__(self) -> int:
        return len(self._here)

    # -- who is let in -----------------------------------------------------

    def admits(self, peer_id: str) -> bool:
        """Whether this stranger, who is connected by now, may stay; it has a place from then on."""
        if peer_id in self._here:
            return True
        standing = self._barred.get(peer_id) or self._bans.standing(peer_id)
        if not self._places or standing.is_banned():
            return False
        host = customer_of(self._sockets.remote_host(peer_id))
        neighbours = [each for each in self._here.values() if each.host == host]
        if len(neighbours) >= max(1, self._places // PLACES_PER_HOST_SHARE):
            rivals = neighbours  # Whoever has many ids takes the places of its own.
        elif len(self._here) >= self._places:
            rivals = list(self._here.values())
        else:
            rivals = []
        if rivals:
            quiet = min(rivals, key=lambda each: each.asked_s)
            if trio.current_time() - quiet.asked_s < QUIET_S:
                return False
            self._leave(quiet)
        one = Observer(peer_id, host, Turns(self._bytes_s / SHARE), trio.current_time())
        one.standing = standing
        self._here[peer_id] = one
        return True

    def forget(self, peer_id: str) -> bool:
        """It is a member now, or gone. Whether it was here."""
        one = self._here.pop(peer_id, None)
        if one is not None:
            one.end()
        return one is not None

    def offended(self, peer_id: str, fault: PeerFault) -> bool:
        """It broke a rule of libp2p's. False when no such observer is here."""
        one = self._here.get(peer_id)
        if one is not None:
            self._fault(one, fault)
        return one is not None

    def _leave(self, one: Observer) -> None:
        self.forget(one.peer_id)
        self._sockets.drop(one.peer_id)

    # -- what it asks ------------------------------------------------------

    async def serve(self, protocol: str, peer_id: str, stream: Stream) -> None:
        """Answer a stranger on a stream that it opened."""
        one = self._here.get(peer_id)
        if one is None:
            return
        if one.asking >= ASKED_STREAMS_MAX:
            self._fault(one, PeerFault("too_many_streams", protocol))
            return
        one.asking += 1
        scope = trio.CancelScope()
        one.untaken[scope] = 0

        def taken() -> None:
            one.untaken[scope] = 0
            one.took()

        try:
            with scope:
                await ask.serve(stream, partial(self._answered, one, scope, protocol), taken)
        except PeerFault as fault:
            self._fault(one, fault)
        except StreamBroken:
            pass  # It has asked all it wanted.
        finally:
            one.asking -= 1
            del one.untaken[scope]
            one.took()

    async def _answered(
        self, one: Observer, scope: trio.CancelScope, protocol: str, packed: bytes
    ) -> Sequence[bytes]:
        request = wire.unpack(packed)
        bucket = one.buckets.get(type(request))
        if bucket is None:
            raise PeerFault("bad_request", f"{type(request).__name__} on {protocol}")
        if not bucket.take():
            self._fault(one, PeerFault("flood", type(request).__name__))
            return (ask.framed(wire.pack(wire.Refused("busy"))),)
        one.asked_s = trio.current_time()
        # First the turn, then the answer: what waits has a few bytes.
        async with one.turns.turn():
            while one.untaken_bytes > UNTAKEN_BYTES:
                await one.taken.wait()
            async with self._all_turns.turn():
                self._make_room()
                try:
                    parts = await self._answer(protocol, packed, partial(self._hashed, one))
                except Unfit as fault:
                    self._fault(one, fault)
                    return (ask.framed(wire.pack(wire.Refused(fault.reason))),)
                one.untaken[scope] = size = sum(len(part) for part in parts)
                one.answered += size
                one.turns.spend(size)
                self._all_turns.spend(size)
        counters.count("observer_bytes", size)
        return parts

    def _make_room(self) -> None:
        """Whoever takes nothing of what it asks for must not fill the memory, however many they are."""
        while sum(each.untaken_bytes for each in self._here.values()) > UNTAKEN_ALL_BYTES:
            most = max(self._here.values(), key=lambda each: each.untaken_bytes)
            self._fault(most, PeerFault("slow_reader", f"{most.untaken_bytes} bytes are not taken"))
            self._leave(most)

    def _hashed(self, one: Observer, size: int) -> None:
        """A blob whose tree is not at hand is hashed as a whole, and members wait for that."""
        for turns in (one.turns, self._all_turns):
            turns.spend(size / HASHED_BYTES_PER_BYTE)

    # -- how it behaves ----------------------------------------------------

    async def watch(self) -> None:
        """Until cancelled: forget who is gone, drop who sends or draws too much."""
        while True:
            began_s = trio.current_time()
            await trio.sleep(WATCH_S)
            counters.gauge("observers", len(self._here))
            for one in list(self._here.values()):
                self._look_at(one, trio.current_time() - began_s)

    def _look_at(self, one: Observer, passed_s: float) -> None:
        if not self._sockets.is_connected(one.peer_id):
            self.forget(one.peer_id)
            return
        sent, received = self._sockets.traffic(one.peer_id)
        sent_before, received_before = one.seen
        one.seen = sent, received
        if sent < sent_before or received < received_before:
            one.answered = one.most_chatter = 0  # Another connection than last time.
            return
        # An answer counts before it is sent, so only a new maximum is chatter. Framing adds a twentieth.
        chatter = max(one.most_chatter, sent - int(1.05 * one.answered))
        more, one.most_chatter = chatter - one.most_chatter, chatter
        in_time = one.inbound.add(received - received_before, passed_s)
        if not one.chatter.add(more, passed_s) or not in_time:
            self._fault(one, PeerFault("flood", "bytes"))
            log.info("an observer drew or sent too much", peer=one.peer_id)
            self._bar(one, "flood")

    def _fault(self, one: Observer, fault: PeerFault) -> None:
        self.faults[fault.reason] += 1
        counters.count("observer_faults", reason=fault.reason)
        log.debug("an observer's fault", peer=one.peer_id, reason=fault.reason, detail=fault.detail)
        if one.standing.offend(fault):
            counters.count("bans", whom="observer")
            log.info("an observer is barred", peer=one.peer_id, reason=fault.reason)
            self._bar(one, fault.reason)

    def _bar(self, one: Observer, reason: str) -> None:
        if not one.standing.is_banned():
            one.standing.ban()
        self._bans.remember(OBSERVER, one.peer_id, one.standing, reason)
        self._barred[one.peer_id] = one.standing
        while len(self._barred) > BARRED_MAX:
            self._barred.popitem(last=False)
        self._leave(one)
