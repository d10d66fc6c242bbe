"""Requests and blobs between members: asked, answered, fetched.

Streams to ask on are kept for the next question. Knows who may ask what; what is answered comes from the
node's handlers, how pieces are proved from `blobs`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import trio

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net import ask, wire
from p2pfl.net.blobs import Fetch
from p2pfl.net.interface import Fetched, Handlers, Sink, Unreachable
from p2pfl.net.peer import ASKED_STREAMS_MAX, Peer
from p2pfl.net.piece_server import OnHash, PieceServer, for_nothing
from p2pfl.net.stream import FLOOD_PAUSE_S, Stream, StreamBroken

REQUESTS, BLOBS = "/mps/requests/1", "/mps/blobs/1"
_ASKABLE = {REQUESTS: (wire.GetStatus, wire.GetBlocks), BLOBS: (wire.GetPiece, wire.GetHeld)}

# How long a stream may take to open, or to be free: meanwhile nobody else is asked for a small blob.
OPEN_S = 5.0
# Streams to one peer that wait for the next request; they are given up before the peer does (ask.IDLE_S).
IDLE_STREAMS_MAX, IDLE_STREAM_S = 4, ask.IDLE_S / 2


class Unfit(PeerFault):
    """A request in the right form that cannot be answered; the stream goes on."""


OpenStream = Callable[[str, str], Awaitable[Stream]]


class Exchange:
    """The asking and the answering of one member."""

    def __init__(
        self,
        peers: Mapping[MemberId, Peer],
        connected: set[MemberId],
        open_stream: OpenStream,
        on_fault: Callable[[Peer, PeerFault], None],
    ) -> None:
        self.handlers: Handlers | None = None
        self._peers = peers
        self._connected = connected
        self._open_stream = open_stream
        self._on_fault = on_fault
        self._pieces = PieceServer()
        self._fetches: dict[Digest, list[Fetch]] = defaultdict(list)

    # -- asking ------------------------------------------------------------

    async def request(self, to: MemberId, request: wire.Request, *, timeout_s: float) -> wire.Response:
        """Ask and wait for the answer. Raises Unreachable, or PeerFault("refused", reason)."""
        peer = self._reachable(to)
        with trio.move_on_after(timeout_s):
            try:
                async with self._asker(peer, REQUESTS) as asker:
                    await asker.send(request)
                    answer = await asker.receive(silence_s=timeout_s)
            except StreamBroken as error:
                raise Unreachable(str(error)) from error
            except PeerFault as fault:
                self._on_fault(peer, fault)
                raise
            if isinstance(answer, wire.Refused):
                raise PeerFault("refused", answer.reason)
            if not isinstance(answer, (wire.Status, wire.Blocks)):
                fault = PeerFault("bad_answer", f"{type(answer).__name__} to {type(request).__name__}")
                self._on_fault(peer, fault)
                raise fault
            return answer
        raise Unreachable(f"no answer within {timeout_s:g} s")

    def _reachable(self, member: MemberId) -> Peer:
        peer = self._peers.get(member)
        if peer is None or member not in self._connected:
            raise Unreachable("not connected")
        return peer

    @asynccontextmanager
    async def _asker(self, peer: Peer, protocol: str) -> AsyncIterator[ask.Asker]:
        """A stream to ask on: one that waits, or a new one. It waits again unless answers are owed.

        Raises StreamBroken when there is none in time.
        """
        with trio.move_on_after(OPEN_S) as scope:
            await peer.asks.acquire()
        if scope.cancelled_caught:
            raise StreamBroken("too many questions to it are open")
        try:
            async with self._stream_to(peer, protocol) as asker:
                yield asker
        finally:
            peer.asks.release()

    @asynccontextmanager
    async def _stream_to(self, peer: Peer, protocol: str) -> AsyncIterator[ask.Asker]:
        idle = peer.idle[protocol]
        asker = None
        while idle and asker is None:
            since_s, kept = idle.pop()
            if trio.current_time() - since_s < IDLE_STREAM_S:
                asker = kept
            else:
                await kept.stream.reset()
        if asker is None:
            with trio.move_on_after(OPEN_S):
                asker = ask.Asker(await self._open_stream(peer.address.peer_id, protocol))
        if asker is None:
            raise StreamBroken(f"no stream within {OPEN_S:g} s")
        done = False
        try:
            yield asker
            done = asker.owed == 0
        finally:
            if done and idle is peer.idle[protocol] and len(idle) < IDLE_STREAMS_MAX:
                idle.append((trio.current_time(), asker))
            else:
                await asker.stream.reset()

    # -- answering ---------------------------------------------------------

    async def serve(self, protocol: str, peer: Peer, stream: Stream) -> None:
        """Answer a peer on a stream that it opened."""
        if peer.asking >= ASKED_STREAMS_MAX:
            self._on_fault(peer, PeerFault("too_many_streams", protocol))
            return
        peer.asking += 1
        try:
            await ask.serve(stream, lambda packed: self._answer(peer, protocol, packed))
        except PeerFault as fault:
            self._on_fault(peer, fault)
        except StreamBroken:
            pass  # The peer has asked all it wanted.
        finally:
            peer.asking -= 1

    async def _answer(self, peer: Peer, protocol: str, packed: bytes) -> Sequence[bytes]:
        if packed[0] in wire.BY_TAG and not peer.buckets.take(packed[0]):
            self._on_fault(peer, PeerFault("flood", wire.BY_TAG[packed[0]].kind.__name__))
            await trio.sleep(FLOOD_PAUSE_S)  # Whoever floods waits, and we do not work for it.
            return (ask.framed(wire.pack(wire.Refused("busy"))),)
        try:
            return await self.answered(peer.member, protocol, packed)
        except Unfit as fault:
            self._on_fault(peer, fault)
            return (ask.framed(wire.pack(wire.Refused(fault.reason))),)

    async def answered(
        self,
        sender: MemberId | None,
        protocol: str,
        packed: bytes,
        on_hash: OnHash = for_nothing,
    ) -> Sequence[bytes]:
        """What is to be written to a request of a member, or of an observer (None). on_hash: see PieceServer.

        Raises PeerFault for what is no request; Unfit for one that a stream survives.
        """
        assert self.handlers is not None
        request = wire.unpack(packed)
        if not isinstance(request, _ASKABLE[protocol]):
            raise PeerFault("bad_request", f"{type(request).__name__} on {protocol}")
        try:
            if not isinstance(request, (wire.GetPiece, wire.GetHeld)):
                answer = await self.handlers.answer(sender, cast(wire.Request, request))
                return (ask.framed(wire.pack(answer)),)
            source = self.handlers.blob(sender, request.blob_id)
            if source is None:
                return (ask.framed(wire.pack(wire.Refused("not_held"))),)
            head, data = await self._pieces.answer(source, request, on_hash)
            return (ask.framed(wire.pack(head)), data) if data else (ask.framed(wire.pack(head)),)
        except PeerFault as fault:
            raise Unfit(fault.reason, fault.detail) from fault

    # -- blobs -------------------------------------------------------------

    async def fetch_blob(
        self,
        blob_id: Digest,
        length: int,
        holders: Callable[[], Sequence[MemberId]],
        *,
        timeout_s: float,
        into: Sink | None = None,
    ) -> Fetched:
        """The blob, every piece verified, from whoever holds it. Raises PeerFault("blob_missing")."""
        fetch = Fetch(blob_id, length, holders, self._open_holder, self._fetch_fault, into)
        self._fetches[blob_id].append(fetch)
        try:
            with trio.move_on_after(timeout_s):
                return await fetch.run()
        finally:
            self._fetches[blob_id].remove(fetch)
            if not self._fetches[blob_id]:
                del self._fetches[blob_id]
        raise PeerFault("blob_missing", f"nobody served {blob_id.hex()} within {timeout_s:g} s")

    def announced(self, member: MemberId, blob_id: Digest) -> None:
        """A Have came: who waits for this blob may ask this member."""
        for fetch in self._fetches.get(blob_id, ()):
            fetch.announced_by(member)

    @asynccontextmanager
    async def _open_holder(self, member: MemberId) -> AsyncIterator[ask.Asker]:
        async with self._asker(self._reachable(member), BLOBS) as asker:
            yield asker

    def _fetch_fault(self, member: MemberId, fault: PeerFault) -> None:
        self._on_fault(self._peers[member], fault)
