"""A libp2p host made safe: one stack of protocols; who may connect; streams; a way out that others notice.

Knows peer ids and streams. Which member a peer is, and what is said on the streams, is in `host`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from p2pfl.net import patches
from p2pfl.net.interface import Unreachable
from p2pfl.net.listening import announced, assert_free, in_use, parsed, route_logs
from p2pfl.net.names import Names
from p2pfl.net.options import DEFAULTS, NetOptions
from p2pfl.net.stream import Stream, StreamBroken
from p2pfl.telemetry import logger

patches.install()

import multiaddr  # noqa: E402 - libp2p is imported once its version is known to be the right one.
from libp2p import new_host  # noqa: E402
from libp2p.abc import INetConn, INetStream, INetwork, INotifee  # noqa: E402
from libp2p.crypto.ed25519 import create_new_key_pair  # noqa: E402
from libp2p.custom_types import TProtocol  # noqa: E402
from libp2p.network.config import ConnectionConfig, RetryConfig  # noqa: E402
from libp2p.peer.id import ID  # noqa: E402
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager  # noqa: E402
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX  # noqa: E402
from libp2p.stream_muxer.yamux.yamux import Yamux  # noqa: E402

from p2pfl.net import fences, transport  # noqa: E402

log = logger("net")

# 15 other members, 4 seats, and as many observers again; more sockets than that nobody needs here.
CONNECTIONS_MAX = 128
# libp2p's second count of the same. What it loses on the way it never finds again, and with 128 lost nobody
# is called or let in; the first count is of connections that there are, and handshakes have the door's limit.
CONNECTIONS_COUNTED_MAX = 1 << 31
# A member has one connection, two while an old one is replaced.
CONNECTIONS_PER_PEER_MAX = 4
# Each member has a stream for messages, some for requests and blobs, and libp2p's own.
STREAMS_MAX = 2048
# What libp2p counts against its own books; our buffers have limits of their own.
MEMORY_MB_MAX = 256
# A handshake costs two round trips and 10 ms of processor; a stranger must not hold a slot for longer.
HANDSHAKE_S = 5.0
DIAL_S = 6.0
ADDRESS_S = 120  # How long libp2p remembers an address; longer than a call takes.
OPEN_S = 5.0
CLOSE_S = 3.0

Handler = Callable[[str, Stream], Awaitable[None]]


class Sockets:
    """One libp2p host. Peer ids are base58 strings.

    admits: may this peer connect. on_change: a peer's first connection came or its last one went.
    on_bug: an exception of ours in a handler; it never reaches libp2p, which would stop the host.
    announce: the address that others call us at, where they know one.
    """

    def __init__(
        self,
        *,
        peer_key: bytes,
        listen: str,
        admits: Callable[[str], bool],
        on_change: Callable[[str, bool], None],
        on_refused: Callable[[str], None],
        on_bug: Callable[[Exception], None],
        announce: str | None = None,
        options: NetOptions = DEFAULTS,
    ) -> None:
        self._listen = listen
        self._announce = announce
        self._options = options
        self.fences: fences.Fences | None = None  # Set before `running`.
        self._admits = admits
        self._on_change = on_change
        self._on_refused = on_refused
        self._on_bug = on_bug
        self._key_pair = create_new_key_pair(peer_key)
        self.peer_id = ID.from_pubkey(self._key_pair.public_key).to_string()
        self.host: Any = None
        self._swarm: Any = None
        self._nursery: trio.Nursery | None = None
        self._handlers: dict[str, Handler] = {}
        self._services: list[Callable[[Any], Awaitable[None]]] = []
        self._names = Names()
        self._up: set[str] = set()  # Who was admitted, and has a connection.
        self._closed_bytes = [0, 0]  # Sent and received on connections that are gone.

    def handle(self, protocol: str, handler: Handler) -> None:
        """Streams of this protocol go to this handler. Call before `running`."""
        self._handlers[protocol] = handler

    def service(self, service: Callable[[Any], Awaitable[None]]) -> None:
        """Run this with the libp2p host, until it is closed. Call before `running`."""
        self._services.append(service)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen, until the block ends; then say farewell to everybody. Raises UserError."""
        address = parsed(self._listen, self._options.transport)
        assert_free(address)
        route_logs()
        self.host = self._make(address)
        self._swarm = self.host.get_network()
        for protocol, handler in self._handlers.items():
            self.host.set_stream_handler(TProtocol(protocol), self._safe(handler))
        # Whoever cancels us must not cancel libp2p: it could neither say farewell nor close its sockets.
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._run, address, stop)
            try:
                yield
            finally:
                stop.set()

    async def _run(self, address: multiaddr.Multiaddr, stop: trio.Event, *, task_status: Any) -> None:
        with trio.CancelScope(shield=True) as scope:
            async with self.host.run([address]), trio.open_nursery() as nursery:
                if not self._swarm.listeners:
                    raise in_use(self._listen, "libp2p does not say why")
                self._nursery = nursery
                for service in self._services:
                    nursery.start_soon(service, self.host)
                task_status.started()
                await stop.wait()
                self._nursery = None
                scope.deadline = trio.current_time() + CLOSE_S
                # Without a farewell the others keep a stale connection for as long as their heartbeat waits,
                # and gossip never forms its mesh with us again.
                await self._close()
                nursery.cancel_scope.cancel()

    def _make(self, address: multiaddr.Multiaddr) -> Any:
        host: Any = new_host(
            key_pair=self._key_pair,
            listen_addrs=[address],
            # Both lists are explicit: the defaults fall back to plaintext, secio and mplex.
            sec_opt=transport.secured(self._options, self._key_pair),
            muxer_opt={TProtocol(YAMUX): Yamux},
            transports=transport.transports(),
            announce_addrs=announced(address, self._announce),
            connection_config=ConnectionConfig(
                max_connections=CONNECTIONS_MAX,
                min_connections=0,
                low_watermark=0,
                high_watermark=CONNECTIONS_MAX,
                max_connections_per_peer=CONNECTIONS_PER_PEER_MAX,
                inbound_upgrade_timeout=HANDSHAKE_S,
                outbound_upgrade_timeout=HANDSHAKE_S,
                inbound_stream_protocol_negotiation_timeout=HANDSHAKE_S,
                outbound_stream_protocol_negotiation_timeout=HANDSHAKE_S,
            ),
            resource_manager=ResourceManager(
                ResourceLimits(CONNECTIONS_COUNTED_MAX, MEMORY_MB_MAX, STREAMS_MAX)
            ),
            disable_identify_address_discovery=True,
        )
        network = host.get_network()
        # Our dialer decides whom to call when: libp2p's own would call everybody whose address it ever saw,
        # and repeat a failed call three times on top of our repetitions.
        network.auto_connector.maybe_connect = _do_nothing
        network.retry_config = RetryConfig(max_retries=0)
        # Keys and addresses of members come from the genesis, so identify tells us nothing, and asking
        # everybody cost a quarter of a connection's processor time. We still answer when we are asked.
        host._schedule_identify = _schedule_nothing
        transport.protect(network, self._options)
        network.set_stream_handler(_contained(network.common_stream_handler))
        network.mps_bytes = ({}, {})
        if self.fences is not None:
            fences.put_on(host, self.fences)
        network.register_notifee(_Notifee(self))
        return host

    def _safe(self, handler: Handler) -> Callable[[INetStream], Awaitable[None]]:
        async def handle(raw: INetStream) -> None:
            stream = Stream(raw)
            try:
                await handler(str(raw.muxed_conn.peer_id), stream)
            except Exception as error:  # noqa: BLE001 - what reaches libp2p ends the host.
                self._on_bug(error)
            finally:
                await stream.reset()

        return handle

    # -- connections -------------------------------------------------------

    def is_connected(self, peer_id: str) -> bool:
        """Whether there is a connection to this peer."""
        return any(not conn.is_closed for conn in self._connections(peer_id))

    def _connections(self, peer_id: str) -> list[Any]:
        return self._swarm.get_connections(ID.from_string(peer_id)) if self._swarm is not None else []

    async def connect(self, peer_id: str, address: str) -> None:
        """Connect, unless we are. Raises Unreachable."""
        try:
            target = ID.from_string(peer_id)
        except ValueError as error:
            raise Unreachable(f"{peer_id}: {error}") from error
        why = f"no answer within {DIAL_S:g} s"
        with trio.move_on_after(DIAL_S) as scope:
            places = await self._names.resolved(address, peer_id)
            for number, place in enumerate(places):
                # A name's first address may be a black hole; the next one has its share of the time.
                share_s = (scope.deadline - trio.current_time()) / (len(places) - number)
                with trio.move_on_after(share_s):
                    try:
                        return await self._dial(target, place)
                    except Exception as error:  # noqa: BLE001 - a dozen kinds, all of the library's.
                        why = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        raise Unreachable(f"{address}: {why}")

    async def _dial(self, target: ID, place: multiaddr.Multiaddr) -> None:
        # A failed call bars the peer for a minute, and addresses that identify told us would be called too.
        self._swarm.unblock_peer(target)
        book = self.host.get_peerstore()
        book.clear_addrs(target)
        book.add_addrs(target, [place], ADDRESS_S)
        # Not `host.connect`: it takes a connection that is being closed for a good one.
        await self._swarm.dial_peer(target)

    def drop(self, peer_id: str) -> None:
        """Close all connections to this peer soon, whatever state it is in."""
        if self._nursery is not None:
            for conn in self._connections(peer_id):
                self._nursery.start_soon(self._drop, conn)

    async def _drop(self, conn: Any) -> None:
        # First the socket, so that nobody waits for a frozen peer to take a farewell.
        patches.abort(conn.muxed_conn)
        with trio.move_on_after(CLOSE_S, shield=True):
            await conn.close()

    async def open(self, peer_id: str, protocol: str) -> Stream:
        """A new stream on an existing connection. Raises StreamBroken."""
        if not self.is_connected(peer_id):
            raise StreamBroken("not connected")
        with trio.move_on_after(OPEN_S):
            try:
                return Stream(await self.host.new_stream(ID.from_string(peer_id), [TProtocol(protocol)]))
            except Exception as error:
                raise StreamBroken(f"no stream: {type(error).__name__}: {error}") from error
        raise StreamBroken(f"no stream within {OPEN_S:g} s")

    async def _close(self) -> None:
        # First nobody gets in any more: the others call again as soon as they hear that we go.
        for listener in self._swarm.listeners.values():
            await listener.close()
        async with trio.open_nursery() as nursery:
            # libp2p closes one after the other, a fifth of a second each.
            for conn in self._swarm.get_connections():
                nursery.start_soon(conn.close)
        await self.host.close()

    def remote_host(self, peer_id: str) -> str:
        """The address that a peer's newest connection comes from, without its port; "" if there is none."""
        for conn in reversed(self._connections(peer_id)):
            stream: Any = patches.tcp_of(conn.muxed_conn)
            if (remote := stream.get_remote_address()) is not None:
                return str(remote[0])
        return ""

    def traffic(self, peer_id: str) -> tuple[int, int]:
        """Bytes sent and received on a peer's present connections."""
        sent = received = 0
        for conn in self._connections(peer_id):
            stream: Any = patches.tcp_of(conn.muxed_conn)
            sent, received = sent + stream.mps_sent, received + stream.mps_received
        return sent, received

    def totals(self) -> tuple[int, int]:
        """Bytes sent and received on sockets, all that libp2p adds included."""
        sent, received = self._closed_bytes
        if self._swarm is not None:
            for conn in self._swarm.get_connections():
                stream: Any = patches.tcp_of(conn.muxed_conn)
                sent, received = sent + stream.mps_sent, received + stream.mps_received
        return sent, received

    def by_protocol(self) -> tuple[dict[str, int], dict[str, int]]:
        """Bytes sent and received on streams, by protocol id."""
        return self._swarm.mps_bytes if self._swarm is not None else ({}, {})

    # -- what libp2p tells us ----------------------------------------------

    def connected(self, conn: Any) -> None:
        """A connection was made, in either direction."""
        peer_id = str(conn.muxed_conn.peer_id)
        if self._nursery is None:
            patches.abort(conn.muxed_conn)  # We are leaving.
            return
        if not self._admits(peer_id):
            self._on_refused(peer_id)
            self._nursery.start_soon(self._drop, conn)
            return
        older = [one for one in self._connections(peer_id) if one is not conn and not one.is_closed]
        if older:
            for one in self._superseded(conn, older):
                self._nursery.start_soon(self._drop, one)
        else:
            self._up.add(peer_id)
            self._on_change(peer_id, True)

    def _superseded(self, conn: Any, older: list[Any]) -> list[Any]:
        """Of two connections to one peer the newer stays: the peer may have lost the older one unnoticed.

        When both were made within a second the peers have called each other at the same time and may have
        seen them in different orders; then the one of the lower peer id stays.
        """
        mine = str(self.peer_id)
        theirs = str(conn.muxed_conn.peer_id)
        lower_is_mine = mine < theirs
        if all(conn._created_at - one._created_at < 1.0 for one in older):
            both = [*older, conn]
            right = [one for one in both if _is_outbound(one) == lower_is_mine]
            keep = right[-1] if right else conn
            return [one for one in both if one is not keep]
        return older

    def disconnected(self, conn: Any) -> None:
        """A connection is gone."""
        stream: Any = patches.tcp_of(conn.muxed_conn)
        self._closed_bytes[0] += stream.mps_sent
        self._closed_bytes[1] += stream.mps_received
        peer_id = str(conn.muxed_conn.peer_id)
        if peer_id in self._up and not self.is_connected(peer_id):
            self._up.remove(peer_id)
            self._on_change(peer_id, False)


def _is_outbound(conn: Any) -> bool:
    return bool(conn.muxed_conn.is_initiator)


def _contained(handler: Callable[[INetStream], Awaitable[None]]) -> Callable[[INetStream], Awaitable[None]]:
    """Around every stream, libp2p's own protocols included: an exception there would end the host."""

    async def handle(raw: INetStream) -> None:
        try:
            await handler(raw)
        except Exception as error:  # noqa: BLE001 - gossip raises when it stops while a message comes in.
            log.debug("a protocol of libp2p failed", error=repr(error))
            await Stream(raw).reset()

    return handle


class _Notifee(INotifee):
    """Hands libp2p's news on."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        self._sockets.connected(conn)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        self._sockets.disconnected(conn)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None: ...
    async def closed_stream(self, network: INetwork, stream: INetStream) -> None: ...
    async def listen(self, network: INetwork, multiaddr: Any) -> None: ...
    async def listen_close(self, network: INetwork, multiaddr: Any) -> None: ...


async def _do_nothing() -> None:
    """Takes the place of libp2p's auto-connector."""


def _schedule_nothing(_peer_id: Any, *, reason: str) -> None:
    """Takes the place of libp2p's identify of others."""
