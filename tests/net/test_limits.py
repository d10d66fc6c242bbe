"""What a peer may do below its messages: every test is an attack that the node gets over, and counts."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio

from p2pfl.net import frames, gossip, stream, wire
from p2pfl.net.host import MESSAGES, Network
from p2pfl.net.peer import FAULTS_MAX
from p2pfl.net.stream import _MAGIC
from tests.net import raw
from tests.net.common import Memo
from tests.net.hosts import Town, peer_key, until

MIB = 1 << 20
PING = "/ipfs/ping/1.0.0"
HELLO = struct.pack(">I4s16sQ16sQ", 52, _MAGIC, b"s" * 16, 1, bytes(16), 1)


@asynccontextmanager
async def attacked(number: int = 0, **options: Any) -> AsyncIterator[tuple[Network, raw.Raw, Counter[str]]]:
    """A node, a connection of a member that is up to no good, and what the node holds against it.

    number: which of two members attacks; the lower one may open the stream of messages.
    """
    town = Town(2)
    bad, good = town.members[number], town.members[1 - number]
    network = town.network(good, Memo(), neighbours=(), **{"gossip": False, **options})
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        async with raw.raw_peer(port_of(town, good), network.peer_id, town.keys[bad]) as peer:
            yield network, peer, Faults(network)
        nursery.cancel_scope.cancel()


class Faults(Counter[str]):
    """The reasons counted against members so far."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    def __getitem__(self, reason: str) -> int:
        return sum(count for (_, why), count in self._network.faults.items() if why == reason)


def port_of(town: Town, one: Any) -> int:
    return int(town.addresses[one].address.rpartition("/")[2])


async def is_served(network: Network, peer: raw.Raw) -> bool:
    """Whether a ping comes back on this connection."""
    peer.received.clear()
    await peer.open(PING, b"p" * 32)
    await until(lambda: b"p" * 32 in peer.received)
    return True


# ---------------------------------------------------------------------------
# Frames of yamux.


async def test_who_keeps_to_the_rules_is_served() -> None:
    async with attacked() as (network, peer, _):
        assert await is_served(network, peer)
        assert not network.faults


@pytest.mark.parametrize(
    ("reason", "frame"),
    [
        ("window_overrun", raw.frame(raw.DATA, raw.SYN, 1, length=frames.FIRST_WINDOW_BYTES + 1)),
        ("window_overrun", raw.frame(raw.DATA, 0, 99, length=16 * MIB)),
        ("bad_mux", raw.frame(raw.DATA, raw.SYN, 2)),
        ("bad_mux", raw.frame(raw.DATA, raw.SYN, 0)),
        ("bad_mux", raw.frame(7, 0, 1)),
        ("bad_mux", raw.frame(raw.PING, raw.SYN, 5)),
        ("bad_mux", raw.frame(raw.DATA, 0x8000, 1)),
        ("bad_mux", b"\x09" + raw.frame(raw.PING, raw.SYN, 0)[1:]),
    ],
)
async def test_a_frame_that_no_yamux_sends_ends_the_connection(reason: str, frame: bytes) -> None:
    async with attacked() as (_, peer, faults):
        await peer.send(frame)
        await until(lambda: peer.gone)
        assert faults[reason] == 1


async def test_more_than_the_window_is_not_kept() -> None:
    """libp2p logs it. Here what nobody reads is one window, and then the connection is over."""
    async with attacked() as (_, peer, faults):
        number = peer.new_id()
        with suppress(EOFError):
            await peer.send(raw.frame(raw.DATA, raw.SYN, number, bytes(60_000)))
            for _ in range(20):
                await peer.send(raw.frame(raw.DATA, 0, number, bytes(60_000)))
        await until(lambda: peer.gone)
        assert faults["window_overrun"] == 1


async def test_more_streams_than_anybody_needs_end_the_connection() -> None:
    async with attacked() as (_, peer, faults):
        with suppress(EOFError):
            for _ in range(frames.STREAMS_MAX + 1):
                await peer.send(raw.frame(raw.DATA, raw.SYN, peer.new_id()))
        await until(lambda: peer.gone)
        assert faults["stream_flood"] == 1


async def test_what_a_reset_stream_left_unread_is_forgotten() -> None:
    async with attacked() as (network, peer, faults):
        for _ in range(60):
            number = peer.new_id()
            await peer.send(
                raw.frame(raw.DATA, raw.SYN, number, b"\x00" * 60_000),
                raw.frame(raw.WINDOW_UPDATE, raw.RST, number),
            )
        assert await is_served(network, peer)
        (conn,) = network._sockets._swarm.get_connections()
        assert sum(map(len, conn.muxed_conn.stream_buffers.values())) < 60_000
        assert faults["window_overrun"] == 0


@pytest.mark.parametrize(
    ("small", "count"),
    [
        (raw.frame(raw.PING, raw.SYN, 0, length=7), frames.PINGS_BURST + 30),
        (raw.frame(raw.WINDOW_UPDATE, 0, 77, length=1), frames.SMALL_BURST + 12_000),
        (raw.frame(raw.DATA, 0, 77), frames.SMALL_BURST + 12_000),
    ],
    ids=("pings", "updates", "empty"),
)
async def test_a_flood_of_small_frames_is_read_slowly(small: bytes, count: int) -> None:
    async with attacked() as (_, peer, faults):
        await peer.send(small * count)
        await until(lambda: faults["mux_flood"] >= 2)
        assert not peer.gone  # Held up, and not sent away for a bad moment.


# ---------------------------------------------------------------------------
# Before anybody is known.


@pytest.fixture
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a minute after the start."""
    monkeypatch.setattr("p2pfl.net.outside.GRACE_S", 0.0)


@pytest.mark.usefixtures("_no_grace")
async def test_half_open_handshakes_give_way_and_do_not_keep_others_out() -> None:
    async with attacked() as (network, peer, _):
        port = int(network._sockets._listen.rpartition("/")[2])
        hanging = []
        for _ in range(90):
            hanging.append(await raw.socket_to(port, "127.0.0.77"))
        await until(lambda: network.outside.faults["half_open"] >= FAULTS_MAX)
        assert network.outside.door.half_open <= 64
        assert "127.0.0.77" in network.outside.door.barred()
        assert await is_served(network, peer)
        await (await raw.shaken(port, network.peer_id, peer_key(0), "127.0.0.78")).close()
        for one in hanging:
            await one.aclose()
        await until(lambda: network.outside.door.half_open == 0)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 50,
        raw.varint(1 << 62) + b"x" * 5000,  # A name of a protocol, longer than any memory.
        raw.line("/multistream/1.0.0") + b"\x03\xff\xfe\n",  # A name that is no text.
        raw.line("/multistream/1.0.0") + raw.line("/noise") + b"\xff\xff" + bytes(65535),
    ],
)
@pytest.mark.usefixtures("_no_grace")
async def test_a_handshake_of_rubbish_is_counted_and_its_address_barred(said: bytes) -> None:
    town = Town(1)
    network = town.network(town.members[0], gossip=False)
    port = port_of(town, town.members[0])
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        for _ in range(FAULTS_MAX + 1):
            with suppress(*raw.GONE):
                async with await raw.socket_to(port) as tcp:
                    await tcp.send_all(said)
                    while await tcp.receive_some():
                        pass
        assert network.outside.faults["bad_handshake"] == FAULTS_MAX
        assert network.outside.door.is_barred(raw.ELSEWHERE)
        with pytest.raises(raw.GONE):
            await raw.shaken(port, network.peer_id, peer_key(7))
        nursery.cancel_scope.cancel()


async def test_an_address_that_calls_again_and_again_is_slowed_down() -> None:
    town = Town(2)
    network = town.network(town.members[0], gossip=False, neighbours=())
    port = port_of(town, town.members[0])
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        for _ in range(130):
            await (await raw.socket_to(port, "127.0.0.1")).aclose()
        await until(lambda: network.outside.faults["connection_flood"] > 0)
        assert not network.outside.door.barred()  # Members live there too.
        nursery.cancel_scope.cancel()


async def test_strangers_with_new_names_leave_nothing_behind() -> None:
    """libp2p remembers each peer id three times, for ever: strangers that come all day filled the memory."""
    async with attacked() as (network, peer, _):
        port = int(network._sockets._listen.rpartition("/")[2])
        for number in range(20):
            await (await raw.shaken(port, network.peer_id, peer_key(100 + number))).close()
        assert await is_served(network, peer)
        await until(lambda: len(network._sockets._swarm.get_connections()) == 1)
        await trio.sleep(0.5)  # libp2p tells of a lost connection later.
        swarm = network._sockets._swarm
        books = [
            (type(owner).__name__, name)
            for owner in (swarm, swarm._resource_manager, swarm.auto_connector, swarm.peerstore, network)
            for name, book in vars(owner).items()
            if isinstance(book, (dict, list, set)) and len(book) >= 20 and name != "strangers"
        ]
        assert books == []
        assert swarm._resource_manager.connection_rate_limiter is None


def test_keys_that_take_long_to_check_are_none() -> None:
    """Before noise is through, a stranger's key is parsed and its signature checked."""
    key = raw.create_rsa_key(1024).public_key.serialize()
    with pytest.raises(Exception, match="key_type"):
        raw.deserialize_public_key(key)


# ---------------------------------------------------------------------------
# libp2p's own protocols.


async def test_a_flood_of_pings_is_answered_slowly() -> None:
    async with attacked() as (network, peer, faults):
        number = await peer.open(PING)
        for _ in range(10):
            await peer.send(raw.frame(raw.DATA, 0, number, b"f" * 3200))
        await until(lambda: faults["ping_flood"] > 0)
        assert peer.received.count(b"f" * 32) < 200
        assert await is_served(network, peer)


@pytest.mark.parametrize("protocol", [PING, "/ipfs/id/1.0.0"])
async def test_streams_of_each_protocol_of_libp2p_are_few(protocol: str) -> None:
    async with attacked() as (_, peer, faults):
        for _ in range(30):
            await peer.open(protocol)
        await until(lambda: faults["stream_flood"] >= 10)


async def test_nobody_is_told_who_others_say_they_are() -> None:
    async with attacked() as (_, peer, _faults):
        await peer.open("/ipfs/id/push/1.0.0", bytes(5000))
        await until(lambda: raw.line("na") in peer.received)


# ---------------------------------------------------------------------------
# Gossip.

GOSSIP = str(gossip.PROTOCOL_ID_V11)


def rpc(message: raw.rpc_pb2.RPC) -> bytes:
    data = message.SerializeToString()
    return raw.varint(len(data)) + data


def unsigned(topic: str, key: bytes = b"") -> raw.rpc_pb2.RPC:
    said = raw.rpc_pb2.RPC()
    made = said.publish.add(from_id=b"nobody", data=b"\x06" * 40, seqno=b"12345678", topicIDs=[topic])
    if key:
        made.key, made.signature = key, b"s" * 64  # libp2p looks at the key only where there is a signature.
    return said


@pytest.fixture
def _gossip_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "QUIET_START_S", 0.0)


@pytest.mark.usefixtures("_gossip_at_once")
@pytest.mark.parametrize(
    "make",
    [
        lambda topic: rpc(unsigned(topic)),
        lambda topic: rpc(unsigned(topic, key=b"no key at all")),
        lambda _: raw.varint(1 << 20) + bytes(1000),
        lambda _: raw.varint(100) + b"\xff" * 100,
    ],
)
async def test_gossip_that_libp2p_cannot_take_apart_is_counted_and_does_not_end_it(
    make: Callable[[str], bytes],
) -> None:
    """An exception in the task of one message ended the whole service for five seconds."""
    async with attacked(gossip=True) as (network, peer, faults):
        assert network._gossip is not None
        await until(lambda: network._gossip.pubsub is not None)
        service = network._gossip.pubsub
        await peer.open(GOSSIP, make(network._gossip.topic))
        await until(lambda: faults["bad_gossip"] == 1)
        await trio.sleep(0.2)
        assert network._gossip.pubsub is service
        assert service.manager.is_running


@pytest.mark.usefixtures("_gossip_at_once")
async def test_a_flood_of_gossip_is_read_slowly_and_fills_no_books() -> None:
    async with attacked(gossip=True) as (network, peer, faults):
        assert network._gossip is not None
        await until(lambda: network._gossip.pubsub is not None)
        number = await peer.open(GOSSIP)
        for turn in range(60):
            said = raw.rpc_pb2.RPC()
            for each in range(300):
                said.control.graft.add(topicID=f"topic {turn} {each}")
                said.control.ihave.add(topicID=f"topic {turn} {each}", messageIDs=[b"00"])
            with trio.move_on_after(0.1):
                await peer.send(raw.frame(raw.DATA, 0, number, rpc(said)))
        await until(lambda: faults["gossip_flood"] > 0)
        router = network._gossip.pubsub.router
        books = [getattr(router, name) for name in vars(router)]
        assert all(len(book) < 50 for book in books if isinstance(book, dict))


# ---------------------------------------------------------------------------
# Our own protocols.


def message(number: int, packed: bytes) -> bytes:
    return struct.pack(">IQQQ", 24 + len(packed), number, 1, 1) + packed


async def test_a_flood_of_messages_is_read_slowly() -> None:
    """The burst at once; after it, what comes is dropped, and nothing is read for a while."""
    async with attacked() as (network, peer, faults):
        number = await peer.open(MESSAGES, HELLO)
        beats = message(0, wire.pack(wire.Heartbeat())) * 1000
        begun_s = trio.current_time()
        for _ in range(7):
            await peer.send(raw.frame(raw.DATA, 0, number, beats))
        await until(lambda: faults["flood"] >= 5500)
        # Seven thousand are three reads of 64 KiB, each followed by a pause.
        assert trio.current_time() - begun_s > 2 * stream.FLOOD_PAUSE_S
        assert len(network.connected) == 1


async def test_who_asks_for_everything_again_and_again_is_heard_a_few_times() -> None:
    async with attacked() as (network, peer, faults):
        (link,) = [one.link for one in network._peers.values()]
        link.send(wire.pack(wire.Have(bytes(32))))
        rewinds = Counter[str]()
        plain = link.outbox.rewind

        def rewind() -> None:
            rewinds["all"] += 1
            plain()

        link.outbox.rewind = rewind
        number = await peer.open(MESSAGES, HELLO)
        again = message(0, wire.pack(wire.Heartbeat(again=True)))
        await peer.send(raw.frame(raw.DATA, 0, number, again * 200))
        await until(lambda: faults["flood"] >= 130)
        assert rewinds["all"] < 70


async def test_of_many_streams_of_messages_the_newest_is_served_at_once() -> None:
    async with attacked() as (network, peer, _):
        for _each in range(30):
            await peer.open(MESSAGES)  # No hello: each would be waited for, for five seconds.
        await peer.open(MESSAGES, HELLO)
        await network.wait_connected(network._peers, 3.0)
