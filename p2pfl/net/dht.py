"""Kademlia: ask members that are reached, and whoever they know, where a member is that is not.

libp2p's own (`/ipfs/kad/1.0.0`), between members only: libp2p's takes whoever opens a stream into its tables,
asks whoever is connected, and tells anybody where members are. What it says is one more address to try:
the handshake shows who is there. Signed records make it unnecessary wherever members hear of each other; it
is for networks in which they do not. Knows peer ids and addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import trio

from p2pfl.net import fences, patches
from p2pfl.net.sockets import Sockets
from p2pfl.telemetry import logger

patches.install()

from libp2p.kad_dht.common import PROTOCOL_ID  # noqa: E402 - once its version is known to be the right one.
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT  # noqa: E402
from libp2p.peer.id import ID  # noqa: E402
from libp2p.tools.anyio_service import background_trio_service  # noqa: E402
from multiaddr import Multiaddr  # noqa: E402

log = logger("net")

# A question costs a stream to each of a few members; whoever is lost is lost for longer than this.
LOOK_S = 10.0
FIND_S = 8.0
# Streams of one connection: a question for each member that is lost, one by one, and pings of tables.
STREAMS, STREAMS_PER_S, STREAMS_BURST = 8, 8.0, 64
# What is told to libp2p of where members are; longer than it takes to tell it again.
ADDRESS_S = 120


class Dht:
    """One node's part. members: their peer ids; addresses: where one is; found: says where one may be."""

    def __init__(
        self,
        sockets: Sockets,
        members: Callable[[], Iterable[str]],
        addresses: Callable[[str], Iterable[str]],
        found: Callable[[str, list[str]], None],
    ) -> None:
        self._sockets = sockets
        self._members = members
        self._addresses = addresses
        self._found = found

    async def run(self, host: Any) -> None:
        """With the libp2p host, until it is closed; when libp2p's service falls over, it is started again."""
        while True:
            try:
                await self._run(host)
            except* Exception as errors:  # noqa: BLE001 - of the library's services; what it says is a hint.
                log.warning("the DHT stopped, it is started again", why=repr(errors.exceptions))
            await trio.sleep(LOOK_S)

    async def _run(self, host: Any) -> None:
        dht = KadDHT(host, DHTMode.SERVER, enable_random_walk=False)
        self._fence(host, dht)
        async with background_trio_service(dht):
            while True:
                for peer_id in self._members():
                    if self._sockets.is_connected(peer_id):
                        await self._introduce(host, dht, peer_id)
                for peer_id in self._members():
                    if not self._sockets.is_connected(peer_id):
                        await self._find(dht, peer_id)
                await trio.sleep(LOOK_S)

    def _is_member(self, peer_id: Any) -> bool:
        return str(peer_id) in self._members()

    def _fence(self, host: Any, dht: Any) -> None:
        """Members only: who asks us, who is in the tables, whom we ask, of whom we believe an answer."""
        plain_add, plain_query = dht.routing_table.add_peer, dht.peer_routing._query_peer_for_closest

        async def handle(stream: Any) -> None:
            if self._is_member(stream.muxed_conn.peer_id):
                await dht.handle_stream(stream)
            else:
                await stream.reset()

        async def add_peer(who: Any, *args: Any, **options: Any) -> bool:
            # A peer id, or what is known of it.
            return self._is_member(getattr(who, "peer_id", who)) and await plain_add(who, *args, **options)

        async def query(peer: Any, target: bytes) -> list[Any]:
            if not self._is_member(peer):
                return []
            return [one for one in await plain_query(peer, target) if self._is_member(one)]

        dht.routing_table.add_peer = add_peer
        dht.peer_routing._query_peer_for_closest = query
        host.set_stream_handler(
            PROTOCOL_ID, fences.rationed(handle, "kad", STREAMS, STREAMS_PER_S, STREAMS_BURST)
        )

    async def _introduce(self, host: Any, dht: KadDHT, peer_id: str) -> None:
        """libp2p's tables take whom the peerstore has an address of, and tell that address to who asks."""
        places = [Multiaddr(one) for one in self._addresses(peer_id) if "/p2p-circuit" not in one]
        host.get_peerstore().add_addrs(ID.from_string(peer_id), places, ADDRESS_S)
        await dht.add_peer(ID.from_string(peer_id))

    async def _find(self, dht: KadDHT, peer_id: str) -> None:
        with trio.move_on_after(FIND_S):
            info = await dht.find_peer(ID.from_string(peer_id))
            if info is not None:
                self._found(peer_id, [str(one) for one in info.addrs])
