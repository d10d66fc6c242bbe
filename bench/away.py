"""One process of `bench sync`: a member that holds the chain and serves it, or the one that was away.

Both use the node's own network, chain and follower. Tells its figures as one line of JSON.
"""

from __future__ import annotations

import json
import math
import resource
import socket
import time
from pathlib import Path
from typing import Any

import trio

from consensus import types as ct
from consensus.votes import verify_certificate
from p2pfl import genesis as genesis_file
from p2pfl.errors import PeerFault
from p2pfl.genesis import Genesis
from p2pfl.keys import load_peer_key, load_signing_key
from p2pfl.net import wire
from p2pfl.net.host import Network
from p2pfl.net.interface import BlobSource, PeerAddress
from p2pfl.roster import Roster
from p2pfl.rounds.chain import Chain, Checked
from p2pfl.rounds.desk import Desk
from p2pfl.rounds.follow import Follower
from p2pfl.rounds.gauges import resident_bytes
from p2pfl.store import BlockStore, Store

GROUP = "g0"
CONNECT_S_MAX = 60.0
# How often it is looked how late the event loop wakes; before it begins, for so long.
PROBE_S, IDLE_S = 0.005, 1.0


class Counter(Desk):
    """A desk that serves chains, and none of the other rooms."""

    async def received(self, sender: ct.MemberId, message: wire.Message) -> None:
        """Nobody says anything here."""

    def blob(self, sender: ct.MemberId | None, blob_id: ct.Digest) -> BlobSource | None:
        """No blobs here."""
        return None


def main(spec: dict[str, Any], events: socket.socket) -> int:
    """Run one process until its launcher ends it. spec: dir, blocks, away."""
    trio.run(_run, spec, events)
    return 0


async def _run(spec: dict[str, Any], events: socket.socket) -> None:
    genesis = genesis_file.load(Path(spec["dir"]) / "genesis.json")
    store = Store(Path(spec["dir"]), genesis)
    me = load_signing_key(store.folder.signing_key).member_id
    entries = {entry.member_id: entry for entry in genesis.entry(GROUP).members}
    peers = {each: PeerAddress(entry.peer_id, entry.address) for each, entry in entries.items() if each != me}
    chain = Chain(genesis, GROUP, store.chain(GROUP), lambda: Roster.of(genesis))
    desk = Counter()
    desk.chains = {chain.group_id: chain}
    network = Network(
        me=me,
        peer_key=load_peer_key(store.folder.peer_key),
        listen=entries[me].address,
        peers=peers,
        handlers=desk,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        if spec["away"]:
            await network.wait_connected(peers, CONNECT_S_MAX)
            figures = await _catch_up(chain, network, tuple(peers), spec["blocks"])
            figures |= _floor(genesis, store.chain(GROUP))
            line = json.dumps(figures).encode() + b"\n"
            await trio.SocketStream(trio.socket.from_stdlib_socket(events)).send_all(line)
        await trio.sleep_forever()


async def _catch_up(
    chain: Chain, network: Network, holders: tuple[ct.MemberId, ...], blocks: int
) -> dict[str, Any]:
    async def take(checked: Checked) -> None:
        await chain.extend(checked)

    late_ms: list[float] = []
    follower = Follower(chain, network, lambda: holders, take, _fail)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        nursery.start_soon(_probe, late_ms)
        await trio.sleep(IDLE_S)
        idle_ms, late_ms[:] = late_ms.copy(), []
        memory, used, begun = resident_bytes(), time.process_time(), time.perf_counter()
        for holder in holders:
            follower.tip_seen(holder, blocks - 1)
        await chain.grown.until(lambda: chain.height == blocks - 1)
        figures = {
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - used,
            "idle_lag_p99_ms": _p99(idle_ms),
            "lag_p99_ms": _p99(late_ms),
            "lag_max_ms": max(late_ms),
            "rss_growth_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - memory) / 1e6,
        }
        nursery.cancel_scope.cancel()
    return figures


def _p99(late_ms: list[float]) -> float:
    return sorted(late_ms)[math.ceil(len(late_ms) * 0.99) - 1]


async def _probe(late_ms: list[float]) -> None:
    while True:
        due = trio.current_time() + PROBE_S
        await trio.sleep_until(due)
        late_ms.append((trio.current_time() - due) * 1000)


def _floor(genesis: Genesis, store: BlockStore) -> dict[str, float]:
    """Seconds that the certificates of the same blocks alone take, one after the other."""
    blocks, domain, committee = list(store), genesis.domain(GROUP), genesis.committee(GROUP)
    used, begun = time.process_time(), time.perf_counter()
    for decided in blocks:
        verify_certificate(domain, committee, decided.block.header, decided.certificate)
    return {"floor_s": time.perf_counter() - begun, "floor_cpu_s": time.process_time() - used}


def _fail(peer: ct.MemberId, fault: PeerFault) -> None:
    raise AssertionError(f"honest holders only: {peer.hex()} {fault}")
