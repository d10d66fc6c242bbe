"""Calling: a connection to every peer that is to have one, again and again, and who of them has gone silent.

The lower of two ids calls at once and keeps the stream of messages open, the other waits for its call first.
Knows peers and sockets; where they are is in `book`, what is said on a stream in `host`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from random import Random

import trio

from consensus.types import MemberId
from p2pfl.errors import PeerFault
from p2pfl.net.book import Book
from p2pfl.net.interface import Unreachable
from p2pfl.net.peer import Peer
from p2pfl.net.relay import CIRCUIT, Relay
from p2pfl.net.sockets import Sockets
from p2pfl.net.stream import FROZEN_S, StreamBroken
from p2pfl.telemetry import logger

log = logger("net")

# The lower of two ids calls at once; the other one waits so long for the call before it makes its own.
GRACE_S = 2.0
# A call that failed is repeated for ever, at most this long after the last one.
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.1, 5.0
# Who says that it has moved is called there at once, so often: what it says may be the address of a stranger,
# whom it would have called for ever. What others say of it (LAN, DHT) is called in its turn.
AFRESH_S = 60.0
OWN_WORD = ("bootstrap", "genesis")
# That many addresses of one peer are remembered as tried.
TRIED_MAX = 64
# A connection on which no messages flow after so long is of no use.
SILENT_CONNECTION_S = 10.0
# A handshake takes four round trips: enough for half a second each.
SHARE_S = 2.0
WATCH_S = 1.0


class Dialer:
    """Keeps the connections of one member.

    book: where to call. relay: calls through others. talk: open the stream of messages and use it until it
    breaks. fault: count this against the peer.
    """

    def __init__(
        self,
        me: MemberId,
        sockets: Sockets,
        peers: Mapping[MemberId, Peer],
        book: Book,
        relay: Relay,
        *,
        neighbours: Iterable[MemberId],
        talk: Callable[[Peer], Awaitable[None]],
        fault: Callable[[Peer, PeerFault], None],
        chance: Random,
    ) -> None:
        self._me = me
        self._sockets = sockets
        self._peers = peers
        self._book = book
        self._relay = relay
        self._neighbours = set(neighbours)
        self._talk = talk
        self._fault = fault
        self._chance = chance
        self._resumed_s = 0.0

    def stay_near(self, members: Iterable[MemberId]) -> None:
        """Call these from now on; the others may still call us."""
        self._neighbours = set(members) & set(self._peers)
        for peer in self._peers.values():
            peer.look_again()

    async def keep(self, peer: Peer) -> None:
        """Stay connected to a peer, and, as the lower of the two ids, keep the stream of messages open."""
        opener = self._me < peer.member
        failures, last_s, afresh_s = 0, trio.current_time(), -math.inf
        tried = set(self._book.addresses(peer.address.peer_id, OWN_WORD))
        while True:
            if peer.parted:
                await peer.changed.wait()  # If it is connected, then as an observer.
                last_s = trio.current_time()
                continue
            ups = peer.link.ups
            said = set(self._book.addresses(peer.address.peer_id, OWN_WORD))
            if not said <= tried:
                tried = said | tried if len(tried) < TRIED_MAX else said
                if trio.current_time() - afresh_s >= AFRESH_S:
                    failures, afresh_s = 0, trio.current_time()
            if not self._sockets.is_connected(peer.address.peer_id):
                if peer.member not in self._neighbours:
                    await peer.changed.wait()
                    last_s = trio.current_time()
                elif not await self._called(peer, failures, last_s, at_once=opener):
                    failures, last_s = failures + 1, trio.current_time()
                continue
            if opener:
                try:
                    await self._talk(peer)
                except StreamBroken as error:
                    log.debug("no stream of messages", peer=peer.member, why=str(error))
            else:
                await peer.changed.wait()
            last_s = trio.current_time()
            # Whoever takes our call and says nothing may have barred us: call it less and less often.
            failures = 0 if peer.link.ups > ups else failures + 1
            if opener:
                await trio.sleep(self._backoff_s(failures))

    async def _called(self, peer: Peer, failures: int, last_s: float, *, at_once: bool) -> bool:
        # From the last call on, not from now: whoever wakes us, and be it with news of an address, must make
        # us call neither more often nor never.
        wait_s = self._backoff_s(failures) if failures else 0.0 if at_once else GRACE_S
        with trio.move_on_at(max(last_s + wait_s, peer.banned_until_s)):
            await peer.changed.wait()
            return True
        addresses = self._book.addresses(peer.address.peer_id)
        # Of several, one that swallows every packet must not keep the others waiting; but a slow one has its
        # whole time every second time.
        share_s = SHARE_S if len(addresses) > 1 and failures % 2 == 0 else math.inf
        for address in addresses:
            try:
                call = self._relay.connect if CIRCUIT in address else self._sockets.connect
                with trio.move_on_after(share_s) as scope:
                    await call(peer.address.peer_id, address)
                if scope.cancelled_caught:
                    raise Unreachable(f"{address}: no answer within {share_s:g} s")
            except Unreachable as error:
                log.debug("a peer cannot be reached", peer=peer.member, why=str(error), tries=failures + 1)
                if self._sockets.is_connected(peer.address.peer_id):
                    return True  # It has called us meanwhile.
            else:
                self._book.worked(peer.address.peer_id, address)
                return True
        return False

    def _backoff_s(self, failures: int) -> float:
        # Chance keeps two peers that call each other at the same time from doing so again.
        return min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(failures, 10)) * self._chance.uniform(0.5, 1.0)

    async def watch(self) -> None:
        """Notice who is frozen: connected for the kernel, silent for us."""
        while True:
            due_s = trio.current_time() + WATCH_S
            await trio.sleep_until(due_s)
            now = trio.current_time()
            if now - due_s > WATCH_S:
                self._resumed_s = now  # We were frozen ourselves: what they said is still to be read.
            for peer in list(self._peers.values()):
                if peer.parted or not self._sockets.is_connected(peer.address.peer_id):
                    continue
                up = peer.link.up
                heard_s = peer.link.last_heard_s if up else peer.since_s
                silent_s = now - max(heard_s, self._resumed_s)
                if silent_s > (FROZEN_S if up else SILENT_CONNECTION_S):
                    self._fault(peer, PeerFault("frozen", f"{silent_s:.1f} s"))
                    peer.since_s = now
                    self._sockets.drop(peer.address.peer_id)
