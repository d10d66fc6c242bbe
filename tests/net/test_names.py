"""Names in addresses: what name servers say, or do not say, ends nobody and keeps nobody else waiting."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio

from p2pfl.net import names
from p2pfl.net.interface import Unreachable
from p2pfl.net.names import Names


async def test_names_become_a_few_numbers() -> None:
    assert [str(one) for one in await Names().resolved("/dns4/localhost/tcp/9/ws", "a")] == [
        "/ip4/127.0.0.1/tcp/9/ws"
    ]
    assert [str(one) for one in await Names().resolved("/ip6/::1/tcp/9", "a")] == ["/ip6/::1/tcp/9"]


@pytest.mark.parametrize("said", [["fe80::1%eth0"], ["fe80::1%eth0", "::1"], ["nonsense"]])
async def test_what_a_name_server_says_ends_nobody(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An address with a zone was an exception that nobody caught."""

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (host, 0, 0, 2)) for host in said]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    if "::1" in said:
        assert [str(one) for one in await Names().resolved("/dns/peer.example/tcp/9", "a")] == [
            "/ip6/::1/tcp/9"
        ]
    else:
        with pytest.raises(Unreachable):
            await Names().resolved("/dns/peer.example/tcp/9", "a")


async def test_slow_name_servers_do_not_take_the_threads_that_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, book = threading.Event(), Names()

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        answer.wait(10)
        return []

    async def asked(number: int) -> None:
        with suppress(Unreachable), trio.move_on_after(0.05):
            await book.resolved(f"/dns/{number}.example/tcp/9", f"peer {number}")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(asked, number)
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        with trio.fail_after(5):
            assert await trio.to_thread.run_sync(lambda: "signed") == "signed"
    finally:
        answer.set()


class Servers:
    """Name servers: all are slow but those of the names that are known."""

    def __init__(self) -> None:
        self.known = {"good.example"}
        self.answer = threading.Event()
        self.asked: list[str] = []

    def getaddrinfo(self, name: str, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(name)
        if name not in self.known:
            self.answer.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.5", 0))]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    there = Servers()
    monkeypatch.setattr(socket, "getaddrinfo", there.getaddrinfo)
    yield there
    there.answer.set()


async def given_up(book: Names, name: str, peer: str) -> None:
    with suppress(Unreachable), trio.move_on_after(0.02):
        await book.resolved(f"/dns/{name}/tcp/9", peer)


async def test_a_peer_with_many_slow_names_keeps_nobody_else_waiting(servers: Servers) -> None:
    """Each call that was given up left a thread behind; four of them, and nobody with a name was called."""
    book = Names()
    for number in range(8):
        await given_up(book, f"slow{number}.example", "liar")
        await given_up(book, "slow0.example", "liar")
    assert servers.asked == ["slow0.example", "slow1.example"]
    with trio.fail_after(2):
        found = await book.resolved("/dns/good.example/tcp/9", "honest")
    assert [str(one) for one in found] == ["/ip4/10.0.0.5/tcp/9"]
    servers.answer.set()
    with trio.fail_after(5):
        while book._open["liar"]:  # noqa: ASYNC110 - threads that nobody waits for have no event.
            await trio.sleep(0.01)
    assert await book.resolved("/dns/slow0.example/tcp/9", "liar")  # It may mend its names.


async def test_one_slow_name_leaves_a_peer_its_other_one(servers: Servers) -> None:
    book = Names()
    for _ in range(3):
        await given_up(book, "slow.example", "honest")
        with trio.fail_after(2):
            assert await book.resolved("/dns/good.example/tcp/9", "honest")


async def test_there_are_so_many_threads_at_the_most(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "OPEN_MAX", 3)
    book = Names()
    for number in range(6):
        await given_up(book, "slow.example", f"peer {number}")
    assert len(servers.asked) == 3
    with pytest.raises(Unreachable, match="3 names are still being asked"):
        await book.resolved("/dns/good.example/tcp/9", "another")
    assert await book.resolved("/ip4/10.0.0.1/tcp/9", "another")  # A number needs no thread.
