"""Blocks a second that a member takes who missed them all, beside what their certificates alone cost.

A group's chain of real bodies and certificates lies at three members; the fourth, in a process of its own,
fetches it over real sockets with the node's own follower, checks and keeps it. The floor is the check of the
same certificates alone, in the same process, right after. The lag is how late its event loop woke meanwhile,
and (idle) before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import trio

from bench import made
from consensus.types import ZERO_MEMBER
from p2pfl.errors import UserError
from p2pfl.genesis import ChainEntry
from p2pfl.keys import load_signing_key
from p2pfl.store import Store
from testnet import plan
from testnet.scenarios import Scenario, Shape
from testnet.zygote import Child, open_zygote

GROUP = "g0"
RUN_S_MAX = 300.0
IMPORTS = ("p2pfl.net.host", "bench.away")


def add_parser(commands: Any) -> None:
    """Add `sync`."""
    parser = commands.add_parser(
        "sync", help="blocks a second of a member that catches up", description=__doc__
    )
    parser.add_argument("--blocks", type=int, default=1000, metavar="N", help="that it missed (1000)")
    parser.add_argument("--model", choices=("logistic", "cnn", "mlp"), default="cnn")
    parser.set_defaults(measure=measure)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of `bench sync`."""
    if arguments.blocks < 1:
        raise UserError("there is nothing to fetch", because="--blocks is below 1", fix="see --blocks")
    with tempfile.TemporaryDirectory() as folder:
        told = trio.run(_run, arguments, Path(folder))
    blocks = arguments.blocks
    return {
        "members": 4,
        "blocks": blocks,
        "model": arguments.model,
        "block_bytes": told["block_bytes"],
        "seconds": round(told["seconds"], 3),
        "cpu_seconds": round(told["cpu_seconds"], 3),
        "blocks_per_second": round(blocks / told["seconds"]),
        "floor_blocks_per_second": round(blocks / told["floor_s"]),
        "ratio": round(told["floor_s"] / told["seconds"], 3),
        "ratio_of_processor_time": round(told["floor_cpu_s"] / told["cpu_seconds"], 3),
        "loop_lag_p99_ms": round(told["lag_p99_ms"], 2),
        "idle_loop_lag_p99_ms": round(told["idle_lag_p99_ms"], 2),
        "loop_lag_max_ms": round(told["lag_max_ms"], 2),
        "rss_growth_mb": round(told["rss_growth_mb"], 1),
    }


async def _run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    shape = Shape(groups=1, members=4, seats=1, model=arguments.model, chain=False)
    ground = plan.break_ground(
        Scenario(name="bench", title="", claim="", culprits=(), holds={}, network=shape), folder
    )
    genesis = plan.draw_plan(ground, ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER)).genesis
    seats = [seat for seat in ground.seats if seat.group == GROUP]
    keys = {seat.entry.member_id: load_signing_key(seat.folder.signing_key).secret for seat in seats}
    blocks = made.history(genesis, GROUP, keys, arguments.blocks)
    for seat in seats[1:]:
        store = Store(seat.folder.path, genesis)
        store.chain(GROUP).extend(blocks)
        store.close()
    spec = {"blocks": arguments.blocks}
    with trio.fail_after(RUN_S_MAX):
        async with open_zygote(IMPORTS, folder / "zygote.txt") as zygote:
            children = [
                await zygote.fork(
                    seat.name,
                    "bench.away:main",
                    {**spec, "dir": str(seat.folder.path), "away": seat is seats[0]},
                )
                for seat in seats
            ]
            told = await _listen(children[0], folder)
    return {**told, "block_bytes": sum(len(each.block.body) for each in blocks) // len(blocks)}


async def _listen(child: Child, folder: Path) -> dict[str, Any]:
    line = bytearray()
    while not line.endswith(b"\n"):
        data = await child.events.receive_some()
        if not data:
            words = (folder / "zygote.txt").read_text(encoding="utf-8", errors="replace").strip()
            raise UserError(
                f"{child.name} ended before its figures came", because=words[-2000:], fix="see what it says"
            )
        line += data
    return json.loads(line)
