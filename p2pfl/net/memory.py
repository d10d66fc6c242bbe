"""The network without sockets: the same interface for tests and experiments, under any clock of trio.

A hub carries packed messages between the networks that were made on it, in order, with a delay drawn from a
seed, and cuts and mends links when told. Messages are packed and unpacked as on a wire, so that types, size
limits and byte counts are real; blob ids are verified. Knows no libp2p.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, cast

import trio

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net import ask, wire
from p2pfl.net.blobs import Fetch
from p2pfl.net.hub import Hub
from p2pfl.net.interface import Fetched, Handlers, PeerAddress, Sink, Unreachable
from p2pfl.net.piece_server import NOT_HELD, PieceServer
from p2pfl.net.queues import INBOX_MESSAGES_MAX, OUTBOX_MESSAGES_MAX


class MemoryHub(Hub):
    """Makes the networks that it connects. Its options are those of `hub.Hub`."""

    def network(
        self, me: MemberId, peers: Iterable[MemberId], handlers: Handlers | None = None
    ) -> MemoryNetwork:
        """A network for this member; it speaks once `run` is started."""
        return MemoryNetwork(self, me, peers, handlers)


class MemoryNetwork:
    """One member's end. Exceptions of the handlers that are no PeerFault end `run`: they are bugs."""

    def __init__(
        self, hub: MemoryHub, me: MemberId, peers: Iterable[MemberId], handlers: Handlers | None = None
    ) -> None:
        self.me = me
        self.peers: set[MemberId] = set(peers) - {me}
        self.handlers = handlers
        self.connected: set[MemberId] = set()
        self.on_connect: list[Callable[[MemberId], None]] = []
        self.on_announce: list[Callable[[MemberId, wire.Tip], None]] = []
        self.sent_bytes: dict[str, int] = Counter()
        self.received_bytes: dict[str, int] = Counter()
        self.faults: dict[tuple[MemberId, str], int] = Counter()
        self.dropped_messages = 0
        self._hub = hub
        # By peer, made when there is something: of hundreds of peers, most say nothing to one another.
        self._known = set(self.peers)
        self._out: dict[MemberId, deque[tuple[float, bytes]]] = {}
        self._in: dict[MemberId, deque[bytes]] = {}
        self._carried: set[MemberId] = set()
        self._heard: set[MemberId] = set()
        self._changed_event = trio.Event()
        self._pieces = PieceServer(_at_once)  # Threads and a virtual clock do not agree.
        self._fetches: dict[Digest, list[Fetch]] = defaultdict(list)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Speak and listen until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._hub.join(self)
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None
                self._hub.leave(self)

    def meet(self, peers: Mapping[MemberId, PeerAddress]) -> None:
        """These may speak from now on."""
        new = peers.keys() - self.peers - {self.me}
        self.peers |= new
        self._known |= new
        if new:
            self._hub.look_at(self)

    def part(self, members: Iterable[MemberId]) -> None:
        """These may speak no more. There are no observers here."""
        gone = self.peers & set(members)
        self.peers -= gone
        if gone:
            self._hub.look_at(self)

    def stay_near(self, members: Iterable[MemberId]) -> None:
        """Here everybody is connected to everybody."""
        del members

    # -- messages ----------------------------------------------------------

    def send(self, to: MemberId, message: wire.Message) -> None:
        """Put it into the peer's outbox; never blocks."""
        self._send_packed(to, wire.pack(message))

    def broadcast(self, to: Iterable[MemberId], message: wire.Message) -> None:
        """The same to each of them, packed once; to myself: nothing."""
        packed = wire.pack(message)
        for member in to:
            if member != self.me:
                self._send_packed(member, packed)

    def _send_packed(self, to: MemberId, packed: bytes) -> None:
        if to not in self._known:
            raise KeyError(f"0x{to.hex()} is no peer")
        outbox = self._out.setdefault(to, deque())
        due = trio.current_time() + self._hub.draw_delay_s()
        outbox.append((max(due, outbox[-1][0]) if outbox else due, packed))
        if len(outbox) > OUTBOX_MESSAGES_MAX:
            outbox.popleft()
            self.dropped_messages += 1
        self._start_carrying(to)

    def _start_carrying(self, to: MemberId) -> None:
        if self._nursery is not None and self._out.get(to) and to not in self._carried:
            self._carried.add(to)
            self._nursery.start_soon(self._carry, to)

    async def _carry(self, to: MemberId) -> None:
        """Until nothing is left, or the link is cut."""
        outbox = self._out[to]
        try:
            while outbox and self._hub.reach(self.me, to) is not None:
                due, packed = outbox[0]
                if due > trio.current_time():
                    await trio.sleep_until(due)
                target = self._hub.reach(self.me, to)
                if target is None or not outbox or outbox[0][1] is not packed:
                    continue
                if not target.deliver(self.me, packed):
                    await trio.sleep(0.05)  # Its inbox is full; the message stays here.
                    continue
                outbox.popleft()
                self.sent_bytes["messages"] += len(packed)
        finally:
            self._carried.discard(to)

    def deliver(self, sender: MemberId, packed: bytes) -> bool:
        """A peer's message arrives; False when the inbox is full."""
        inbox = self._in.setdefault(sender, deque())
        if self._nursery is None or len(inbox) >= INBOX_MESSAGES_MAX:
            return False
        inbox.append(packed)
        self.received_bytes["messages"] += len(packed)
        if sender not in self._heard:
            self._heard.add(sender)
            self._nursery.start_soon(self._hear, sender)
        return True

    async def _hear(self, sender: MemberId) -> None:
        """Until nothing is left: one at a time and in their order."""
        assert self.handlers is not None, "a network without handlers"
        inbox = self._in[sender]
        try:
            while inbox:
                try:
                    message = cast(wire.Message, self._hub.once.parse(inbox[0]))
                    await self.handlers.received(sender, message)
                    if isinstance(message, wire.Have):
                        for fetch in self._fetches.get(message.blob_id, ()):
                            fetch.announced_by(sender)
                except PeerFault as fault:
                    self.fault(sender, fault)
                finally:
                    inbox.popleft()
                await trio.lowlevel.checkpoint()
        finally:
            self._heard.discard(sender)

    # -- requests ----------------------------------------------------------

    async def request(self, to: MemberId, request: wire.Request, *, timeout_s: float) -> wire.Response:
        """Ask and wait for the answer. Raises Unreachable, or PeerFault("refused", reason)."""
        with trio.move_on_after(timeout_s):
            target = await self.travel(to)
            packed = wire.pack(request)
            self.sent_bytes["requests"] += len(packed)
            answer = await target.answer_packed(self.me, packed)
            await self.travel(to)
            self.received_bytes["requests"] += len(answer)
            response = wire.unpack(answer)
            if isinstance(response, wire.Refused):
                raise PeerFault("refused", response.reason)
            return cast(wire.Response, response)
        raise Unreachable(f"no answer within {timeout_s:g} s")

    async def answer_packed(self, sender: MemberId, packed: bytes) -> bytes:
        """A peer's request arrives; the packed answer."""
        self.received_bytes["requests"] += len(packed)
        assert self.handlers is not None
        try:
            request = cast(wire.Request, wire.unpack(packed))
            answer = wire.pack(await self.handlers.answer(sender, request))
        except PeerFault as fault:
            self.fault(sender, fault)
            answer = wire.pack(wire.Refused(fault.reason))
        self.sent_bytes["requests"] += len(answer)
        return answer

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
        if self._hub.whole and into is None:
            return await self._hub.once.fetch(self, blob_id, length, holders, timeout_s)
        chance = Random(self.me + blob_id)
        fetch = Fetch(blob_id, length, holders, self._open_holder, self.fault, into, chance)
        self._fetches[blob_id].append(fetch)
        try:
            with trio.move_on_after(timeout_s):
                return await fetch.run()
        finally:
            self._fetches[blob_id].remove(fetch)
            if not self._fetches[blob_id]:
                del self._fetches[blob_id]
        raise PeerFault("blob_missing", f"nobody served {blob_id.hex()} within {timeout_s:g} s")

    @asynccontextmanager
    async def _open_holder(self, holder: MemberId) -> AsyncIterator[_Holder]:
        if self._hub.reach(self.me, holder) is None:
            raise Unreachable("not connected")
        yield _Holder(self, holder)

    async def piece(self, sender: MemberId, request: wire.GetPiece | wire.GetHeld) -> object:
        """A peer asks for a piece, or which are here."""
        assert self.handlers is not None
        source = self.handlers.blob(sender, request.blob_id)
        if source is None:
            return NOT_HELD
        try:
            head, data = await self._pieces.answer(source, request)
        except PeerFault as fault:
            self.fault(sender, fault)
            return wire.Refused(fault.reason)
        self.sent_bytes["blobs"] += len(wire.pack(head)) + len(data)
        return wire.Piece(head.total_length, head.proof, data) if isinstance(head, wire.PieceHead) else head

    # -- announcements, connections, faults --------------------------------

    def announce(self, message: wire.Tip) -> None:
        """Tell everybody who is connected; nothing is sent again."""
        packed = wire.pack(message)
        for peer in sorted(self.connected) if not self._hub.whole else ():
            if self._nursery is not None:
                self.sent_bytes["gossip"] += len(packed)
                self._nursery.start_soon(self._announce_to, peer, packed)

    async def _announce_to(self, peer: MemberId, packed: bytes) -> None:
        try:
            target = await self.travel(peer)
        except Unreachable:
            return
        target.received_bytes["gossip"] += len(packed)
        for callback in target.on_announce:
            callback(self.me, cast(wire.Tip, wire.unpack(packed)))

    def set_connected(self, now: set[MemberId]) -> None:
        """The hub says who can be reached."""
        new, self.connected = now - self.connected, now
        for peer in sorted(new):
            self._start_carrying(peer)
            for callback in self.on_connect:
                callback(peer)
        self._changed_event.set()
        self._changed_event = trio.Event()

    async def wait_connected(self, members: Iterable[MemberId], timeout_s: float = math.inf) -> None:
        """Until all of them are connected. Raises Unreachable that names the first who is not."""
        wanted = set(members) - {self.me}
        with trio.move_on_after(timeout_s):
            while not wanted <= self.connected:
                await self._changed_event.wait()
            return
        missing = sorted(wanted - self.connected)
        raise Unreachable(f"{len(missing)} members are not connected, 0x{missing[0].hex()} among them")

    async def travel(self, to: MemberId) -> MemoryNetwork:
        """Wait as long as a message takes; the other's end. Raises Unreachable."""
        await trio.sleep(self._hub.draw_delay_s())
        target = self._hub.reach(self.me, to)
        if target is None:
            raise Unreachable("not connected")
        return target

    def fault(self, peer: MemberId, fault: PeerFault) -> None:
        self.faults[peer, fault.reason] = self.faults.get((peer, fault.reason), 0) + 1


async def _at_once(work: Callable[[], Any]) -> Any:
    return work()


class _Holder:
    """One holder as a fetch sees it (`blobs.Holder`)."""

    def __init__(self, network: MemoryNetwork, holder: MemberId) -> None:
        self._network = network
        self._holder = holder
        self._asked: deque[wire.GetPiece | wire.GetHeld] = deque()

    async def send(self, request: object) -> None:
        """Ask; the answer is made when it is received."""
        self._asked.append(cast("wire.GetPiece | wire.GetHeld", request))
        self._network.sent_bytes["blobs"] += len(wire.pack(request))

    async def receive(self, *, silence_s: float) -> object:
        """The next answer."""
        with trio.move_on_after(silence_s):
            target = await self._network.travel(self._holder)
            answer = await target.piece(self._network.me, self._asked.popleft())
            await self._network.travel(self._holder)
            if isinstance(answer, wire.Piece):
                self._network.received_bytes["blobs"] += len(answer.data)
            return answer
        raise ask.Stalled(f"no answer within {silence_s:g} s")
