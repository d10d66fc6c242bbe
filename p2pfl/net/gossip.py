"""Announcements of decided heights, by gossip: anybody may hear them, nobody relies on them.

Standard signed gossipsub (meshsub 1.1) on one topic a network, so that observers in other languages can
follow. Votes never travel here: on a full mesh one message costs a hundred times a direct one. Knows tips and
records of addresses.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import trio

from p2pfl.errors import PeerFault
from p2pfl.net import fences, wire
from p2pfl.net.peer_records import PeerRecords
from p2pfl.net.queues import Bucket
from p2pfl.telemetry import logger

fences.install()

from libp2p.custom_types import TProtocol  # noqa: E402 - once its version is known to be the right one.
from libp2p.peer.id import ID  # noqa: E402
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub  # noqa: E402
from libp2p.pubsub.pubsub import Pubsub  # noqa: E402
from libp2p.tools.anyio_service import background_trio_service  # noqa: E402

log = logger("net")

# A node announces one height a second or so; whatever is older than these is not worth telling. libp2p's own
# queue to a neighbour holds 32 and drops the rest without a word.
WAITING_MAX = 16
# Four neighbours reach sixteen nodes in two hops; more only cost their share of every message.
DEGREE, DEGREE_LOW, DEGREE_HIGH = 4, 2, 8
# gossipsub mends its mesh this often; an announcement is lost meanwhile, and the next one is not.
MESH_S = 5
AGAIN_S = 5.0
# A node that starts has better things to do: connections to members and the first round. Gossip streams cost
# as much processor time as the connections, so they are opened a little later, spread by chance.
QUIET_START_S = 3.0
# What one author has passed on: three heights a second and its records, and those of a minute at once for
# whoever was away. Sixteen authors stay together below what a neighbour may send (`fences`: GOSSIP_PER_S).
AUTHOR_PER_S, AUTHOR_BURST = 4.0, 192
# Of what is older than its author's newest: on its way it took a longer path than that, and a mesh has a few
# of these. Anybody can say again what was said long ago, but not at the cost of what is new.
LATE_PER_S, LATE_BURST = 2.0, 64
# Every member decides the same height and would say so. Each waits for a moment, and is silent if so many
# others have said it meanwhile. A tip is only a hint, and members tell each other directly.
SPREAD_S, SAID_ENOUGH = 0.5, 2
# Announcements of which it is remembered who made them: those of the last seconds.
SAID_MAX = 256
# pubsub's numbers have eight bytes.
NUMBER_BYTES = 8
# Authors that are remembered: members come and go, a network of a thousand is beyond this software.
AUTHORS_MAX = 1024


class Author:
    """How much of one member's gossip is passed on."""

    def __init__(self) -> None:
        self._newest = b""
        self._fresh = Bucket(AUTHOR_PER_S, AUTHOR_BURST)
        self._late = Bucket(LATE_PER_S, LATE_BURST)

    def may_say(self, number: bytes) -> bool:
        """Whether one more, with this number of pubsub's, is within its rate."""
        number = number[-NUMBER_BYTES:].rjust(NUMBER_BYTES, b"\0")
        if number <= self._newest:
            return self._late.take()
        if not self._fresh.take():
            return False
        self._newest = number
        return True


class Gossip:
    """The topic of one network. on_announce: (peer id of the author, what it announced).

    may_announce: whose announcements are passed on to others.
    """

    def __init__(
        self,
        topic: str,
        on_announce: Callable[[str, wire.Tip | PeerRecords], None],
        may_announce: Callable[[str], bool],
    ) -> None:
        self.topic = topic
        self._may_announce = may_announce
        self._on_announce = on_announce
        self._waiting: deque[tuple[float, bytes]] = deque(maxlen=WAITING_MAX)  # Not before when, and what.
        self._said: OrderedDict[bytes, set[str]] = OrderedDict()  # Who else has said the same.
        self._work = trio.Event()
        self._chance = Random()
        self._authors: OrderedDict[str, Author] = OrderedDict()
        self.pubsub: Any = None

    def announce(self, message: wire.Tip | PeerRecords) -> None:
        """Tell whoever listens, unless enough others do; never blocks."""
        spread_s = SPREAD_S * self._chance.random() if isinstance(message, wire.Tip) else 0.0
        self._waiting.append((trio.current_time() + spread_s, wire.pack(message)))
        self._work.set()

    async def run(self, host: Any) -> None:
        """Until cancelled. When libp2p's pubsub falls over, votes go on and it is started again."""
        while True:
            try:
                await self._run(host)
            except* Exception as errors:  # noqa: BLE001 - of the library's services; announcements may be lost.
                # Also beside a Cancelled: what is forwarded while the node ends finds its sockets closed.
                log.warning("gossip stopped, it is started again", why=repr(errors.exceptions))
            await trio.sleep(AGAIN_S)

    async def _run(self, host: Any) -> None:
        router = GossipSub(
            # 1.2 sends two RPCs a message, and its hints saved nothing.
            protocols=[TProtocol(PROTOCOL_ID_V11)],
            degree=DEGREE,
            degree_low=DEGREE_LOW,
            degree_high=DEGREE_HIGH,
            heartbeat_interval=MESH_S,
            # On by default: ten messages a second and peer, our own included, the rest silently dropped.
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
            adaptive_gossip_enabled=False,
        )
        self.pubsub = Pubsub(host, router, strict_signing=True, allowed_topics={self.topic})
        # Observers are in the mesh too: what they or other strangers write ends at the first member.
        self.pubsub.set_topic_validator(self.topic, self._may_pass, False)
        fences.fence_gossip(host, self.pubsub, [TProtocol(PROTOCOL_ID_V11)])
        # Numbers start at the second of the start otherwise: whoever said more than one a second and starts
        # again uses them a second time, and is taken for an echo.
        self.pubsub.counter = time.time_ns()
        self.pubsub._handle_new_peer_with_retry = self._later(self.pubsub._handle_new_peer_with_retry)
        async with background_trio_service(self.pubsub), background_trio_service(router):
            await self.pubsub.wait_until_ready()
            subscription = await self.pubsub.subscribe(self.topic)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._publish)
                while True:
                    self._hear(await subscription.get())

    def _later(self, welcome: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        begun_s = trio.current_time()

        async def welcome_later(peer_id: Any) -> None:
            quiet_s = begun_s + QUIET_START_S * (1 + self._chance.random()) - trio.current_time()
            await trio.sleep(max(0.0, quiet_s))
            await welcome(peer_id)

        return welcome_later

    async def _publish(self) -> None:
        while True:
            while self._waiting:
                due_s, packed = self._waiting.popleft()
                await trio.sleep_until(due_s)
                if len(self._said.get(packed, ())) < SAID_ENOUGH:
                    await self.pubsub.publish(self.topic, packed)
            self._work = trio.Event()
            await self._work.wait()

    def _may_pass(self, _neighbour: Any, message: Any) -> bool:
        author = ID(message.from_id)
        if author == self.pubsub.my_id:
            return True
        name = str(author)
        if not self._may_announce(name):
            return False
        # One member that floods must not make all who pass it on slow for their neighbours.
        said = self._authors.setdefault(name, Author())
        self._authors.move_to_end(name)
        if len(self._authors) > AUTHORS_MAX:
            self._authors.popitem(last=False)
        return said.may_say(message.seqno)

    def _hear(self, message: Any) -> None:
        author = ID(message.from_id)
        if author == self.pubsub.my_id:
            return
        try:
            announced = wire.unpack(message.data)
        except PeerFault:
            return  # Nobody knows which of those who passed it on should have looked.
        if isinstance(announced, wire.Tip):
            self._said.setdefault(bytes(message.data), set()).add(str(author))
            if len(self._said) > SAID_MAX:
                self._said.popitem(last=False)
        if isinstance(announced, wire.Tip | PeerRecords):
            self._on_announce(str(author), announced)
