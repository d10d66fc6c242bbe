"""Every stack that an operator may choose carries what the default carries; none falls back to another."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from random import Random
from typing import Any

import nacl.bindings
import pytest
import trio

from p2pfl import config, params
from p2pfl.cli import main
from p2pfl.cli.node import _net_options
from p2pfl.errors import UserError
from p2pfl.net import patches, pnet, sockets, transport, websocket
from p2pfl.net.identity import peer_id_of
from p2pfl.net.interface import PeerAddress, Unreachable
from p2pfl.net.listening import announced, parsed
from p2pfl.net.options import NetOptions
from p2pfl.net.own import own_addresses
from p2pfl.net.stream import StreamBroken
from tests.net.common import Memo, noise, tip
from tests.net.hosts import Town, free_port, hosts
from tests.net.nodes import ECHO, SINK, Node, echoes, live, nodes, until, write_on

STACKS = {
    "tls": NetOptions(security="tls"),
    "websocket": NetOptions(transport="websocket"),
    "network key": NetOptions(psk_file=Path("swarm.key")),
    "all three": NetOptions(transport="websocket", security="tls", psk_file=Path("swarm.key")),
}


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NetOptions:
    monkeypatch.chdir(tmp_path)
    pnet.create_file(Path("swarm.key"))
    return STACKS[request.param]


async def test_messages_and_blobs_arrive_and_a_lost_connection_comes_back(stack: NetOptions) -> None:
    data = noise(3_000_000)
    blob_id = params.blob_id(data)
    async with hosts(2, options=stack) as (town, (a, b), (memo_a, memo_b)):
        memo_b.hold(data, blob_id)
        sent = 0
        for _ in range(2):
            for _ in range(50):
                a.send(b.me, tip(sent))
                b.send(a.me, tip(sent))
                sent += 1
            fetched = await a.fetch_blob(blob_id, len(data), lambda: [b.me], timeout_s=20)
            assert fetched.data == data
            a._sockets.drop(b.peer_id)
            await until(lambda: b.me not in a.connected)
            await a.wait_connected(town.members, 5)
        for memo in (memo_a, memo_b):
            await memo.until(lambda memo=memo: len(memo.inbox) >= sent)
            assert memo.heights() == list(range(sent))
        # libp2p tells a little late that a connection is gone; then its bytes are added.
        await until(lambda: a._sockets.totals()[1] > 2 * len(data))


async def test_what_is_cancelled_kills_no_connection_and_whoever_leaves_says_so(stack: NetOptions) -> None:
    chance = Random(2)
    a, b = Node(0, options=stack), Node(1, options=stack)
    async with trio.open_nursery() as nursery:
        await nursery.start(live, a)
        scope = await nursery.start(live, b)
        await a.call(b)
        conn = a.sockets._connections(b.sockets.peer_id)[0]
        for _ in range(20):
            one = await a.open(b, SINK)
            with trio.move_on_after(chance.uniform(0, 0.004)):
                await write_on(one)
            await one.reset()
        for _ in range(20):
            one = await a.open(b, ECHO)
            async with trio.open_nursery() as writing:
                writing.start_soon(write_on, one)
                with trio.move_on_after(chance.uniform(0, 0.01)):
                    while True:
                        await one.read(1000)
                writing.cancel_scope.cancel()
            await one.reset()
        assert await echoes(await a.open(b, ECHO), noise(100_000))
        assert a.sockets._connections(b.sockets.peer_id) == [conn]
        scope.cancel()
        assert await until(lambda: not a.sees(b), 2) < 1.0
        nursery.cancel_scope.cancel()


async def test_a_stalled_socket_is_closed_and_wakes_whoever_is_stuck_in_it(stack: NetOptions) -> None:
    """`abort` reaches the socket below every stack: nobody waits for a frozen peer to take a farewell."""
    async with nodes(2, stack) as (a, b):
        await a.call(b)
        b.first_pause_s = 30.0
        one = await a.open(b, SINK)
        with trio.fail_after(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drop_later, a, b)
                with pytest.raises(StreamBroken):
                    await write_on(one)
        await until(lambda: not a.sees(b))


async def test_nobody_is_taken_for_somebody_else(stack: NetOptions) -> None:
    """Whoever answers must have the key of the peer id that was called."""
    async with nodes(2, stack) as (a, b):
        with pytest.raises(Unreachable):
            await a.sockets.connect(peer_id_of(os.urandom(32)), b.address)
        await until(lambda: not a.sockets._swarm.get_connections())
        await a.call(b)
        assert await echoes(await a.open(b, ECHO), b"the right one")


async def drop_later(a: Node, b: Node) -> None:
    await trio.sleep(0.3)
    a.sockets.drop(b.sockets.peer_id)


async def test_two_that_shake_hands_differently_do_not_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fallback: neither to noise, nor to no key."""
    monkeypatch.setattr(sockets, "HANDSHAKE_S", 1.0)
    with_key = NetOptions(psk_file=tmp_path / "a.key")
    other_key = NetOptions(psk_file=tmp_path / "b.key")
    for options in (with_key, other_key):
        assert options.psk_file is not None
        pnet.create_file(options.psk_file)
    pairs = ((NetOptions(), NetOptions(security="tls")), (with_key, NetOptions()), (with_key, other_key))
    for one, other in (*pairs, *((other, one) for one, other in pairs)):
        a, b = Node(0, options=one), Node(1, options=other)
        async with trio.open_nursery() as nursery:
            for node in (a, b):
                await nursery.start(live, node)
            with pytest.raises(Unreachable):
                await a.call(b)
            assert not b.changes
            await until(lambda b=b: b.sockets._swarm._inbound_limiter.borrowed_tokens == 0, 1.0)
            nursery.cancel_scope.cancel()


async def test_whoever_says_nothing_or_rubbish_at_a_private_network_keeps_no_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "HANDSHAKE_S", 0.5)
    monkeypatch.setattr(websocket, "OPEN_S", 0.5)
    pnet.create_file(tmp_path / "swarm.key")
    asked = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    asked += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    for kind, openings in (
        ("tcp", (b"", b"\x00", bytes(24), os.urandom(24), os.urandom(2000), b"\x13/multistream/1.0.0\n" * 9)),
        ("websocket", (b"", b"GET / HTTP/1.1\r\n\r\n", asked[:70], asked, asked + b"\x82", b"\xff" * 90_000)),
    ):
        async with nodes(2, NetOptions(transport=kind, psk_file=tmp_path / "swarm.key")) as (a, b):
            parts = b.address.split("/")
            knocks = [await trio.open_tcp_stream(parts[2], int(parts[4])) for _ in openings]
            for knock, opening in zip(knocks, openings, strict=True):
                await knock.send_all(opening)
            for knock in knocks:
                with trio.fail_after(3):
                    await until_shut(knock)
            assert b.sockets._swarm._inbound_limiter.borrowed_tokens == 0
            await a.call(b)
            assert await echoes(await a.open(b, ECHO), b"friend")


async def until_shut(knock: trio.SocketStream) -> None:
    """Until the other side has closed it, whatever it says before."""
    try:
        while await knock.receive_some():
            pass
    except trio.BrokenResourceError:
        return
    finally:
        await knock.aclose()


@pytest.mark.parametrize("ending", ["", "/ws"])
async def test_ip6_and_names_are_listened_at_and_called(ending: str) -> None:
    options = NetOptions(transport="websocket" if ending else "tcp")
    a, b = Node(0, options=options), Node(1, options=options)
    port = free_port()
    async with trio.open_nursery() as nursery:
        await nursery.start(live, a)
        for listen, called in (
            (f"/ip6/::1/tcp/{port}", f"/ip6/::1/tcp/{port}"),
            (f"/ip4/127.0.0.1/tcp/{port}", f"/dns4/localhost/tcp/{port}"),
            (f"/ip4/127.0.0.1/tcp/{port}", f"/dns/localhost/tcp/{port}"),  # ::1 may come first.
        ):
            b.address = listen + ending
            b.make()
            scope = await nursery.start(live, b)
            await a.sockets.connect(b.sockets.peer_id, called + ending)
            assert await echoes(await a.open(b, ECHO), b"here")
            seen: Any = patches.tcp_of(b.sockets._connections(a.sockets.peer_id)[0].muxed_conn)
            assert seen.get_remote_address()[0] == listen.split("/")[2]
            scope.cancel()
            await until(lambda: not a.sees(b))
            await until(lambda: b.sockets._nursery is None)
            await trio.sleep(0.2)
        for nowhere in ("/dns4/no.such.name.invalid/tcp/1", "/dns6/127.0.0.1/tcp/1", "/ip4/300.0.0.1/tcp/1"):
            with pytest.raises(Unreachable):
                await a.sockets.connect(b.sockets.peer_id, nowhere)
        nursery.cancel_scope.cancel()


async def test_members_find_each_other_at_ip6_and_as_websockets() -> None:
    for address in ("/ip6/::1/tcp/{}", "/ip6/::1/tcp/{}/ws"):
        options = NetOptions(transport="websocket" if address.endswith("ws") else "tcp")
        town = Town(2)
        for one, at in town.addresses.items():
            town.addresses[one] = PeerAddress(at.peer_id, address.format(free_port()))
        memo = Memo()
        a, b = (town.network(one, memo, gossip=False, options=options) for one in town.members)
        async with trio.open_nursery() as nursery:
            for net in (a, b):
                await nursery.start(net.run)
            await a.wait_connected(town.members, 10)
            a.send(b.me, tip(1))
            await memo.until(lambda memo=memo: memo.heights() == [1])
            nursery.cancel_scope.cancel()


def test_a_record_names_the_interfaces_of_the_kind_that_is_listened_at() -> None:
    def found(version: int) -> list[str]:
        return ["127.0.0.1", "10.0.0.5"] if version == 4 else ["::1", "fe80::1%eth0", "2001:db8::5"]

    for listen, expected in (
        ("/ip4/0.0.0.0/tcp/9", "/ip4/10.0.0.5/tcp/9"),
        ("/ip4/0.0.0.0/tcp/9/ws", "/ip4/10.0.0.5/tcp/9/ws"),
        ("/ip6/::/tcp/9", "/ip6/2001:db8::5/tcp/9"),
        ("/ip6/::1/tcp/9/ws", "/ip6/::1/tcp/9/ws"),
    ):
        assert own_addresses(listen, (), found) == (expected,)
    assert own_addresses("/ip6/::/tcp/9", (), lambda _: []) == ("/ip6/::1/tcp/9",)


def test_an_address_that_does_not_go_with_the_setting_is_an_error_of_the_operator() -> None:
    assert str(parsed("/ip6/::1/tcp/1")) == "/ip6/::1/tcp/1"
    assert str(parsed("/ip4/0.0.0.0/tcp/1/ws", "websocket")) == "/ip4/0.0.0.0/tcp/1/ws"
    for address, chosen, because in (
        ("/ip4/127.0.0.1/tcp/1/ws", "tcp", "net.transport is tcp"),
        ("/ip4/127.0.0.1/tcp/1", "websocket", "net.transport is websocket"),
        ("/ip4/127.0.0.1/udp/1/quic-v1", "tcp", "not one to listen at"),
        ("/dns4/localhost/tcp/1", "tcp", "not one to listen at"),
        ("/ip4/127.0.0.1/tcp/1/wss", "websocket", "not one to listen at"),
    ):
        with pytest.raises(UserError, match=because):
            parsed(address, chosen)


async def test_nobody_is_told_to_call_an_address_that_stands_for_all() -> None:
    for listen in ("/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001", "/ip4/0.0.0.0/tcp/4001/ws"):
        at = parsed(listen, "websocket" if listen.endswith("ws") else "tcp")
        assert announced(at, None) == []
        assert [str(one) for one in announced(at, "/dns4/x.example/tcp/1")] == ["/dns4/x.example/tcp/1"]
    with pytest.raises(UserError, match="genesis"):
        announced(at, "nonsense")
    node = Node(0)
    node.address = f"/ip4/0.0.0.0/tcp/{free_port()}"
    node.make()
    async with node.sockets.running():
        assert node.sockets.host.get_addrs() == []


def test_the_key_stream_is_xsalsa20() -> None:
    """As in go and js: specs/pnet. libp2p 0.8.1 itself uses another cipher."""
    key, nonce, text = os.urandom(32), os.urandom(24), noise(5_000)
    # A secret box is 16 bytes of authentication, then the text under the key stream from its 33rd byte on.
    box = nacl.bindings.crypto_secretbox(text, nonce, key)[16:]
    assert pnet.xsalsa20(key, nonce).encrypt(bytes(32) + text)[32:] == box


async def test_a_nonce_and_words_that_come_byte_by_byte_are_understood() -> None:
    class Pipe:
        def __init__(self) -> None:
            self.data = b""

        async def write(self, data: bytes) -> None:
            self.data += data

        async def read(self, n: int | None = None) -> bytes:
            one, self.data = self.data[:1], self.data[1:]
            return one

    key = os.urandom(32)
    for words, good in ((b"\x13/multistream/1.0.0\n and more", True), (b"\x13/multistream/9", False)):
        pipe = Pipe()
        await pnet.ProtectedConn(pipe, key).write(words)
        reader, got = pnet.ProtectedConn(pipe, key), b""
        if good:
            while len(got) < len(words):
                got += await reader.read(100)
            assert got == words
            assert await reader.read(100) == b""
        else:
            with pytest.raises(pnet.WrongKey):
                await until_the_end(reader)


async def until_the_end(reader: pnet.ProtectedConn) -> None:
    while await reader.read(100):
        pass


def test_a_key_file_is_made_once_for_us_alone_and_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "swarm.key"
    assert main(["keys", "new", "network", str(path)]) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_text().splitlines()
    assert lines[:2] == ["/key/swarm/psk/1.0.0/", "/base16/"]
    assert pnet.read_file(path) == bytes.fromhex(lines[2])
    assert main(["keys", "new", "network", str(path)]) != 0
    options = _net_options(config.load(None, [f"net.psk_file={path}", "net.security=tls"]))
    assert options == NetOptions(security="tls", psk_file=path)
    for bad in ("", "\n".join(lines[:2]), "\n".join((*lines[:2], "zz" * 32)), "\n".join((*lines[:2], "00"))):
        path.write_text(bad)
        with pytest.raises(UserError, match="holds no network key"):
            pnet.read_file(path)
    path.write_text("\n".join((lines[0], "/base64/", lines[2])))
    with pytest.raises(UserError, match="/base16/"):
        pnet.read_file(path)
    with pytest.raises(UserError):
        pnet.read_file(tmp_path / "missing")


def test_tls_is_refused_where_python_has_another_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport.ssl, "OPENSSL_VERSION", "OpenSSL 9.9.9")
    with pytest.raises(UserError, match="does not work with this Python"):
        transport.secured(NetOptions(security="tls"), None)  # type: ignore[arg-type]


def test_settings_that_are_none_of_the_choices_are_refused() -> None:
    for flag in ("net.transport=quic", "net.security=plaintext"):
        with pytest.raises(UserError, match="is none of"):
            config.load(None, [flag])
