"""The traps of py-libp2p 0.8.1, each with a test that catches its return (docs/libp2p.md, same numbers)."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from contextlib import suppress
from random import Random
from typing import Any

import pytest
import trio

from p2pfl.errors import UserError
from p2pfl.net import patches, sockets, stream
from p2pfl.net.interface import Unreachable
from p2pfl.net.options import NetOptions
from p2pfl.net.stream import StreamBroken
from tests.net.common import noise
from tests.net.nodes import ECHO, RAISE, SINK, Node, echoes, live, nodes, until, write_on


async def test_1_cancelling_writes_and_reads_does_not_kill_the_connection() -> None:
    """Noise counts what it encrypts: a write that is cancelled half-way must not lose a number."""
    chance = Random(1)
    async with nodes() as (a, b):
        await a.call(b)
        b.pause_s = 0.001
        conn = a.sockets._connections(b.sockets.peer_id)[0]
        for _ in range(40):
            one = await a.open(b, SINK)
            with trio.move_on_after(chance.uniform(0, 0.004)):
                while True:
                    await one.write(bytes(200_000))
            await one.reset()
        for _ in range(40):
            one = await a.open(b, ECHO)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_on, one)
                with trio.move_on_after(chance.uniform(0, 0.01)):
                    while True:
                        await one.read(1000)
                nursery.cancel_scope.cancel()
            await one.reset()
        assert not conn.is_closed
        assert await echoes(await a.open(b, ECHO), b"still the same connection")
        assert a.sockets._connections(b.sockets.peer_id) == [conn]


async def test_2_a_handler_that_raises_leaves_the_host_alive() -> None:
    async with nodes() as (a, b):
        await a.call(b)
        with pytest.raises(StreamBroken):
            await (await a.open(b, RAISE)).read()
        assert [type(bug) for bug in b.bugs] == [ZeroDivisionError]
        assert await echoes(await a.open(b, ECHO), b"alive")


async def test_2_a_handler_of_libp2p_that_raises_leaves_the_host_alive() -> None:
    """Gossip's does, when a message comes in while its service stops."""
    from libp2p.custom_types import TProtocol

    async def fail(raw: Any) -> None:
        raise RuntimeError

    async with nodes() as (a, b):
        b.sockets.host.set_stream_handler(TProtocol("/libp2p/its/own"), fail)
        await a.call(b)
        with pytest.raises(StreamBroken):
            await (await a.open(b, "/libp2p/its/own")).read()
        assert b.bugs == []
        assert await echoes(await a.open(b, ECHO), b"alive")


async def test_6_a_reader_that_pauses_for_longer_than_five_seconds_loses_nothing() -> None:
    """libp2p gives up on a window after 5 s; here the heartbeat decides who is dead."""
    async with nodes() as (a, b):
        await a.call(b)
        b.first_pause_s = 5.5
        one = await a.open(b, SINK)
        size = 2_000_000  # More than the first windows: the writer waits for the reader's second read.
        with trio.fail_after(12):
            await one.write(bytes(size))
        await until(lambda: b.sunk == size)


async def test_7_whoever_leaves_says_so_and_may_come_back_at_once() -> None:
    a, b = Node(0), Node(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(live, a)
        for _ in range(3):
            scope = await nursery.start(live, b)
            await a.call(b)
            assert await echoes(await a.open(b, ECHO), b"here")
            scope.cancel()
            assert await until(lambda: not a.sees(b), 2) < 1.0
            b.make()
            await until(lambda: port_is_free(b))
        nursery.cancel_scope.cancel()


def port_is_free(node: Node) -> bool:
    from p2pfl.net.listening import assert_free, parsed

    try:
        assert_free(parsed(node.address))
    except UserError:
        return False
    return True


async def test_11_a_peer_that_did_not_answer_can_be_called_again_at_once() -> None:
    a, b = Node(0), Node(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(live, a)
        for _ in range(2):
            with pytest.raises(Unreachable):
                await a.call(b)
        await nursery.start(live, b)
        await a.call(b)
        assert a.sees(b)
        nursery.cancel_scope.cancel()


async def test_12_a_connection_is_made_without_waiting_for_a_second_address() -> None:
    """It took at least 250 ms however quick the peer was."""
    async with nodes(8) as (a, *others):
        took: list[float] = []
        for other in others:
            began = time.perf_counter()
            await a.call(other)
            took.append(time.perf_counter() - began)
        assert statistics.median(took) < 0.2


async def test_13_connections_that_are_gone_hold_no_slots() -> None:
    """libp2p kept one of 250 inbound slots for every connection ever accepted."""
    async with nodes() as (a, b):
        limiter = b.sockets._swarm._inbound_limiter
        for _ in range(12):
            await a.call(b)
            a.sockets.drop(b.sockets.peer_id)
            await until(lambda: not a.sees(b) and not b.sees(a))
        await until(lambda: limiter.borrowed_tokens == 0, 2)


async def test_14_a_port_that_is_in_use_is_an_error_of_the_operator() -> None:
    """libp2p shares the port (SO_REUSEPORT), and says nothing when it cannot listen at all."""
    async with nodes(1) as (a,):
        b = Node(1)
        b.address = a.address
        b.make()
        with pytest.raises(UserError, match="cannot listen"):
            async with b.sockets.running():
                pass
    for address in ("/ip4/127.0.0.1/udp/1", "localhost:4001", "/ip4/192.0.2.1/tcp/4001"):
        b.address = address
        b.make()
        with pytest.raises(UserError):
            async with b.sockets.running():
                pass


async def test_14_a_host_that_does_not_listen_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the address is lost after we looked: `listen` returns false, and to nobody."""
    monkeypatch.setattr(sockets, "assert_free", lambda _: None)
    for transport in ("tcp", "websocket"):
        node = Node(0, options=NetOptions(transport=transport))
        node.address = node.address.replace("127.0.0.1", "192.0.2.1")
        node.make()
        with pytest.raises(UserError, match="cannot listen"), stream.one_error():
            async with node.sockets.running():
                pass


async def test_15_libp2p_calls_nobody_on_its_own() -> None:
    """Its auto-connector calls everybody whose address it ever saw, whatever our dialer thinks."""
    import multiaddr
    from libp2p.peer.id import ID

    async with nodes() as (a, b):
        where = [multiaddr.Multiaddr(b.address)]
        a.sockets.host.get_peerstore().add_addrs(ID.from_string(b.sockets.peer_id), where, 100)
        a.sockets._swarm._schedule_auto_connect()
        await trio.sleep(0.3)
        assert not a.sees(b)
        assert b.changes == []


async def test_16_a_large_write_costs_one_noise_message_a_frame() -> None:
    """A frame of 65,524 bytes does not fit one: the second noise message cost a third of the throughput."""
    async with nodes() as (a, b):
        await a.call(b)
        one = await a.open(b, SINK)
        secured = a.sockets._connections(b.sockets.peer_id)[0].muxed_conn.secured_conn
        sizes: list[int] = []
        encrypt = secured.conn.encrypt
        secured.conn.encrypt = lambda data: sizes.append(len(data)) or encrypt(data)
        await one.write(bytes(3 * 65_507))  # Within the first window.
        await until(lambda: b.sunk == 3 * 65_507)
        assert [size for size in sizes if size > 12] == [65_519] * 3


async def test_17_reading_grants_credit_in_quarters_not_for_every_read() -> None:
    async with nodes() as (a, b):
        await a.call(b)
        one = await a.open(b, ECHO)
        await echoes(one, b"x")
        tcp: Any = patches.tcp_of(a.sockets._connections(b.sockets.peer_id)[0].muxed_conn)
        before = tcp.mps_sent
        for _ in range(50):
            await echoes(one, b"0123456789")
        # 10 bytes, yamux's 12, noise's 18: a window update for each would be 30 more.
        assert tcp.mps_sent - before <= 50 * 40 + 100


async def test_a_stranger_is_shown_the_door() -> None:
    async with nodes() as (a, b):
        b.admits = False
        await a.call(b)
        await until(lambda: not a.sees(b))
        assert b.refused == [a.sockets.peer_id]
        assert b.changes == []


async def test_two_who_call_each_other_at_the_same_time_end_with_one_connection() -> None:
    for _ in range(5):
        async with nodes() as (a, b):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.call, b)
                nursery.start_soon(b.call, a)
            await trio.sleep(0.5)
            ours = a.sockets._connections(b.sockets.peer_id)
            theirs = b.sockets._connections(a.sockets.peer_id)
            assert len(ours) == len(theirs) == 1
            assert await echoes(await a.open(b, ECHO), b"one")


async def test_bytes_of_closed_connections_are_still_counted() -> None:
    async with nodes() as (a, b):
        await a.call(b)
        assert await echoes(await a.open(b, ECHO), noise(100_000))
        a.sockets.drop(b.sockets.peer_id)
        await until(lambda: not a.sees(b) and not b.sees(a))
        sent, received = a.sockets.totals()
        assert sent > 100_000
        assert received > 100_000
        assert a.sockets.by_protocol()[0][ECHO] == 100_000


def test_another_version_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patches reach into the insides of one version."""
    monkeypatch.setattr(patches, "version", lambda _: "0.9.0")
    with pytest.raises(UserError, match=r"libp2p 0\.8\.1 is needed"):
        patches._assert_version()


def test_importing_starts_no_thread_and_says_nothing() -> None:
    """The testnet forks from a process that has imported everything."""
    code = "import p2pfl.net.host, threading, logging; print(threading.active_count(), logging.root.handlers)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "[]"]
    assert done.stderr == ""


def test_four_hosts_that_come_and_go_say_nothing_of_libp2p_at_level_info() -> None:
    code = """
import trio
from p2pfl import telemetry
from p2pfl.net import gossip
from tests.net.hosts import hosts
telemetry.configure(level="info", path=None)
gossip.QUIET_START_S = 0.0
async def main():
    async with hosts(4, gossip=True) as (town, nets, _):
        nets[0]._sockets.drop(nets[1].peer_id)
        for call in (
            nets[0]._sockets.open(nets[2].peer_id, "/nobody/knows/this"),
            nets[0]._sockets.connect(nets[3].peer_id[:-1] + "a", "/ip4/127.0.0.1/tcp/1"),
        ):
            try:
                await call
            except Exception as error:
                print(type(error).__name__)
        await trio.sleep(1.0)
        telemetry.logger("net").info("they are up")
trio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "they are up" in done.stderr
    assert [line for line in done.stderr.splitlines() if " net: " not in line or "libp2p" in line] == []
    assert done.stdout.split() == ["StreamBroken", "Unreachable"]


def test_the_heartbeat_notices_within_ten_seconds() -> None:
    from p2pfl.net import dialer

    assert stream.FROZEN_S + dialer.WATCH_S < 10
    assert stream.FROZEN_S >= 3 * stream.HEARTBEAT_S


async def test_rubbish_at_the_door_harms_nobody_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random bytes, HTTP, half a handshake, and half-open sockets: the good peer is served meanwhile."""
    monkeypatch.setattr(sockets, "HANDSHAKE_S", 1.0)
    chance = Random(5)
    multistream = b"\x13/multistream/1.0.0\n"
    openings = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff" * 2000,
        chance.randbytes(5000),
        multistream + b"\x07/noise\n" + (40_000).to_bytes(2, "big") + chance.randbytes(500),
        multistream + b"\x07/noise\n" + (32).to_bytes(2, "big") + chance.randbytes(32),
        multistream + b"\x0d/yamux/1.0.0\n",
        multistream,
        b"",
    ]
    async with nodes() as (a, b):
        await a.call(b)
        good = await a.open(b, ECHO)
        host, port = b.address.split("/")[2], int(b.address.split("/")[4])
        open_now: list[Any] = []
        for turn in range(40):
            knock = await trio.open_tcp_stream(host, port)
            open_now.append(knock)
            with suppress(trio.BrokenResourceError):
                await knock.send_all(openings[turn % len(openings)])
            if turn % 3 == 0:
                await knock.aclose()
        assert await echoes(good, noise(50_000))
        assert await echoes(await a.open(b, ECHO), b"a new stream")
        await until(lambda: b.sockets._swarm._inbound_limiter.borrowed_tokens <= 1)
        for knock in open_now:
            await knock.aclose()
        assert b.bugs == []
        assert await echoes(good, b"still there")
