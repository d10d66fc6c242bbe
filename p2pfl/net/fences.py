"""Where libp2p meets the limits of `door` and `frames`, and what may be asked of its own protocols.

Handshakes pass the door; yamux headers are looked at; ping, identify and gossip have rates, sizes and so
many streams; keys of strangers are Ed25519. Faults go to whoever runs the host. Part of the patches of
0.8.1 (see `patches`). Knows no message of ours.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

from p2pfl.errors import PeerFault
from p2pfl.net import patches
from p2pfl.net.door import Door
from p2pfl.net.frames import HEADER, PAUSE_S, Frames
from p2pfl.net.queues import Bucket

patches.install()

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from google.protobuf.message import DecodeError
    from libp2p.crypto import serialization
    from libp2p.crypto.pb.crypto_pb2 import KeyType
    from libp2p.exceptions import ParseError
    from libp2p.io.exceptions import MessageTooLarge
    from libp2p.io.utils import read_exactly
    from libp2p.network import swarm
    from libp2p.network.exceptions import SwarmException
    from libp2p.protocol_muxer import multiselect_communicator
    from libp2p.pubsub import gossipsub, pubsub
    from libp2p.pubsub.validators import signature_validator
    from libp2p.stream_muxer.yamux import yamux
    from libp2p.utils import varint

# What is replaced in them is not for export.
_YAMUX: Any = yamux
_PUBSUB: Any = pubsub
_GOSSIPSUB: Any = gossipsub
_NAMES: Any = multiselect_communicator

# A protocol's name: libp2p reads as many bytes as a stranger announces.
NAME_BYTES_MAX = 1024
# The body of a yamux frame that was announced; the slowest link that we serve needs 8 s for the largest.
BODY_S = 20.0
# Pings on one connection, and how long one is waited for: once a second is often, and go keeps a stream.
PING_BYTES, PING_S, PINGS_PER_S, PINGS_BURST = 32, 60.0, 5.0, 30
# Streams of each of libp2p's own protocols on one connection: at once, a second, and at once after silence.
PING_STREAMS, PING_STREAMS_PER_S, PING_STREAMS_BURST = 2, 5.0, 20
IDENTIFY_STREAMS, IDENTIFY_PER_S, IDENTIFY_BURST = 2, 0.5, 8
GOSSIP_STREAMS, GOSSIP_STREAMS_PER_S, GOSSIP_STREAMS_BURST = 4, 0.5, 8
# An announcement has 300 bytes with its signature, a mesh's gossip about what it has a few KiB; the largest
# message is a node's whole address book (`wire`: PeerRecords).
GOSSIP_RPC_BYTES_MAX = 64 * 1024
GOSSIP_DATA_BYTES_MAX = 20 * 1024
# Sixteen members that decide three heights a second, each heard from eight neighbours at most twice: what
# comes faster than 200 units (of 256 bytes) a second and neighbour waits, which holds that neighbour up.
GOSSIP_UNIT_BYTES = 256
GOSSIP_PER_S, GOSSIP_BURST = 200.0, 2000

_installed = False


class Fences(Protocol):
    """What the limits need to know of one host: see `outside.Outside`."""

    door: Door

    def is_member(self, peer_id: str) -> bool:
        """Whether this peer id is one of ours."""
        ...

    def fault(self, peer_id: str, remote: str, fault: PeerFault) -> None:
        """What somebody did who has shaken hands."""
        ...


def install() -> None:
    """Apply the patches, once a process. They do nothing to hosts without `put_on`."""
    global _installed  # noqa: PLW0603 - patches are global by nature.
    if _installed:
        return
    _installed = True
    _knock_before_a_handshake()
    _look_at_frames()
    _forget_what_nobody_reads()
    _NAMES.read_delim = read_name
    _count_gossip()
    # An RSA key of 4,096 bits takes ten times as long to check as any other, and nobody here has one.
    for kind in (KeyType.RSA, KeyType.Secp256k1):
        serialization.key_type_to_public_key_deserializer.pop(kind, None)


def put_on(host: Any, fences: Fences) -> None:
    """Fence this host in: its connections, and the protocols that libp2p answers by itself."""
    network = host.get_network()
    network.mps_fences = fences
    # These remember every peer id that ever came, and a stranger has a new one each time. The door limits
    # calls, and libp2p makes none by itself (`sockets`).
    network._resource_manager.connection_rate_limiter = None
    network.auto_connector.record_disconnect = _forget_at_once
    handlers = host.multiselect.handlers
    handlers.pop("/ipfs/id/push/1.0.0", None)  # Nobody is asked who it is, so nobody need tell.
    host.set_stream_handler(
        "/ipfs/ping/1.0.0",
        rationed(_answer_pings, "ping", PING_STREAMS, PING_STREAMS_PER_S, PING_STREAMS_BURST),
    )
    identify = handlers["/ipfs/id/1.0.0"]
    host.set_stream_handler(
        "/ipfs/id/1.0.0",
        rationed(identify, "identify", IDENTIFY_STREAMS, IDENTIFY_PER_S, IDENTIFY_BURST),
    )


def _forget_at_once(_peer_id: Any) -> None:
    """Takes the place of the auto-connector's memory of who was disconnected."""


def remote_of(muxed: Any) -> str:
    """The address of the other end, without its port; "" where nobody knows."""
    found = muxed.get_remote_address()
    return found[0] if found else ""


def tell(muxed: Any, fault: PeerFault) -> None:
    """A fault of whoever is at the other end of this connection."""
    fences = getattr(getattr(muxed, "swarm", None), "mps_fences", None)
    if fences is not None:
        fences.fault(str(muxed.peer_id), remote_of(muxed), fault)


# ---------------------------------------------------------------------------
# Handshakes.


def _knock_before_a_handshake() -> None:
    """Everybody may begin as many handshakes as there are slots, and hold each for as long as it may take."""
    plain: Callable[..., Awaitable[Any]] = swarm.Swarm.upgrade_inbound_raw_conn

    async def upgrade(self: Any, raw: Any, maddr: Any) -> Any:
        fences: Fences | None = getattr(self, "mps_fences", None)
        found, socket = raw.get_remote_address(), _socket_of(raw)
        if fences is None or found is None or socket is None:
            return await plain(self, raw, maddr)  # A circuit is a stream of a peer, and limited as such.
        # Not a cancellation: it leaves the books of libp2p's resource manager wrong for ever.
        knock = fences.door.knock(found[0], socket.close)
        if knock is None:
            await raw.close()
            raise SwarmException("not from there, and not so often")
        begun_s = trio.current_time()
        reason, member = None, False
        try:
            muxed = await plain(self, raw, maddr)
            member = fences.is_member(str(muxed.peer_id))
        except Exception:
            timeout_s = self.connection_config.inbound_upgrade_timeout
            late = trio.current_time() - begun_s >= timeout_s
            reason = "half_open" if late else "bad_handshake"
            raise
        finally:
            fences.door.settled(knock, reason, member=member)
        return muxed

    swarm.Swarm.upgrade_inbound_raw_conn = upgrade  # type: ignore[method-assign]


def _socket_of(raw: Any) -> Any:
    """The socket below: when it is closed, libp2p sees its handshake fail and gives back what it took."""
    below = raw
    while below is not None and not hasattr(below, "socket"):
        below = getattr(below, "tcp", None) or getattr(below, "stream", None)
    return below.socket if below is not None else None


async def read_name(reader: Any) -> bytes:
    """The name of a protocol; libp2p reads as long a one as it says it is, before anybody is known."""
    try:
        line = await varint.read_varint_prefixed_bytes_limited(reader, NAME_BYTES_MAX)
    except MessageTooLarge as error:
        raise ParseError(str(error)) from error
    if line[-1:] != b"\n":
        raise ParseError("a name that does not end")
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise ParseError("a name that is no text") from error
    return line[:-1]


# ---------------------------------------------------------------------------
# Frames.


def _look_at_frames() -> None:
    """See `frames`: libp2p reads a header by the same function as anything else of twelve bytes."""
    plain_init: Callable[..., None] = yamux.Yamux.__init__
    plain_read: Callable[..., Awaitable[bytes]] = _YAMUX.read_exactly

    def __init__(self: Any, *args: Any, **options: Any) -> None:  # noqa: N807 - it replaces one.
        plain_init(self, *args, **options)
        self.secured_conn.mps_frames = Frames(self, lambda fault: tell(self, fault))
        self.secured_conn.mps_muxed = self

    async def read_header(reader: Any, n: int, *args: Any) -> bytes:
        data = await plain_read(reader, n, *args)
        frames: Frames | None = getattr(reader, "mps_frames", None)
        if frames is not None and n == HEADER.size:
            try:
                await frames.look(data)
            except PeerFault as fault:
                tell(reader.mps_muxed, fault)
                raise
        return data

    async def read_body(self: Any, length: int) -> bytes:
        with trio.fail_after(BODY_S):
            return await plain_read(self.secured_conn, length)

    yamux.Yamux.__init__ = __init__
    _YAMUX.read_exactly = read_header
    yamux.Yamux._read_data_body = read_body


def _forget_what_nobody_reads() -> None:
    """What a stream that was reset had still to be read is kept for a minute, for nobody: whoever opens a
    stream, fills its window and resets it fills our memory with 256 KiB each time.
    """
    plain: Callable[..., None] = yamux.Yamux._finalize_stream_locked

    def finalize(self: Any, stream: Any, *, fully_closed: bool) -> None:
        if fully_closed and stream.reset_received:
            self.stream_buffers.pop(stream.stream_id, None)
        plain(self, stream, fully_closed=fully_closed)

    yamux.Yamux._finalize_stream_locked = finalize


# ---------------------------------------------------------------------------
# libp2p's own protocols.

Handler = Callable[[Any], Awaitable[None]]


def rationed(handler: Handler, name: str, at_once: int, per_s: float, burst: int) -> Handler:
    """This handler for so many streams of one connection; the others are ended, and counted."""

    async def handle(stream: Any) -> None:
        muxed = stream.muxed_conn
        # On the connection itself: it is forgotten with it.
        if not hasattr(muxed, "mps_open"):
            muxed.mps_open, muxed.mps_streams = Counter(), {}
        bucket = muxed.mps_streams.setdefault(name, Bucket(per_s, burst))
        if muxed.mps_open[name] >= at_once or not bucket.take():
            tell(muxed, PeerFault("stream_flood", name))
            await stream.reset()
            return
        muxed.mps_open[name] += 1
        try:
            await handler(stream)
        finally:
            muxed.mps_open[name] -= 1

    return handle


async def _answer_pings(stream: Any) -> None:
    """As libp2p does, but not faster than anybody needs, and not for ever."""
    muxed = stream.muxed_conn
    if not hasattr(muxed, "mps_pings"):
        muxed.mps_pings = Bucket(PINGS_PER_S, PINGS_BURST)
    try:
        while True:
            with trio.fail_after(PING_S):
                ping = await read_exactly(stream, PING_BYTES)
                if not muxed.mps_pings.take():
                    tell(muxed, PeerFault("ping_flood"))
                    await trio.sleep(PAUSE_S)
                await stream.write(ping)
    except Exception:  # noqa: BLE001 - a dozen ways to end, none of them of interest.
        await stream.reset()


# ---------------------------------------------------------------------------
# Gossip.


def _count_gossip() -> None:
    """An RPC is read with a rate and a size. What senders say of their addresses is not looked at: members'
    come from the genesis, and checking that signature costs more than the announcement.
    """
    plain: Callable[..., Awaitable[bytes]] = _PUBSUB.read_varint_prefixed_bytes_limited

    async def read_rpc(stream: Any, bytes_max: int) -> bytes:
        muxed = stream.muxed_conn
        if not hasattr(muxed, "mps_gossip"):
            muxed.mps_gossip = Bucket(GOSSIP_PER_S, GOSSIP_BURST)
        try:
            data = await plain(stream, min(bytes_max, GOSSIP_RPC_BYTES_MAX))
        except MessageTooLarge:
            tell(muxed, PeerFault("bad_gossip", f"an RPC above {GOSSIP_RPC_BYTES_MAX} bytes"))
            raise
        units = 1 + len(data) / GOSSIP_UNIT_BYTES
        while not muxed.mps_gossip.take(units):
            tell(muxed, PeerFault("gossip_flood"))
            await trio.sleep(PAUSE_S)
        return data

    def not_looked_at(*_: Any) -> bool:
        return True

    _PUBSUB.read_varint_prefixed_bytes_limited = read_rpc
    _PUBSUB.maybe_consume_signed_record = not_looked_at
    _GOSSIPSUB.maybe_consume_signed_record = not_looked_at


def fence_gossip(host: Any, service: Any, protocols: list[Any]) -> None:
    """A message that libp2p cannot take apart would end its gossip; topics of others would fill its books."""
    plain_push, plain_rpc = service.push_msg, service.router.handle_rpc

    def is_sound(message: Any) -> bool:
        try:
            return len(message.data) <= GOSSIP_DATA_BYTES_MAX and bool(signature_validator(message))
        except Exception:  # noqa: BLE001 - whatever a key or an id that is none raises.
            return False

    async def push(forwarder: Any, message: Any) -> None:
        if not service.manager.is_running or service._is_msg_seen(message):
            return
        if forwarder != service.my_id and not is_sound(message):
            fences = getattr(host.get_network(), "mps_fences", None)
            if fences is not None:
                fences.fault(str(forwarder), "", PeerFault("bad_gossip", "not a signed announcement"))
            return
        await plain_push(forwarder, message)

    async def handle_rpc(rpc: Any, sender: Any) -> None:
        for kind in ("ihave", "graft", "prune"):
            entries = getattr(rpc.control, kind)
            ours = [each for each in entries if each.topicID in service.allowed_topics]
            if len(ours) != len(entries):
                del entries[:]
                entries.extend(ours)
        await plain_rpc(rpc, sender)

    async def handle(stream: Any) -> None:
        try:
            await service.stream_handler(stream)
        except DecodeError as error:
            tell(stream.muxed_conn, PeerFault("bad_gossip", str(error)))
            await stream.reset()
            service._handle_dead_peer(stream.muxed_conn.peer_id)

    service.push_msg, service.router.handle_rpc = push, handle_rpc
    for protocol in protocols:
        host.set_stream_handler(
            protocol,
            rationed(handle, "gossip", GOSSIP_STREAMS, GOSSIP_STREAMS_PER_S, GOSSIP_STREAMS_BURST),
        )


install()
