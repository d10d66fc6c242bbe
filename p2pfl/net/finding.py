"""How members find each other: who is told which signed record, what of it is believed, and the own record.

    own addresses --sign--> record --direct, and by gossip--> members --in batches--> who has not heard it

A record moves a member for everybody who hears of it from anybody. Knows members by their peer ids; where to
call them is in `book`, calling is in `dialer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

import trio

from consensus.types import MemberId
from p2pfl.errors import PeerFault, UserError
from p2pfl.net import wire
from p2pfl.net.book import Book, Record, opened, sealed
from p2pfl.net.dht import Dht
from p2pfl.net.identity import peer_id_of
from p2pfl.net.lan import Lan
from p2pfl.net.options import NetOptions
from p2pfl.net.own import own_addresses
from p2pfl.net.peer import Peer
from p2pfl.net.peer_records import ADDRESSES_MAX, RECORDS_MAX, PeerRecords
from p2pfl.net.relay import Relay
from p2pfl.net.sockets import Sockets
from p2pfl.telemetry import logger

log = logger("net")

# News of others waits so long, so that it goes in one message, and only to whom nobody else has told it.
TELL_MIN_S, TELL_MAX_S = 0.5, 1.5
# Interfaces come and go: a laptop changes its network, a router gives a new address.
LOOK_S = 5.0
# By gossip for those who only listen, and came after the last time.
ANNOUNCE_S = 300.0


class Finding:
    """The records of one node. known: peers by peer id. fault: count this against the peer."""

    def __init__(
        self,
        *,
        peer_key: bytes,
        listen: str,
        options: NetOptions,
        sockets: Sockets,
        path: Path | None,
        known: Mapping[str, Peer],
        fault: Callable[[Peer, PeerFault], None],
        announce: Callable[[PeerRecords], None],
        chance: Random,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._peer_key = peer_key
        self._peer_id = peer_id_of(peer_key)
        self._listen = listen
        self._options = options
        self._known = known
        self._fault = fault
        self._announce = announce
        self._chance = chance
        self._clock_ms = clock_ms
        self._news = trio.Event()
        self._told: dict[MemberId, dict[str, int]] = {}  # By member: the number of each record that it has.
        self.book = Book(path)
        self.relay = Relay(options.relay, sockets, lambda: tuple(known), self.book.addresses, self.refresh)
        sockets.service(self.relay.run)
        if options.dht:
            sockets.service(Dht(sockets, lambda: tuple(known), self.book.addresses, self._on_dht).run)
        for address in options.bootstrap:
            self.book.hint(address.peer_id, "bootstrap", [address.address])

    async def run(self) -> None:
        """Until cancelled."""
        self.refresh()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            nursery.start_soon(self._tell)
            nursery.start_soon(self._remind)
            if self._options.mdns:
                nursery.start_soon(Lan(self._peer_id, lambda: self.own.addresses, self._on_lan).run)

    # -- the own record ----------------------------------------------------

    @property
    def own(self) -> Record:
        """The own record; there is one from the start of `run` on."""
        record = self.book.record(self._peer_id)
        assert record is not None
        return record

    def refresh(self) -> None:
        """Sign the own addresses again if they have changed, and tell everybody."""
        direct = own_addresses(self._listen, self._options.announce)
        # Where anybody may come in goes before what needs another member.
        through = self.relay.own
        addresses = (*direct[: ADDRESSES_MAX - len(through)], *through)
        before = self.book.record(self._peer_id)
        # A clock that was set back, or a folder from a backup, must not make us silent.
        seq = max(self._clock_ms(), before.seq + 1 if before is not None else 0)
        record = sealed(self._peer_key, addresses, seq)
        # Compared when it is sealed: long addresses do not all have room.
        if before is not None and set(before.addresses) == set(record.addresses):
            return
        self.book.learn(record)
        log.info("own addresses", addresses=" ".join(record.addresses), number=seq)
        self._announce(PeerRecords((record.envelope,)))
        for peer in self._known.values():
            if peer.link.up:
                self._send(peer, [record])
        self._news.set()

    async def _look(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            self.refresh()

    async def _remind(self) -> None:
        while True:
            await trio.sleep(ANNOUNCE_S)
            self._announce(PeerRecords((self.own.envelope,)))

    # -- records of others -------------------------------------------------

    def met(self, peer: Peer) -> None:
        """The stream of messages to this member has come up: nothing is known of what it knows."""
        self._told[peer.member] = {}
        self._send(peer, [self.own])
        self._news.set()

    def received(self, peer: Peer, message: PeerRecords) -> None:
        """Records that this member sent, on its own stream: what is wrong with them is its fault."""
        for envelope in message.records:
            try:
                self._take(peer, envelope)
            except PeerFault as fault:
                self._fault(peer, fault)

    def published(self, peer: Peer, message: PeerRecords) -> None:
        """The same by gossip. Anybody can say again what a member said long ago: nothing of it is a fault."""
        for envelope in message.records:
            if self.book.holds(envelope) is not None:
                continue
            if not peer.buckets.take(wire.BY_KIND[PeerRecords].tag):
                return
            with suppress(PeerFault):
                self._take(peer, envelope)

    def _take(self, sender: Peer, envelope: bytes) -> None:
        told = self._told.setdefault(sender.member, {})
        record = self.book.holds(envelope)
        if record is not None:
            told[record.peer_id] = record.seq
            return
        record = opened(envelope)
        subject = self._known.get(record.peer_id)
        if subject is None and record.peer_id != self._peer_id:
            raise PeerFault("foreign_record", record.peer_id)
        told[record.peer_id] = max(record.seq, told.get(record.peer_id, 0))
        known = set(self.book.addresses(record.peer_id))
        try:
            self.book.learn(record)
        except PeerFault:
            if subject is sender:
                raise  # Its own number never falls; of others it may not have heard yet.
            told[record.peer_id] = min(record.seq, told[record.peer_id])
            self._news.set()  # So it is told.
            return
        if subject is None:
            self.refresh()  # Somebody remembers a later word of ours than we do.
            return
        if not set(record.addresses) <= known:
            log.info("a member has moved", peer=subject.member, addresses=" ".join(record.addresses))
        subject.look_again_if_lost()
        self._news.set()

    def hint(self, peer_id: str, source: str, addresses: Iterable[str]) -> None:
        """Somebody else says where a peer is: the genesis, the LAN, the DHT."""
        if self.book.hint(peer_id, source, addresses) and (peer := self._known.get(peer_id)) is not None:
            peer.look_again_if_lost()

    def _on_dht(self, peer_id: str, addresses: list[str]) -> None:
        self.hint(peer_id, "dht", addresses)

    def _on_lan(self, peer_id: str, addresses: list[str]) -> None:
        if peer_id in self._known:  # Of others nothing is remembered: a LAN may have many.
            self.hint(peer_id, "lan", addresses)

    async def _tell(self) -> None:
        """Tell every connected member what it has not heard, and keep what is new."""
        while True:
            await self._news.wait()
            await trio.sleep(self._chance.uniform(TELL_MIN_S, TELL_MAX_S))
            self._news = trio.Event()
            records = [one for one in self.book.records() if self._is_member(one.peer_id)]
            for peer in list(self._known.values()):
                if peer.link.up:
                    told = self._told.setdefault(peer.member, {})
                    self._send(peer, [one for one in records if one.seq > told.get(one.peer_id, 0)])
            if self.book.dirty:
                try:
                    await trio.to_thread.run_sync(self.book.save)
                except UserError as error:
                    log.warning("the book of addresses cannot be written", why=str(error))

    def _is_member(self, peer_id: str) -> bool:
        return peer_id == self._peer_id or peer_id in self._known

    def _send(self, peer: Peer, records: list[Record]) -> None:
        told = self._told.setdefault(peer.member, {})
        told.update((record.peer_id, record.seq) for record in records)
        envelopes = [record.envelope for record in records]
        for start in range(0, len(envelopes), RECORDS_MAX):
            peer.link.send(wire.pack(PeerRecords(tuple(envelopes[start : start + RECORDS_MAX]))))
