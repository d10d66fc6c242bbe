"""Real hosts on loopback for the tests of this room."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import trio

from consensus.types import MemberId
from p2pfl.net.host import Network
from p2pfl.net.identity import peer_id_of
from p2pfl.net.interface import PeerAddress
from p2pfl.net.options import DEFAULTS, NetOptions
from tests.net.common import Memo, member


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def peer_key(number: int) -> bytes:
    return sha256(f"peer {number}".encode()).digest()


def address_for(options: NetOptions = DEFAULTS) -> str:
    """A free one, of the kind that these options listen at."""
    return f"/ip4/127.0.0.1/tcp/{free_port()}" + ("/ws" if options.transport == "websocket" else "")


class Town:
    """Addresses of a few members, in the order of their ids; hosts are made and started one by one."""

    def __init__(self, count: int, options: NetOptions = DEFAULTS) -> None:
        self.numbers = sorted(range(count), key=member)
        self.members = [member(number) for number in self.numbers]
        self.keys = {member(number): peer_key(number) for number in self.numbers}
        self.addresses = {
            one: PeerAddress(peer_id_of(self.keys[one]), address_for(options)) for one in self.members
        }

    def network(self, me: MemberId, handlers: Any = None, **options: Any) -> Network:
        return Network(
            me=me,
            peer_key=self.keys[me],
            listen=self.addresses[me].address,
            peers=self.addresses,
            handlers=handlers or Memo(),
            **options,
        )


@asynccontextmanager
async def hosts(count: int, **options: Any) -> AsyncIterator[tuple[Town, list[Network], list[Any]]]:
    """`count` hosts that are connected to one another; gossip is off unless asked for."""
    town = Town(count, options.get("options", DEFAULTS))
    memos = [Memo() for _ in town.members]
    networks = [
        town.network(one, memo, **{"gossip": False, **options})
        for one, memo in zip(town.members, memos, strict=True)
    ]
    async with trio.open_nursery() as nursery:
        for network in networks:
            await nursery.start(network.run)
        for network in networks:
            await network.wait_connected(town.members, 10)
        yield town, networks, memos
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for what has no event."""
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)
