"""Calls that are given up at any point of the handshake hold nothing, and the node can call and be called."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import pytest
import trio

from p2pfl.net import sockets
from p2pfl.net.identity import peer_id_of
from p2pfl.net.interface import Unreachable
from p2pfl.net.options import NetOptions
from tests.net import raw
from tests.net.hosts import peer_key
from tests.net.nodes import ECHO, Node, echoes, nodes, until


@asynccontextmanager
async def silent(said: bytes = b"") -> AsyncIterator[int]:
    """A port where everybody is let in, and hears this and nothing more."""

    async def hold(stream: trio.SocketStream) -> None:
        with suppress(*raw.GONE):
            await stream.send_all(said)
            while await stream.receive_some():
                pass

    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(trio.serve_tcp, hold, 0)
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def held(node: Node) -> tuple[int, int]:
    """How many connections libp2p's resource manager counts, and how many there are."""
    swarm: Any = node.sockets._swarm
    return swarm._resource_manager._current_connections, len(swarm.get_connections())


async def gives_up(node: Node, peer_id: str, address: str, after_s: float) -> None:
    """Call, and give up from outside, as the dialer does when there are more addresses."""
    with trio.move_on_after(after_s):
        try:
            await node.sockets.connect(peer_id, address)
        except Unreachable:
            return


@pytest.mark.parametrize("said", [b"", raw.opening("/noise"), raw.opening("/noise") + b"\x00\x60"])
async def test_calls_to_who_says_nothing_are_forgotten(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 128 of them a node could neither call nor be called."""
    monkeypatch.setattr(sockets, "DIAL_S", 0.1)
    async with nodes() as (a, b), silent(said) as port, trio.open_nursery() as nursery:
        for number in range(10, 40):
            nursery.start_soon(
                gives_up,
                a,
                peer_id_of(peer_key(number)),
                f"/ip4/127.0.0.1/tcp/{port}",
                (0.05, 1.0)[number % 2],
            )
        await until(lambda: held(a)[0] >= 20)
        await until(lambda: held(a) == (0, 0))
        monkeypatch.undo()
        await a.call(b)
        assert await echoes(await a.open(b, ECHO), b"good")
        a.sockets.drop(b.sockets.peer_id)
        await until(lambda: not b.sees(a))
        await b.call(a)
        assert await echoes(await b.open(a, ECHO), b"good")


@pytest.mark.parametrize(
    "options",
    [NetOptions(), NetOptions(transport="websocket"), NetOptions(security="tls")],
    ids=["tcp", "websocket", "tls"],
)
async def test_a_call_given_up_at_any_moment_is_forgotten(options: NetOptions) -> None:
    chance = Random(3)
    async with nodes(options=options) as (a, b):
        for _ in range(30):
            await gives_up(a, b.sockets.peer_id, b.address, chance.uniform(0.0, 0.015))
            a.sockets.drop(b.sockets.peer_id)
        await until(lambda: held(a) == held(b) == (0, 0))
        await a.call(b)
        assert await echoes(await a.open(b, ECHO), b"good")
        await until(lambda: held(a) == held(b) == (1, 1))


async def test_a_count_that_libp2p_has_lost_keeps_nobody_out() -> None:
    async with nodes() as (a, b):
        for node in (a, b):
            node.sockets._swarm._resource_manager._current_connections = sockets.CONNECTIONS_MAX
        await a.call(b)
        assert await echoes(await a.open(b, ECHO), b"good")
