"""Two or more of our libp2p hosts on loopback, below members and messages, for tests of traps and stacks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from p2pfl.net.options import DEFAULTS, NetOptions
from p2pfl.net.sockets import Sockets
from p2pfl.net.stream import Stream, StreamBroken
from tests.net.hosts import address_for, peer_key

ECHO, SINK, RAISE = "/test/echo", "/test/sink", "/test/raise"


class Node:
    """A host with three handlers: one echoes, one reads when told to, one raises."""

    def __init__(self, number: int, *, admits: bool = True, options: NetOptions = DEFAULTS) -> None:
        self.options = options
        self.address = address_for(options)
        self.number = number
        self.bugs: list[Exception] = []
        self.changes: list[tuple[str, bool]] = []
        self.refused: list[str] = []
        self.admits = admits
        self.pause_s = 0.0
        self.first_pause_s = 0.0
        self.sunk = 0
        self.make()

    def make(self) -> None:
        self.sockets = Sockets(
            peer_key=peer_key(self.number),
            listen=self.address,
            admits=lambda _: self.admits,
            on_change=lambda peer, up: self.changes.append((peer, up)),
            on_refused=self.refused.append,
            on_bug=self.bugs.append,
            options=self.options,
        )
        for protocol, handler in ((ECHO, self.echo), (SINK, self.sink), (RAISE, self.fail)):
            self.sockets.handle(protocol, handler)

    async def echo(self, _: str, one: Stream) -> None:
        try:
            while True:
                await one.write(await one.read())
        except StreamBroken:
            return

    async def sink(self, _: str, one: Stream) -> None:
        try:
            while True:
                self.sunk += len(await one.read())
                await trio.sleep(self.pause_s + self.first_pause_s)
                self.first_pause_s = 0.0
        except StreamBroken:
            return

    async def fail(self, _: str, one: Stream) -> None:
        raise ZeroDivisionError

    async def call(self, other: Node) -> None:
        await self.sockets.connect(other.sockets.peer_id, other.address)

    async def open(self, other: Node, protocol: str) -> Stream:
        return await self.sockets.open(other.sockets.peer_id, protocol)

    def sees(self, other: Node) -> bool:
        return self.sockets.is_connected(other.sockets.peer_id)


@asynccontextmanager
async def nodes(count: int = 2, options: NetOptions = DEFAULTS) -> AsyncIterator[list[Node]]:
    made = [Node(number, options=options) for number in range(count)]
    async with trio.open_nursery() as nursery:
        for node in made:
            await nursery.start(live, node)
        yield made
        nursery.cancel_scope.cancel()


async def live(node: Node, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    async with node.sockets.running():
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await trio.sleep_forever()


async def until(condition: Any, timeout_s: float = 5.0) -> float:
    """Wait for it; how long it took."""
    began = trio.current_time()
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - what libp2p does has no event of ours.
            await trio.sleep(0.01)
    return trio.current_time() - began


async def echoes(one: Stream, data: bytes) -> bool:
    with trio.fail_after(5):
        await one.write(data)
        got = b""
        while len(got) < len(data):
            got += await one.read()
    return got == data


async def write_on(one: Stream) -> None:
    while True:
        await one.write(bytes(100_000))
