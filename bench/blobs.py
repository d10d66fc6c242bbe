"""How fast a large blob comes, beside the same bytes over a bare stream of the same connection.

Two processes on loopback: one holds the blob in its store, one fetches it into its own. Transfers take turns:

    bare     a libp2p stream as this package opens it: 1 MiB writes, read and thrown away, no check
    blob     `Shelf.need` without its last step: pieces asked for, every leaf checked, written to a file, kept

Memory is resident memory, of which the kernel counts the peak anew for each transfer. Knows no rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import trio

from consensus import types as ct
from p2pfl.errors import UserError
from p2pfl.net import wire
from p2pfl.net.host import Network
from p2pfl.net.identity import peer_id_of
from p2pfl.net.interface import PeerAddress
from p2pfl.net.stream import Stream, StreamBroken
from p2pfl.params import BLOB_BYTES_MAX
from p2pfl.rounds.shelf import Shelf
from p2pfl.store.blobs import BlobStore

BARE = "/bench/bare/1"
WRITE_BYTES = 1024 * 1024
MB = 1_000_000
# Both processes together for all transfers; a hundred times what an idle machine needs.
RUN_S_MAX = 600.0
_NAMES = ("holder", "fetcher")


def add_parser(commands: Any) -> None:
    """Add `blobs`."""
    parser = commands.add_parser(
        "blobs", help="a large blob, checked and kept, beside a bare stream", description=__doc__
    )
    parser.add_argument("--size-mb", type=int, default=100, metavar="MB", help="length of the blob (100)")
    parser.add_argument("--times", type=int, default=7, metavar="N", help="transfers of each kind (7)")
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="where both keep their files (a temporary one)"
    )
    parser.set_defaults(measure=measure)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of `bench blobs`."""
    if not 2 <= arguments.size_mb <= BLOB_BYTES_MAX // MB or arguments.times < 1:
        raise UserError(
            "there is nothing to fetch",
            because=f"a blob that is worth a file has 2 to {BLOB_BYTES_MAX // MB} MB",
            fix="see --size-mb, --times",
        )
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        told = trio.run(_run, arguments.size_mb * MB, arguments.times, folder)
    fetched = told["fetcher"]
    bare, blob = median(fetched["bare_s"]), median(fetched["blob_s"])
    size_mb = arguments.size_mb
    return {
        "size_mb": size_mb,
        "raw_mb_s": round(size_mb / bare, 1),
        "blob_mb_s": round(size_mb / blob, 1),
        "ratio": round(median(b / f for b, f in zip(fetched["bare_s"], fetched["blob_s"], strict=True)), 3),
        "rss_growth_mb": max(max(each["growth_mb"]) for each in told.values()),
        "rss_growth_holder_mb": max(told["holder"]["growth_mb"]),
        "rss_growth_fetcher_mb": max(fetched["growth_mb"]),
        "cpu_s_each": {
            name: {kind: round(median(each[f"{kind}_cpu_s"]), 3) for kind in ("bare", "blob")}
            for name, each in told.items()
        },
    }


async def _run(length: int, times: int, folder: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    spec = {"length": length, "times": times, "ports": _free_ports(), "dir": folder}

    async def one(name: str) -> None:
        command = [sys.executable, "-m", "bench.blobs", json.dumps({**spec, "name": name})]
        done = await trio.run_process(command, capture_stdout=True)
        told[name] = json.loads(done.stdout.splitlines()[-1])

    with trio.fail_after(RUN_S_MAX):
        async with trio.open_nursery() as nursery:
            for name in _NAMES:
                nursery.start_soon(one, name)
    return told


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], two.getsockname()[1]]


# ---------------------------------------------------------------------------
# One process.


class _Handlers:
    """What a node does with what comes in: here it serves blobs, and a message ends the other's wait."""

    def __init__(self) -> None:
        self.shelf: Shelf | None = None
        self.said: trio.MemorySendChannel[wire.Message]
        self.said, self.heard = trio.open_memory_channel[wire.Message](64)

    async def received(self, sender: ct.MemberId, message: wire.Message) -> None:
        """A turn began or ended."""
        self.said.send_nowait(message)

    async def answer(self, sender: ct.MemberId | None, request: wire.Request) -> wire.Refused:
        """No chains here."""
        return wire.Refused("not_held")

    def blob(self, sender: ct.MemberId | None, blob_id: ct.Digest) -> Any:
        """The blob."""
        return self.shelf.source(sender, blob_id) if self.shelf is not None else None


async def _process(spec: dict[str, Any]) -> dict[str, Any]:
    """Both ends make the same moves: bare, blob, bare, blob. The fetcher says when one begins and ends."""
    members = [ct.MemberId(bytes([n]) * 20) for n in (1, 2)]
    keys = [bytes([n]) * 32 for n in (1, 2)]
    addresses = {
        member: PeerAddress(peer_id_of(key), f"/ip4/127.0.0.1/tcp/{port}")
        for member, key, port in zip(members, keys, spec["ports"], strict=True)
    }
    place = _NAMES.index(spec["name"])
    handlers = _Handlers()
    network = Network(
        me=members[place],
        peer_key=keys[place],
        listen=addresses[members[place]].address,
        peers=addresses,
        handlers=handlers,
        gossip=False,
    )
    network._sockets.handle(BARE, partial(_serve_bare, spec["length"]))
    folder = Path(spec["dir"]) / spec["name"]
    handlers.shelf = Shelf(BlobStore(folder), network)
    meter = _Meter()
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        await network.wait_connected(members, 60)
        other = members[1 - place]
        if place:
            await _fetch_all(network, handlers, other, spec, meter)
        else:
            blob_id = _fill(folder, spec["length"])
            handlers.shelf.show(blob_id)
            network.send(other, wire.Have(blob_id))
            await _hold(handlers, spec, meter)
        nursery.cancel_scope.cancel()
    return meter.told()


def _fill(folder: Path, length: int) -> ct.Digest:
    """A blob in the holder's store. Made by a child, so that the holder has never had it in memory."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, BlobStore(folder).put(random.Random(length).randbytes(length)))
        os._exit(0)
    blob_id = os.read(reading, 32)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    return ct.Digest(blob_id)


async def _serve_bare(length: int, _peer_id: str, stream: Stream) -> None:
    """So many bytes to whoever asks, in large writes, until it has them."""
    data = bytes(WRITE_BYTES)
    while True:
        try:
            await stream.read(1)
            for sent in range(0, length, WRITE_BYTES):
                await stream.write(data[: length - sent])
        except StreamBroken:
            return


async def _fetch_all(
    network: Network, handlers: _Handlers, other: ct.MemberId, spec: dict[str, Any], meter: _Meter
) -> None:
    assert handlers.shelf is not None
    have = await handlers.heard.receive()
    assert isinstance(have, wire.Have)
    stream = await network._sockets.open(network._peers[other].address.peer_id, BARE)
    for _ in range(spec["times"]):
        for kind, work in (
            ("blob", partial(_blob, handlers.shelf, have.blob_id, spec["length"], other)),
            ("bare", partial(_bare, stream, spec["length"])),
        ):
            network.send(other, wire.Have(have.blob_id))
            await trio.sleep(0.2)  # So that the other has begun to measure too.
            with meter.of(kind):
                await work()
        handlers.shelf._blobs.path(have.blob_id).unlink()
    network.send(other, wire.Have(have.blob_id))
    await trio.sleep(0.5)


async def _blob(shelf: Shelf, blob_id: ct.Digest, length: int, other: ct.MemberId) -> None:
    await shelf.bring_to_disk(blob_id, length, lambda: (other,))


async def _bare(stream: Stream, length: int) -> None:
    await stream.write(b"?")
    while length > 0:
        length -= len(await stream.read(WRITE_BYTES))


async def _hold(handlers: _Handlers, spec: dict[str, Any], meter: _Meter) -> None:
    kinds = ["blob", "bare"] * spec["times"]
    await handlers.heard.receive()
    for kind in kinds:
        with meter.of(kind):
            await handlers.heard.receive()


class _Meter:
    """Seconds, processor time and the growth of resident memory of what it measures, by kind."""

    def __init__(self) -> None:
        self._told: dict[str, list[float]] = {"growth_mb": []}
        self._before_mb: float | None = None

    def of(self, kind: str) -> _Turn:
        """One transfer."""
        if self._before_mb is None:
            self._before_mb = _status_mb("VmRSS")  # Connected and idle, before the first transfer.
        return _Turn(self._told, kind, self._before_mb)

    def told(self) -> dict[str, list[float]]:
        """All of it."""
        return self._told


class _Turn:
    def __init__(self, told: dict[str, list[float]], kind: str, before_mb: float) -> None:
        self._told, self._kind, self._before_mb = told, kind, before_mb

    def __enter__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # The peak begins anew.
        self._cpu_s, self._begun_s = time.process_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        took_s, cpu_s = time.perf_counter() - self._begun_s, time.process_time() - self._cpu_s
        self._told.setdefault(f"{self._kind}_s", []).append(took_s)
        self._told.setdefault(f"{self._kind}_cpu_s", []).append(cpu_s)
        self._told["growth_mb"].append(round(_status_mb("VmHWM") - self._before_mb, 1))


def _status_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024 / MB
    raise UserError("memory cannot be measured", because=f"/proc says no {name}", fix="run it on Linux")


if __name__ == "__main__":
    print(json.dumps(trio.run(_process, json.loads(sys.argv[1]))))
