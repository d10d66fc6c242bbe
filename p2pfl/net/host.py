"""The network of one member, over libp2p: messages, requests, blobs and announcements, members by their ids.

Keeps a connection to every member for ever, notices who is frozen, remembers who broke which rule, and bars
who does so again and again. How libp2p is tamed is in `sockets`, who calls whom in `dialer`, how messages are
numbered in `stream`.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import cast

import trio

from consensus.types import ZERO_DIGEST, Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net import wire
from p2pfl.net.bans import Bans
from p2pfl.net.conduct import Conduct
from p2pfl.net.dialer import Dialer
from p2pfl.net.exchange import BLOBS, REQUESTS, Exchange
from p2pfl.net.finding import Finding
from p2pfl.net.gossip import Gossip
from p2pfl.net.interface import Fetched, Handlers, PeerAddress, Sink, Unreachable
from p2pfl.net.observers import Observers
from p2pfl.net.options import DEFAULTS, NetOptions
from p2pfl.net.outside import Outside
from p2pfl.net.peer import Peer
from p2pfl.net.peer_records import PeerRecords
from p2pfl.net.sockets import Sockets
from p2pfl.net.stream import Link, Stream, StreamBroken, one_error
from p2pfl.telemetry import logger

log = logger("net")

MESSAGES = "/mps/messages/1"
_NAMES = {MESSAGES: "messages", REQUESTS: "requests", BLOBS: "blobs"}
_GOSSIP = "/meshsub/"


class Network:
    """See `interface.NetworkLike`. `handlers` may be set until `run` is started."""

    def __init__(
        self,
        *,
        me: MemberId,
        peer_key: bytes,
        listen: str,
        peers: Mapping[MemberId, PeerAddress],
        handlers: Handlers | None = None,
        network_id: Digest = ZERO_DIGEST,
        neighbours: Iterable[MemberId] | None = None,
        gossip: bool = True,
        options: NetOptions = DEFAULTS,
        book_path: Path | None = None,
        bans_path: Path | None = None,
    ) -> None:
        """A network that does not run yet.

        peer_key: ed25519 seed, 32 bytes. listen: multiaddr. network_id: names the topic of announcements.
        neighbours: whom to call (None: everybody of `peers`); the others may still call us.
        options: the operator's. book_path, bans_path: where signed peer records and bans are kept; None:
        nowhere.
        """
        self.me = me
        self.options = options
        self.handlers = handlers
        self.connected: set[MemberId] = set()
        self.on_connect: list[Callable[[MemberId], None]] = []
        self.on_announce: list[Callable[[MemberId, wire.Tip], None]] = []
        self._bans = Bans(bans_path)
        conduct = Conduct(self._bans, lambda peer_id: self._sockets.drop(peer_id))  # noqa: PLW0108 - none yet.
        self.faults, self.strangers = conduct.faults, conduct.strangers
        self._fault, self._stranger = conduct.fault, conduct.stranger
        self._session = os.urandom(16)
        self._by_peer_id: dict[str, Peer] = {}
        self._chance = Random(self._session)
        self._sockets = Sockets(
            peer_key=peer_key,
            listen=listen,
            admits=self._admits,
            on_change=self._connection_changed,
            on_refused=self._stranger,
            on_bug=self._found_bug,
            announce=peers[me].address if me in peers else None,
            options=options,
        )
        self._finding = self._new_finding(peer_key, listen, book_path)
        self._peers = {member: self._new_peer(member, peers[member]) for member in peers if member != me}
        self._by_peer_id.update({peer.address.peer_id: peer for peer in self._peers.values()})
        self._changed = trio.Event()
        self._bug: Exception | None = None
        self._bug_found = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._dialer = self._new_dialer(self._peers if neighbours is None else neighbours)
        self._exchange = Exchange(self._peers, self.connected, self._sockets.open, self._fault)
        self.observers = Observers(options, self._sockets, partial(self._exchange.answered, None), self._bans)
        offended, record = self.observers.offended, self._finding.book.record
        self.outside = Outside(self._by_peer_id, self._fault, offended, self._sockets.drop, record)
        self._sockets.fences = self.outside
        topic = f"/mps/{network_id.hex()[:16]}/tips"
        self._gossip = Gossip(topic, self._announced, self._by_peer_id.__contains__) if gossip else None

    @property
    def peer_id(self) -> str:
        """Our own peer id."""
        return self._sockets.peer_id

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, call, answer, until cancelled. Raises UserError when the address cannot be had."""
        assert self.handlers is not None, "a network without handlers"
        self._exchange.handlers = self.handlers
        self._sockets.handle(MESSAGES, self._on_messages)
        for protocol in (REQUESTS, BLOBS):
            self._sockets.handle(protocol, partial(self._on_asked, protocol))
        if self._gossip is not None:
            self._sockets.service(self._gossip.run)
        with one_error():
            async with self._sockets.running(), trio.open_nursery() as nursery:
                self._nursery = nursery
                for peer in self._peers.values():
                    self._take_up(peer, nursery)
                nursery.start_soon(self._bans.run)
                nursery.start_soon(self._dialer.watch)
                nursery.start_soon(self.observers.watch)
                nursery.start_soon(self._finding.run)
                task_status.started()
                await self._bug_found.wait()
                raise self._bug or AssertionError

    # -- who is who --------------------------------------------------------

    def meet(self, peers: Mapping[MemberId, PeerAddress]) -> None:
        """These may speak from now on. A known one with another address has moved; its peer id stays."""
        for member, address in peers.items():
            if member == self.me:
                continue
            if address.peer_id not in self._by_peer_id and self.observers.forget(address.peer_id):
                self._sockets.drop(address.peer_id)  # It calls again, as a member.
            if member in self._peers:
                self._peers[member].address = address
                self._peers[member].parted = False
                self._by_peer_id[address.peer_id] = self._peers[member]
                self._finding.hint(address.peer_id, "genesis", [address.address])
                continue
            peer = self._peers[member] = self._new_peer(member, address)
            self._by_peer_id[address.peer_id] = peer
            if self._nursery is not None:
                self._take_up(peer, self._nursery)

    def _take_up(self, peer: Peer, nursery: trio.Nursery) -> None:
        peer.standing = self._bans.standing(peer.address.peer_id)
        nursery.start_soon(self._hear, peer)
        nursery.start_soon(self._dialer.keep, peer)

    def part(self, members: Iterable[MemberId]) -> None:
        """These may speak no more; from now on they are strangers, observers at most."""
        for peer in (self._peers[member] for member in members if member in self._peers):
            if not peer.parted:
                peer.parted = True
                self._by_peer_id.pop(peer.address.peer_id, None)
                self._sockets.drop(peer.address.peer_id)
                self.connected.discard(peer.member)
                peer.connection_changed()
                self._tell_change()

    def stay_near(self, members: Iterable[MemberId]) -> None:
        """Call these from now on; the others may still call us."""
        self._dialer.stay_near(members)

    # -- messages ----------------------------------------------------------

    def send(self, to: MemberId, message: wire.Message) -> None:
        """To the outbox: in order, acknowledged, sent again after a reconnect. Never blocks."""
        self.broadcast((to,), message)

    def broadcast(self, to: Iterable[MemberId], message: wire.Message) -> None:
        """The same to each of them, packed once; to myself: nothing."""
        packed = wire.pack(message)
        for member in to:
            if member != self.me and not self._peers[member].parted:
                self._peers[member].link.send(packed)

    @property
    def dropped_messages(self) -> int:
        """Messages that full outboxes gave up."""
        return sum(peer.link.outbox.dropped for peer in self._peers.values())

    async def _hear(self, peer: Peer) -> None:
        assert self.handlers is not None
        while True:
            packed = await peer.link.inbox.next()
            if peer.parted:
                peer.link.done()  # It came before its connection was closed.
                continue
            try:
                message = cast(wire.Message, wire.unpack(packed))
                if isinstance(message, PeerRecords):
                    self._finding.received(peer, message)
                else:
                    await self.handlers.received(peer.member, message)
                if isinstance(message, wire.Have):
                    self._exchange.announced(peer.member, message.blob_id)
            except PeerFault as fault:
                self._fault(peer, fault)
            peer.link.done()
            if peer.link.inbox:
                await trio.lowlevel.checkpoint()  # A full inbox must not keep the other tasks waiting.

    async def _on_messages(self, peer_id: str, stream: Stream) -> None:
        peer = self._speaker(peer_id)
        if peer is None:
            return
        if peer.member > self.me:
            self._fault(peer, PeerFault("wrong_opener", "the lower of two ids opens the stream"))
        else:
            await self._talk(peer, stream)

    def _speaker(self, peer_id: str) -> Peer | None:
        """The member that this peer is, if it may speak; libp2p takes a moment to drop a connection."""
        peer = self._by_peer_id.get(peer_id)
        if peer is None:
            self._stranger(peer_id)
        return None if peer is None or peer.is_banned() else peer

    async def _open_talk(self, peer: Peer) -> None:
        await self._talk(peer, await self._sockets.open(peer.address.peer_id, MESSAGES))

    async def _talk(self, peer: Peer, stream: Stream) -> None:
        try:
            await peer.link.serve(stream)
        except PeerFault as fault:
            self._fault(peer, fault)
        except (StreamBroken, trio.TooSlowError) as error:
            log.debug("a stream of messages ended", peer=peer.member, why=str(error))
        finally:
            if not peer.link.up and peer.member in self.connected:
                self.connected.discard(peer.member)
                self._tell_change()

    def _link_up(self, member: MemberId) -> None:
        self.connected.add(member)
        self._tell_change()
        self._finding.met(self._peers[member])
        for callback in self.on_connect:
            callback(member)

    # -- connections -------------------------------------------------------

    def _connection_changed(self, peer_id: str, up: bool) -> None:
        peer = self._by_peer_id.get(peer_id)
        if peer is None:
            if not up:
                self.observers.forget(peer_id)
                self.outside.member_at(peer_id, "")
            return
        self.outside.member_at(peer_id, self._sockets.remote_host(peer_id) if up else "")
        peer.connection_changed()
        log.debug("connected" if up else "disconnected", peer=peer.member)

    def _admits(self, peer_id: str) -> bool:
        peer = self._by_peer_id.get(peer_id)
        if peer is None:
            return self.observers.admits(peer_id)
        return not peer.is_banned()

    # -- requests and blobs ------------------------------------------------

    async def request(self, to: MemberId, request: wire.Request, *, timeout_s: float) -> wire.Response:
        """Ask and wait for the answer. Raises Unreachable, or PeerFault("refused", reason)."""
        return await self._exchange.request(to, request, timeout_s=timeout_s)

    async def fetch_blob(
        self,
        blob_id: Digest,
        length: int,
        holders: Callable[[], Sequence[MemberId]],
        *,
        timeout_s: float,
        into: Sink | None = None,
    ) -> Fetched:
        """The blob, every piece verified, from whoever holds it. Raises PeerFault("blob_missing").

        holders: who may hold it, best first; asked again and again while pieces are missing.
        """
        return await self._exchange.fetch_blob(blob_id, length, holders, timeout_s=timeout_s, into=into)

    async def _on_asked(self, protocol: str, peer_id: str, stream: Stream) -> None:
        if peer_id not in self._by_peer_id:
            await self.observers.serve(protocol, peer_id, stream)
        elif (peer := self._speaker(peer_id)) is not None:
            await self._exchange.serve(protocol, peer, stream)

    # -- announcements -----------------------------------------------------

    def announce(self, message: wire.Tip | PeerRecords) -> None:
        """Gossip it to whoever listens; it may be lost."""
        if self._gossip is not None:
            self._gossip.announce(message)

    def _announced(self, author: str, message: wire.Tip | PeerRecords) -> None:
        peer = self._by_peer_id.get(author)
        if peer is None:
            return
        if isinstance(message, PeerRecords):
            self._finding.published(peer, message)
            return
        for callback in self.on_announce:
            with suppress(PeerFault):  # Anybody may say it again, at any time: nobody is to blame.
                callback(peer.member, message)

    # -- what others want to know ------------------------------------------

    async def wait_connected(self, members: Iterable[MemberId], timeout_s: float) -> None:
        """Until all of them are connected. Raises Unreachable that names one who is not."""
        wanted = set(members) - {self.me}
        with trio.move_on_after(timeout_s):
            while not wanted <= self.connected:
                await self._changed.wait()
            return
        missing = sorted(wanted - self.connected)
        raise Unreachable(f"{len(missing)} members are not connected, 0x{missing[0].hex()} among them")

    @property
    def sent_bytes(self) -> dict[str, int]:
        """Bytes written to sockets: messages, requests, blobs, gossip; other is handshakes and framing."""
        return self._by_name(0)

    @property
    def received_bytes(self) -> dict[str, int]:
        """Bytes read from sockets, by the same names."""
        return self._by_name(1)

    def _by_name(self, place: int) -> dict[str, int]:
        told = dict.fromkeys((*_NAMES.values(), "gossip"), 0)
        for protocol, size in self._sockets.by_protocol()[place].items():
            name = "gossip" if str(protocol).startswith(_GOSSIP) else _NAMES.get(str(protocol))
            if name is not None:
                told[name] += size
        return {**told, "other": max(0, self._sockets.totals()[place] - sum(told.values()))}

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _new_peer(self, member: MemberId, address: PeerAddress) -> Peer:
        link = Link(
            self._session,
            on_up=lambda: self._link_up(member),
            on_fault=lambda fault: self._fault(self._peers[member], fault),
        )
        self._finding.hint(address.peer_id, "genesis", [address.address])
        return Peer(member, address, link)

    def _new_finding(self, peer_key: bytes, listen: str, path: Path | None) -> Finding:
        return Finding(
            peer_key=peer_key,
            listen=listen,
            options=self.options,
            sockets=self._sockets,
            path=path,
            known=self._by_peer_id,
            fault=self._fault,
            announce=self.announce,
            chance=self._chance,
        )

    def _new_dialer(self, neighbours: Iterable[MemberId]) -> Dialer:
        return Dialer(
            self.me,
            self._sockets,
            self._peers,
            self._finding.book,
            self._finding.relay,
            neighbours=set(neighbours) & set(self._peers),
            talk=self._open_talk,
            fault=self._fault,
            chance=self._chance,
        )

    def _found_bug(self, error: Exception) -> None:
        """An exception of ours in a handler stops the network, as it would anywhere else."""
        log.error("a bug in a handler", error="".join(traceback.format_exception(error))[-2000:])
        self._bug = self._bug or error
        self._bug_found.set()
