"""Processor time of a consensus message between members, beside a bare exchange of the same bytes.

One process a member, on real connections. In a turn everybody sends everybody a PREPARE and waits for theirs.
Timed is the processor time of the processes: of one message packed, numbered, sent, received, acknowledged,
unpacked and handed over; and, in turn with it, of as many bytes written to and read from held libp2p streams
between the same processes, which are not numbered, acknowledged, unpacked or sent again.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import trio

from consensus import types as ct
from p2pfl.errors import UserError
from p2pfl.net import wire
from p2pfl.net.identity import peer_id_of
from p2pfl.net.interface import BlobSource, PeerAddress
from p2pfl.net.queues import HEAD
from p2pfl.net.stream import Stream, StreamBroken
from testnet.scenarios import MEMBERS_MAX, MEMBERS_MIN
from testnet.zygote import Child, open_zygote

if TYPE_CHECKING:
    from p2pfl.net.host import Network

RUN_S_MAX = 600.0
CONNECT_S_MAX = 60.0
IMPORTS = ("p2pfl.net.host", "bench.messages")
FLOOR = "/bench/messages/1"
_GROUP = ct.Digest(b"bench: messages of consensus".ljust(32, b"."))
_SIGNATURE = bytes(64) + b"\x1b"


def add_parser(commands: Any) -> None:
    """Add `messages`."""
    parser = commands.add_parser(
        "messages", help="processor time of a message, beside bare streams", description=__doc__
    )
    parser.add_argument("--members", type=int, default=4, metavar="N", help="4 to 16 processes (4)")
    parser.add_argument("--turns", type=int, default=200, metavar="N", help="messages in a row (200)")
    parser.add_argument("--times", type=int, default=5, metavar="N", help="both are timed so often (5)")
    parser.set_defaults(measure=measure)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of `bench messages`."""
    if (
        not MEMBERS_MIN <= arguments.members <= MEMBERS_MAX
        or not 1 <= min(arguments.turns, arguments.times) <= max(arguments.turns, arguments.times) <= 10_000
    ):
        raise UserError(
            "there is nothing to time",
            because=f"{MEMBERS_MIN} to {MEMBERS_MAX} members take 1 to 10,000 turns",
            fix="see --members, --turns, --times",
        )
    told = trio.run(_all, arguments)
    messages = arguments.members * (arguments.members - 1) * arguments.turns
    sums = {
        name: [sum(one[name][time] for one in told) * 1000 / messages for time in range(arguments.times)]
        for name in ("message_s", "floor_s")
    }
    pairs = zip(sums["message_s"], sums["floor_s"], strict=True)
    return {
        "members": arguments.members,
        "turns": arguments.turns,
        "message_bytes": len(_frame(_prepare(0))),
        "cpu_ms_message": round(median(sums["message_s"]), 4),
        "floor_cpu_ms": round(median(sums["floor_s"]), 4),
        "ratio": round(median(message / floor for message, floor in pairs), 2),
    }


async def _all(arguments: argparse.Namespace) -> list[dict[str, list[float]]]:
    town = addresses(arguments.members)
    told: list[dict[str, list[float]]] = []
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(RUN_S_MAX):
        log = Path(folder) / "zygote.txt"
        async with open_zygote(IMPORTS, log) as zygote:
            spec = {"town": town, "turns": arguments.turns, "times": arguments.times}
            members = [
                await zygote.fork(f"m{number}", "bench.messages:main", {**spec, "number": number})
                for number in range(arguments.members)
            ]
            told = [await line_of(child, log) for child in members]
    return told


# ---------------------------------------------------------------------------
# Processes that are forked: `bench connect` has the same kind.


def addresses(count: int) -> list[dict[str, str]]:
    """Keys and free addresses of so many members, in the order of their ids."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    ids = sorted(os.urandom(20).hex() for _ in range(count))
    return [
        {"member": member, "key": os.urandom(32).hex(), "address": f"/ip4/127.0.0.1/tcp/{port}"}
        for member, port in zip(ids, ports, strict=True)
    ]


def network_of(town: list[dict[str, str]], number: int, handlers: Any) -> Network:
    """The network of one of them."""
    from p2pfl.net.host import Network  # Only the members load libp2p.

    peers = {
        ct.MemberId(bytes.fromhex(one["member"])): PeerAddress(
            peer_id_of(bytes.fromhex(one["key"])), one["address"]
        )
        for one in town
    }
    me = town[number]
    return Network(
        me=ct.MemberId(bytes.fromhex(me["member"])),
        peer_key=bytes.fromhex(me["key"]),
        listen=me["address"],
        peers=peers,
        handlers=handlers,
        gossip=False,
    )


async def line_of(child: Child, log: Path) -> Any:
    """What a child tells, as one line of JSON. Raises UserError when it ends before."""
    line = bytearray()
    while not line.endswith(b"\n"):
        data = await child.events.receive_some()
        if not data:
            raise _ended(child, log)
        line += data
    return json.loads(line)


def _ended(child: Child, log: Path) -> UserError:
    words = log.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
    return UserError(f"{child.name} ended before its figures came", because=words, fix="see what it says")


async def tell(events: socket.socket, told: Any) -> None:
    """One line to whoever forked us."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(events))
    await stream.send_all(json.dumps(told).encode() + b"\n")


# ---------------------------------------------------------------------------
# One member.


class Turns:
    """Counts, by turn, what came from others; both kinds of exchange wait here."""

    def __init__(self) -> None:
        self._seen: Counter[int] = Counter()
        self._changed = trio.Event()

    def count(self, turn: int) -> None:
        """One more."""
        self._seen[turn] += 1
        self._changed.set()

    async def until(self, turn: int, count: int) -> None:
        """All of this turn; then it is forgotten."""
        while self._seen[turn] < count:
            self._changed = trio.Event()
            await self._changed.wait()
        del self._seen[turn]


class Desk:
    """The handlers: PREPAREs are counted, nothing else comes."""

    def __init__(self) -> None:
        self.turns = Turns()

    async def received(self, sender: ct.MemberId, message: wire.Message) -> None:
        """A PREPARE of somebody."""
        assert isinstance(message, wire.ConsensusMessage)
        assert isinstance(message.message, ct.PrepareMessage)
        self.turns.count(message.message.prepare.vote.height)

    async def answer(self, sender: ct.MemberId, request: wire.Request) -> wire.Refused:
        """Nobody asks."""
        return wire.Refused("not_held")

    def blob(self, sender: ct.MemberId, blob_id: ct.Digest) -> BlobSource | None:
        """No blobs."""
        return None


def main(spec: dict[str, Any], events: socket.socket) -> int:
    """One member, until its launcher ends it. spec: town, number, turns, times."""
    trio.run(_member, spec, events)
    return 0


async def _member(spec: dict[str, Any], events: socket.socket) -> None:
    desk = Desk()
    network = network_of(spec["town"], spec["number"], desk)
    others = [ct.MemberId(bytes.fromhex(one["member"])) for one in spec["town"]]
    others.remove(network.me)
    floor = Floor(network, spec["town"])
    figures: dict[str, list[float]] = {"message_s": [], "floor_s": []}
    turn = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        await network.wait_connected(others, CONNECT_S_MAX)
        async with floor.open(others):
            for number in range(spec["times"] + 1):  # The first only brings all in step.
                begun = time.process_time()
                for _ in range(spec["turns"]):
                    network.broadcast(others, _prepare(turn))
                    await desk.turns.until(turn, len(others))
                    turn += 1
                between = time.process_time()
                for _ in range(spec["turns"]):
                    await floor.turn()
                if number:
                    figures["message_s"].append(between - begun)
                    figures["floor_s"].append(time.process_time() - between)
            await tell(events, figures)
            await trio.sleep_forever()  # Its streams are needed until everybody is done.


def _prepare(turn: int) -> wire.ConsensusMessage:
    signed = ct.SignedPrepare(ct.Prepare(0, turn, 0, ct.ZERO_DIGEST), _SIGNATURE)
    return wire.ConsensusMessage(_GROUP, ct.PrepareMessage(signed))


def _frame(message: wire.ConsensusMessage) -> bytes:
    """As many bytes as go to the stream with it."""
    return bytes(HEAD.size) + wire.pack(message)


class Floor:
    """Held streams, one a pair, as for messages: the lower of two opens it, both write and read."""

    def __init__(self, network: Network, town: list[dict[str, str]]) -> None:
        self._network = network
        self._sockets = network._sockets
        self._peer_ids = {one["member"]: peer_id_of(bytes.fromhex(one["key"])) for one in town}
        self._streams: list[Stream] = []
        self._size = len(_frame(_prepare(0)))
        self._turns = Turns()
        self._turn = 0
        self._come = trio.Event()
        self._sockets.handle(FLOOR, self._opened)

    async def _opened(self, peer_id: str, stream: Stream) -> None:
        self._streams.append(stream)
        self._come.set()
        await self._read(stream)

    @asynccontextmanager
    async def open(self, others: list[ct.MemberId]) -> AsyncIterator[None]:
        """With a stream to each of the others."""
        async with trio.open_nursery() as nursery:
            for other in others:
                if self._network.me < other:
                    stream = await self._sockets.open(self._peer_ids[other.hex()], FLOOR)
                    self._streams.append(stream)
                    nursery.start_soon(self._read, stream)
            while len(self._streams) < len(others):
                self._come = trio.Event()
                await self._come.wait()
            yield
            nursery.cancel_scope.cancel()

    async def turn(self) -> None:
        """A frame to everybody, and one from everybody."""
        data = bytes(self._size)
        for stream in self._streams:
            await stream.write(data)
        await self._turns.until(self._turn, len(self._streams))
        self._turn += 1

    async def _read(self, stream: Stream) -> None:
        got, turn = 0, 0
        try:
            while True:
                got += len(await stream.read())
                while got >= self._size:
                    got -= self._size
                    self._turns.count(turn)
                    turn += 1
        except StreamBroken:
            return
