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
from p2pfl.net.interface import Fetched, Handlers, PeerAddress, Sink, Unreachable
from p2pfl.net.piece_server import NOT_HELD, PieceServer
from p2pfl.net.queues import INBOX_MESSAGES_MAX, OUTBOX_MESSAGES_MAX


class MemoryHub:
    """Carries what the networks made on it say to one another. delay_s: (least, most) for one way."""

    def __init__(self, *, seed: int = 0, delay_s: tuple[float, float] = (0.0, 0.0)) -> None:
        self._chance = Random(seed)
        self._delay_s = delay_s
        self._running: dict[MemberId, MemoryNetwork] = {}
        self._cut: set[frozenset[MemberId]] = set()

    def network(
        self, me: MemberId, peers: Iterable[MemberId], handlers: Handlers | None = None
    ) -> MemoryNetwork:
        """A network for this member; it speaks once `run` is started."""
        return MemoryNetwork(self, me, peers, handlers)

    def cut(self, a: MemberId, b: MemberId) -> None:
        """Break the link between two members; what is on its way comes after it is mended."""
        self._cut.add(frozenset((a, b)))
        self.refresh()

    def mend(self, a: MemberId, b: MemberId) -> None:
        """Bring the link back."""
        self._cut.discard(frozenset((a, b)))
        self.refresh()

    def isolate(self, member: MemberId) -> None:
        """Break all links of a member."""
        self._cut.update(frozenset((member, other)) for other in self._running if other != member)
        self.refresh()

    def rejoin(self, member: MemberId) -> None:
        """Bring all links of a member back."""
        self._cut = {link for link in self._cut if member not in link}
        self.refresh()

    def draw_delay_s(self) -> float:
        """The delay of the next message."""
        return self._chance.uniform(*self._delay_s)

    def reach(self, a: MemberId, b: MemberId) -> MemoryNetwork | None:
        """The network of `b`, if `a` can speak to it now."""
        here, there = self._running.get(a), self._running.get(b)
        if here is None or there is None or frozenset((a, b)) in self._cut:
            return None
        return there if b in here.peers and a in there.peers else None

    def join(self, network: MemoryNetwork) -> None:
        """A network began to run."""
        if network.me in self._running:
            raise RuntimeError("this member runs already")
        self._running[network.me] = network
        self.refresh()

    def leave(self, network: MemoryNetwork) -> None:
        """A network stopped."""
        del self._running[network.me]
        network.set_connected(set())
        self.refresh()

    def refresh(self) -> None:
        """Tell everybody who can be reached now."""
        for network in list(self._running.values()):
            network.set_connected({peer for peer in network.peers if self.reach(network.me, peer)})


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
        self._out: dict[MemberId, deque[tuple[float, bytes]]] = {peer: deque() for peer in self.peers}
        self._in: dict[MemberId, deque[bytes]] = {peer: deque() for peer in self.peers}
        self._changed_event = trio.Event()
        self._work: dict[MemberId, trio.Event] = {peer: trio.Event() for peer in self.peers}
        self._arrived: dict[MemberId, trio.Event] = {peer: trio.Event() for peer in self.peers}
        self._pieces = PieceServer(_at_once)  # Threads and a virtual clock do not agree.
        self._fetches: dict[Digest, list[Fetch]] = defaultdict(list)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Speak and listen until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for peer in self.peers:
                nursery.start_soon(self._carry, peer)
                nursery.start_soon(self._hear, peer)
            self._hub.join(self)
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None
                self._hub.leave(self)

    def meet(self, peers: Mapping[MemberId, PeerAddress]) -> None:
        """These may speak from now on."""
        for peer in peers.keys() - self.peers - {self.me}:
            self.peers.add(peer)
            if peer in self._out:
                continue  # It may speak again.
            self._out[peer], self._in[peer] = deque(), deque()
            self._work[peer], self._arrived[peer] = trio.Event(), trio.Event()
            if self._nursery is not None:
                self._nursery.start_soon(self._carry, peer)
                self._nursery.start_soon(self._hear, peer)
        self._hub.refresh()

    def part(self, members: Iterable[MemberId]) -> None:
        """These may speak no more. There are no observers here."""
        gone = self.peers & set(members)
        self.peers -= gone
        if gone:
            self._hub.refresh()

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
        outbox = self._out[to]
        due = trio.current_time() + self._hub.draw_delay_s()
        outbox.append((max(due, outbox[-1][0]) if outbox else due, packed))
        if len(outbox) > OUTBOX_MESSAGES_MAX:
            outbox.popleft()
            self.dropped_messages += 1
        self._work[to].set()

    async def _carry(self, to: MemberId) -> None:
        outbox = self._out[to]
        while True:
            if not outbox or self._hub.reach(self.me, to) is None:
                self._work[to] = trio.Event()
                await self._work[to].wait()
                continue
            due, packed = outbox[0]
            await trio.sleep_until(max(due, trio.current_time()))
            target = self._hub.reach(self.me, to)
            if target is None or not outbox or outbox[0][1] is not packed:
                continue
            if not target.deliver(self.me, packed):
                await trio.sleep(0.05)  # Its inbox is full; the message stays here.
                continue
            outbox.popleft()
            self.sent_bytes["messages"] += len(packed)

    def deliver(self, sender: MemberId, packed: bytes) -> bool:
        """A peer's message arrives; False when the inbox is full."""
        inbox = self._in[sender]
        if len(inbox) >= INBOX_MESSAGES_MAX:
            return False
        inbox.append(packed)
        self.received_bytes["messages"] += len(packed)
        self._arrived[sender].set()
        return True

    async def _hear(self, sender: MemberId) -> None:
        assert self.handlers is not None, "a network without handlers"
        inbox = self._in[sender]
        while True:
            if not inbox:
                self._arrived[sender] = trio.Event()
                await self._arrived[sender].wait()
                continue
            try:
                message = cast(wire.Message, wire.unpack(inbox[0]))
                await self.handlers.received(sender, message)
                if isinstance(message, wire.Have):
                    for fetch in self._fetches.get(message.blob_id, ()):
                        fetch.announced_by(sender)
            except PeerFault as fault:
                self._fault(sender, fault)
            finally:
                inbox.popleft()
            await trio.lowlevel.checkpoint()

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
            self._fault(sender, fault)
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
        chance = Random(self.me + blob_id)
        fetch = Fetch(blob_id, length, holders, self._open_holder, self._fault, into, chance)
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
            self._fault(sender, fault)
            return wire.Refused(fault.reason)
        self.sent_bytes["blobs"] += len(wire.pack(head)) + len(data)
        return wire.Piece(head.total_length, head.proof, data) if isinstance(head, wire.PieceHead) else head

    # -- announcements, connections, faults --------------------------------

    def announce(self, message: wire.Tip) -> None:
        """Tell everybody who is connected; nothing is sent again."""
        packed = wire.pack(message)
        for peer in sorted(self.connected):
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
            self._work[peer].set()
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

    def _fault(self, peer: MemberId, fault: PeerFault) -> None:
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
