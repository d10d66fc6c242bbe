"""A member in a process of its own, to be frozen or killed: `python -m tests.net.process SPEC`."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from consensus.types import MemberId
from p2pfl.net.host import Network
from p2pfl.net.interface import PeerAddress
from tests.net.common import Memo
from tests.net.hosts import Town, peer_key

ROOT = Path(__file__).parent.parent.parent


@asynccontextmanager
async def child(town: Town, me: MemberId, number: int) -> AsyncIterator[trio.Process]:
    """A process that runs member `me` of the town, with peer key `number`; killed at the end."""
    spec = {
        "me": me.hex(),
        "number": number,
        "peers": {one.hex(): [at.peer_id, at.address] for one, at in town.addresses.items()},
    }
    command = [sys.executable, "-m", "tests.net.process", json.dumps(spec)]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(partial(trio.run_process, command, cwd=ROOT, check=False))
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


async def main(spec: Mapping) -> None:
    me = MemberId(bytes.fromhex(spec["me"]))
    peers = {MemberId(bytes.fromhex(one)): PeerAddress(*at) for one, at in spec["peers"].items()}
    memo = Memo()
    network = Network(
        me=me,
        peer_key=peer_key(spec["number"]),
        listen=peers[me].address,
        peers=peers,
        handlers=memo,
        gossip=False,
    )
    # Whatever it is told, it says back: its reader sees what was delivered, and how often.
    memo.on_message = network.send
    await network.run()


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
