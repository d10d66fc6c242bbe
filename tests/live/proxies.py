"""The cable where there are no namespaces: each node calls each other one through a small relay.

    node a --- 127.0.0.1:port(a, b) --- relay --- 127.0.0.1:port(b) --- node b

A relay whose two nodes are on different sides passes nothing on and answers no call, and closes nothing
either: neither end is told, as in a real partition. The launcher carries all bytes, which costs processor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import trio

from testnet import plan

# What a relay reads at once.
READ_BYTES = 64 * 1024


class Proxies:
    """All nodes on 127.0.0.1, one port each, and one more for each that calls another."""

    def __init__(self, names: Sequence[str]) -> None:
        pairs = [(caller, called) for caller in names for called in names if caller != called]
        ports = plan.free_ports(len(names) + len(pairs))
        self._listens = dict(zip(names, ports, strict=False))
        self._relays = dict(zip(pairs, ports[len(names) :], strict=True))
        self._apart: frozenset[str] = frozenset()
        self._healed = trio.Event()

    def listens(self, name: str) -> str | None:
        """If not where its address says."""
        return None

    async def open(self, nursery: trio.Nursery) -> None:
        """Let every relay listen."""
        for pair, port in self._relays.items():
            serve = partial(trio.serve_tcp, partial(self._relay, pair), port, host=plan.HOST)
            await nursery.start(serve)

    def address(self, name: str) -> str:
        """Where this node listens."""
        return f"/ip4/{plan.HOST}/tcp/{self._listens[name]}"

    def calls(self, name: str) -> dict[str, str]:
        """Where this node calls the others."""
        found = {called: port for (caller, called), port in self._relays.items() if caller == name}
        return {called: f"/ip4/{plan.HOST}/tcp/{port}" for called, port in found.items()}

    def space(self, name: str) -> str | None:
        """The namespace that this node enters: none."""
        return None

    def cut_off(self, names: Iterable[str]) -> None:
        """These nodes hear each other and nobody else."""
        self._apart, self._healed = frozenset(names), trio.Event()

    def heal(self) -> None:
        """Everybody hears everybody."""
        self._apart = frozenset()
        self._healed.set()

    def close(self) -> None:
        """The relays end with the network's nursery."""

    async def _relay(self, pair: tuple[str, str], near: trio.SocketStream) -> None:
        await self._whole(pair)
        try:
            far = await trio.open_tcp_stream(plan.HOST, self._listens[pair[1]])
        except OSError:
            return  # Nobody listens: the caller sees its call end.
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on, pair, near, far, nursery.cancel_scope)
            nursery.start_soon(self._pass_on, pair, far, near, nursery.cancel_scope)

    async def _pass_on(
        self,
        pair: tuple[str, str],
        source: trio.SocketStream,
        sink: trio.SocketStream,
        both: trio.CancelScope,
    ) -> None:
        try:
            while data := await source.receive_some(READ_BYTES):
                await self._whole(pair)
                await sink.send_all(data)
            await self._whole(pair)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self._whole(pair)  # The other end is not told either, while the cable is cut.
        both.cancel()

    async def _whole(self, pair: tuple[str, str]) -> None:
        """Wait until both are on one side."""
        while (pair[0] in self._apart) != (pair[1] in self._apart):
            await self._healed.wait()
