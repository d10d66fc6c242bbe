"""How long it takes until two members on loopback are connected, and until the first message is through.

Two processes. One calls the other again and again, each time as a node that has just started: timed is from
the moment it listens until both have shaken hands and greeted each other, and until the answer to its first
message, sent at once, has come back: one way more than the message itself takes. Beside it, a bare TCP
connection and one byte there and back, in the same run.
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import trio

from bench.messages import addresses, line_of, network_of, tell
from consensus import types as ct
from p2pfl.errors import UserError
from p2pfl.net import wire
from p2pfl.net.interface import BlobSource
from testnet.zygote import open_zygote

if TYPE_CHECKING:
    from p2pfl.net.host import Network

RUN_S_MAX = 300.0
ANSWER_S_MAX = 20.0
TIMES_MAX = 1000
IMPORTS = ("p2pfl.net.host", "bench.connect")
# A peer may call ten times a second; and the other must have noticed that we are gone.
PAUSE_S = 0.3


def add_parser(commands: Any) -> None:
    """Add `connect`."""
    parser = commands.add_parser(
        "connect", help="milliseconds to a connection and its first message", description=__doc__
    )
    parser.add_argument("--times", type=int, default=50, metavar="N", help="connections (50)")
    parser.set_defaults(measure=measure)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of `bench connect`: medians, and the slowest in twenty."""
    if not 1 <= arguments.times <= TIMES_MAX:
        raise UserError(
            f"{arguments.times} connections cannot be timed",
            because=f"it is done 1 to {TIMES_MAX} times",
            fix="give another number with --times",
        )
    told = trio.run(_both, arguments.times)
    return {
        "times": arguments.times,
        **{name: round(median(values), 2) for name, values in told.items()},
        "first_message_ms_p95": round(sorted(told["first_message_ms"])[int(0.95 * arguments.times)], 2)
        if arguments.times > 1
        else round(told["first_message_ms"][0], 2),
    }


async def _both(times: int) -> dict[str, list[float]]:
    town = addresses(2)
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(RUN_S_MAX):
        log = Path(folder) / "zygote.txt"
        async with open_zygote(IMPORTS, log) as zygote:
            answers = await zygote.fork("answers", "bench.connect:answer", {"town": town})
            port = await line_of(answers, log)
            calls = await zygote.fork(
                "calls", "bench.connect:call", {"town": town, "times": times, "port": port}
            )
            return await line_of(calls, log)


class Desk:
    """Says every message back, or notes when it came."""

    def __init__(self) -> None:
        self.network: Network | None = None  # Of who answers.
        self.came = trio.Event()

    async def received(self, sender: ct.MemberId, message: wire.Message) -> None:
        """A message of the other."""
        if self.network is not None:
            self.network.send(sender, message)
        self.came.set()

    async def answer(self, sender: ct.MemberId, request: wire.Request) -> wire.Refused:
        """Nobody asks."""
        return wire.Refused("not_held")

    def blob(self, sender: ct.MemberId, blob_id: ct.Digest) -> BlobSource | None:
        """No blobs."""
        return None


def answer(spec: dict[str, Any], events: socket.socket) -> int:
    """Who is called: the higher of the two ids."""
    trio.run(_answer, spec, events)
    return 0


async def _answer(spec: dict[str, Any], events: socket.socket) -> None:
    desk = Desk()
    desk.network = network_of(spec["town"], 1, desk)
    async with trio.open_nursery() as nursery:
        await nursery.start(desk.network.run)
        listeners = await nursery.start(partial(trio.serve_tcp, _echo, 0, host="127.0.0.1"))
        await tell(events, listeners[0].socket.getsockname()[1])


async def _echo(stream: trio.SocketStream) -> None:
    async with stream:
        while data := await stream.receive_some():
            await stream.send_all(data)


def call(spec: dict[str, Any], events: socket.socket) -> int:
    """Who calls."""
    trio.run(_call, spec, events)
    return 0


async def _call(spec: dict[str, Any], events: socket.socket) -> None:
    told: dict[str, list[float]] = {"connect_ms": [], "first_message_ms": [], "tcp_ms": []}
    for number in range(spec["times"] + 1):  # The first one fills caches.
        figures = await _once(spec["town"])
        figures["tcp_ms"] = await _bare(spec["port"])
        if number:
            for name, ms in figures.items():
                told[name].append(ms)
        await trio.sleep(PAUSE_S)
    await tell(events, told)
    await trio.sleep_forever()


async def _once(town: list[dict[str, str]]) -> dict[str, float]:
    desk = Desk()
    network = network_of(town, 0, desk)
    other = ct.MemberId(bytes.fromhex(town[1]["member"]))
    tip = wire.Tip(ct.Digest(os.urandom(32)), 1, ct.Digest(bytes(32)))
    figures: dict[str, float] = {}
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        begun = time.perf_counter()
        network.send(other, tip)
        with trio.fail_after(ANSWER_S_MAX):
            await network.wait_connected([other], ANSWER_S_MAX)
            figures["connect_ms"] = (time.perf_counter() - begun) * 1000
            await desk.came.wait()
            figures["first_message_ms"] = (time.perf_counter() - begun) * 1000
        nursery.cancel_scope.cancel()
    return figures


async def _bare(port: int) -> float:
    begun = time.perf_counter()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"x")
        await stream.receive_some()
        return (time.perf_counter() - begun) * 1000
