"""Large blobs: fetchers serve one another, and a fetcher that is killed goes on where it was."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net import wire
from p2pfl.net.host import Network
from p2pfl.net.interface import PeerAddress
from p2pfl.net.memory import MemoryHub, MemoryNetwork
from p2pfl.net.piece_server import bits_of, mask_of
from p2pfl.rounds import patience
from p2pfl.rounds.shelf import Shelf
from p2pfl.runs import LEAF_BYTES, PIECE_LEAVES_MAX, piece_leaves, root_of, runs_of
from p2pfl.store.blobs import BlobStore
from tests.net.common import Memo, member, noise
from tests.net.hosts import Town, peer_key, until

ROOT = Path(__file__).parent.parent.parent


class Node(Memo):
    """Handlers with a shelf, as a node has it; counts who asked for which piece."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.store = BlobStore(folder)
        self.shelf: Shelf | None = None
        self.asked: Counter[tuple[MemberId | None, Digest]] = Counter()

    def blob(self, sender: MemberId | None, blob_id: Digest) -> Any:
        assert self.shelf is not None
        self.asked[sender, blob_id] += 1
        return self.shelf.source(sender, blob_id)


@asynccontextmanager
async def village(count: int, folder: Path) -> AsyncIterator[tuple[list[MemoryNetwork], list[Node]]]:
    """Members with shelves on a network without sockets: every message takes 10 ms."""
    hub = MemoryHub(seed=1, delay_s=(0.01, 0.01))
    members = [member(number) for number in range(count)]
    nodes = [Node(folder / str(number)) for number in range(count)]
    networks = [hub.network(one, members, node) for one, node in zip(members, nodes, strict=True)]
    for node, network in zip(nodes, networks, strict=True):
        node.shelf = Shelf(node.store, network)
    async with trio.open_nursery() as nursery:
        for network in networks:
            await nursery.start(network.run)
        yield networks, nodes
        nursery.cancel_scope.cancel()


async def test_eight_who_fetch_a_blob_spare_the_one_who_has_it(tmp_path: Path) -> None:
    data = noise(8_000_000)
    blob_id = root_of(runs_of(lambda at, size: data[at : at + size], len(data)))
    async with village(9, tmp_path) as (networks, nodes):
        nodes[0].store.put(data)
        members = [network.me for network in networks]
        got: list[bytes] = []

        async def fetch(node: Node) -> None:
            assert node.shelf is not None
            got.append(await node.shelf.need(blob_id, len(data), members[:1], members[1:]))

        for node in nodes:
            assert node.shelf is not None
            node.shelf.show(blob_id)
        async with trio.open_nursery() as nursery:
            for node in nodes[1:]:
                nursery.start_soon(fetch, node)
        assert got == [data] * 8
        assert networks[0].sent_bytes["blobs"] < 6 * len(data)
        assert sum(network.sent_bytes["blobs"] for network in networks) < 9.5 * len(data)
        assert not any(network.faults for network in networks)


async def test_while_the_disk_is_full_a_fetch_waits_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(2_000_000)
    blob_id = root_of(runs_of(lambda at, size: data[at : at + size], len(data)))
    monkeypatch.setattr(patience, "RETRY_S", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with village(2, tmp_path) as (networks, nodes), trio.open_nursery() as nursery:
        nodes[0].store.put(data)
        got: list[bytes] = []

        async def fetch() -> None:
            assert nodes[1].shelf is not None
            got.append(await nodes[1].shelf.need(blob_id, len(data), [networks[0].me]))

        assert nodes[0].shelf is not None
        nodes[0].shelf.show(blob_id)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            nursery.start_soon(fetch)
            await trio.sleep(0.5)
            assert not got
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with trio.fail_after(10):
            while not got:  # noqa: ASYNC110 - what it waits for has no event.
                await trio.sleep(0.05)
        assert got == [data]


async def test_what_comes_is_served_on_only_to_whom_the_blob_is_shown(tmp_path: Path) -> None:
    data = noise(2_000_000)
    blob_id = root_of(runs_of(lambda at, size: data[at : at + size], len(data)))
    async with village(4, tmp_path) as (networks, nodes):
        a, b, c, d = (network.me for network in networks)
        coming = nodes[0].store.arriving.open(blob_id, len(data))
        with pytest.raises(PeerFault, match="blob_missing"):
            await networks[1].fetch_blob(blob_id, len(data), lambda: (a,), timeout_s=0.3)
        assert nodes[0].shelf is not None
        nodes[0].shelf.show(blob_id, [c])
        for asks, answer in ((b, wire.Refused), (c, wire.Held), (d, wire.Refused)):
            request = wire.GetHeld(blob_id, piece_leaves(len(data)))
            assert isinstance(await networks[0].piece(asks, request), answer)
        other_length = wire.GetPiece(blob_id, 0, PIECE_LEAVES_MAX)
        assert await networks[0].piece(c, other_length) == wire.Refused("not_yet")
        nodes[0].store.arriving.close(coming)


async def test_who_says_to_have_what_it_has_not_is_left_for_another(tmp_path: Path) -> None:
    data = noise(2_000_000)
    blob_id = root_of(runs_of(lambda at, size: data[at : at + size], len(data)))

    class Boaster(Node):
        def blob(self, sender: MemberId | None, blob_id: Digest) -> Any:
            self.asked[sender, blob_id] += 1
            return self

        length, piece_leaves = len(data), piece_leaves(len(data))

        def held(self) -> bytes:
            return b"\xff\xff"

        def piece(self, number: int) -> None:
            return None

    async with village(3, tmp_path) as (networks, nodes):
        nodes[2].store.put(data)
        for node in nodes:
            assert node.shelf is not None
            node.shelf.show(blob_id)
        boaster = Boaster(tmp_path / "boaster")
        networks[1].handlers = boaster
        assert nodes[0].shelf is not None
        with trio.fail_after(5):
            others = [networks[1].me, networks[2].me]
            assert await nodes[0].shelf.need(blob_id, len(data), others) == data
        assert sum(boaster.asked.values()) < 60  # It is not asked in a tight loop.


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100, 4096])
def test_bits_say_which_pieces_are_held(count: int) -> None:
    length = count * 1024 * LEAF_BYTES
    count = -(-length // (piece_leaves(length) * LEAF_BYTES))
    mask = 0x1234567890ABCDEF1234567 % (1 << count) | 1 << (count - 1)
    bits = bits_of(mask, count)
    assert all(bool(bits[n // 8] >> (7 - n % 8) & 1) == bool(mask >> n & 1) for n in range(count))
    if length <= 512 * 1024 * 1024:
        assert mask_of(wire.Held(length, bits), length) == mask
        for wrong in (bits + b"\0", bits[:-1], bits[:-1] + b"\xff"):
            if wrong != bits and not (count % 8 == 0 and len(wrong) == len(bits)):
                with pytest.raises(PeerFault, match="bad_answer"):
                    mask_of(wire.Held(length, wrong), length)


# ---------------------------------------------------------------------------
# A process that is killed.

PIECE = 1024 * 1024
LENGTH = 24 * PIECE + 5000


class Counting(Node):
    """Serves the blob, slowly, and counts the requests for each of its pieces."""

    def __init__(self, folder: Path, data: bytes) -> None:
        super().__init__(folder)
        self.data = memoryview(data)
        self.pieces: Counter[int] = Counter()
        self.length, self.gate = len(data), None
        self.runs = runs_of(lambda at, size: data[at : at + size], len(data))

    def blob(self, sender: MemberId | None, blob_id: Digest) -> Any:
        return self

    def run_hashes(self) -> bytes:
        return self.runs

    def read_now(self, offset: int, size: int) -> bytes | None:
        return None

    def read(self, offset: int, size: int) -> bytes:
        self.pieces[offset // PIECE] += 1
        trio.from_thread.run(trio.sleep, 0.03)
        return bytes(self.data[offset : offset + size])


async def test_a_fetcher_that_is_killed_asks_for_no_verified_piece_again(tmp_path: Path) -> None:
    data = noise(LENGTH)
    town = Town(2)
    me, other = town.members
    holder = Counting(tmp_path / "holder", data)
    blob_id = root_of(holder.runs)
    spec = {
        "me": other.hex(),
        "number": town.numbers[1],
        "peers": {one.hex(): [at.peer_id, at.address] for one, at in town.addresses.items()},
        "blob": blob_id.hex(),
        "folder": str(tmp_path / "fetcher"),
    }
    command = [sys.executable, "-m", "tests.net.test_blobs_shared", json.dumps(spec)]
    async with trio.open_nursery() as nursery:
        await nursery.start(town.network(me, holder, gossip=False).run)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        first = await trio.lowlevel.open_process(command, cwd=ROOT, **quiet)
        try:
            await until(lambda: len(holder.pieces) >= 8, 20)
        finally:
            first.kill()  # -9: it can say and write nothing any more.
            await first.wait()
        await trio.sleep(0.3)  # What it had asked for is still being read here.
        coming = BlobStore(tmp_path / "fetcher").arriving.open(blob_id, LENGTH)
        missing = coming.missing()
        coming.close()
        assert 0 < len(missing) < 25
        holder.pieces.clear()
        done = await trio.run_process(command, cwd=ROOT, capture_stdout=True, capture_stderr=True)
        assert done.stdout.split()[-1] == b"whole"
        assert dict(holder.pieces) == dict.fromkeys(missing, 1)
        nursery.cancel_scope.cancel()


async def _fetch(spec: dict[str, Any]) -> None:
    me = MemberId(bytes.fromhex(spec["me"]))
    peers = {MemberId(bytes.fromhex(one)): PeerAddress(*at) for one, at in spec["peers"].items()}
    node = Node(Path(spec["folder"]))
    key = peer_key(spec["number"])
    network = Network(me=me, peer_key=key, listen=peers[me].address, peers=peers, handlers=node, gossip=False)
    node.shelf = Shelf(node.store, network)
    others = [one for one in peers if one != me]
    blob_id = Digest(bytes.fromhex(spec["blob"]))
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        data = await node.shelf.need(blob_id, LENGTH, others)
        print("whole" if root_of(runs_of(lambda at, size: data[at : at + size], LENGTH)) == blob_id else "no")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_fetch, json.loads(sys.argv[1]))
