"""How long consensus takes to decide, without learning, beside the least that three exchanges can take.

One process a member, on the streams and with the files of a real node (`voter`). A block's body is bytes of a
usual length, always valid. Stretches of decisions alternate with stretches of the floor: a bare all-to-all
exchange in three steps of messages of the same kinds and lengths on the same streams, each after the same
writes and fsyncs. Both are timed alike: from one end to the next, on every member.

With --dead one member kills its process when it should propose. Heights that it should lead are then timed
beside those that others lead; what such a height costs is told beyond its timer, in delays: thirds of a
decision that nobody's death delayed.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import trio

from consensus.types import ZERO_MEMBER
from p2pfl.errors import UserError
from p2pfl.genesis import ChainEntry
from testnet import plan
from testnet.scenarios import MEMBERS_MAX, MEMBERS_MIN, Scenario, Shape
from testnet.zygote import Child, open_zygote

RUN_S_MAX = 300.0
# With --dead: round 0's timer. Long beside a decision of sixteen processes on a busy laptop.
TIMER_S = 1.0
# Who is to die lives for two turns of everybody, so that all are in step.
DIES_AFTER_TURNS = 2
IMPORTS = ("p2pfl.net.host", "bench.voter")


def add_parser(commands: Any) -> None:
    """Add `consensus`."""
    parser = commands.add_parser(
        "consensus", help="milliseconds a decision, beside a bare exchange", description=__doc__
    )
    parser.add_argument("--members", type=int, default=4, metavar="N", help="4 to 16 processes (4)")
    parser.add_argument("--heights", type=int, default=100, metavar="N", help="decisions in all (100)")
    parser.add_argument("--stretch", type=int, default=20, metavar="N", help="decisions in a row (20)")
    parser.add_argument(
        "--body-bytes", type=int, default=16_384, metavar="N", help="length of a block's body"
    )
    parser.add_argument("--dead", action="store_true", help="one member dies when it should propose")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="a folder on the disk to measure")
    parser.set_defaults(measure=measure)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of `bench consensus`."""
    if not MEMBERS_MIN <= arguments.members <= MEMBERS_MAX:
        raise UserError(
            f"a group cannot have {arguments.members} members",
            because=f"a committee has {MEMBERS_MIN} to {MEMBERS_MAX}",
            fix="give another number with --members",
        )
    if not 2 <= arguments.stretch <= arguments.heights:
        raise UserError(
            "there is nothing to time",
            because="a stretch has 2 decisions at least",
            fix="see --stretch, --heights",
        )
    dies_at = DIES_AFTER_TURNS * arguments.members if arguments.dead else None
    if dies_at is not None and arguments.heights <= dies_at:
        raise UserError(
            "nobody would be missed",
            because=f"whoever is to die leads height {dies_at} first",
            fix=f"give more than {dies_at} with --heights",
        )
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        told = trio.run(_run, arguments, Path(folder), dies_at)
    decision = sorted(ms for one in told for ms in one["decision_ms"])
    return {
        "members": arguments.members,
        "body_bytes": arguments.body_bytes,
        "decisions": arguments.heights,
        "rounds_above_0": max(one["round_changes"] for one in told),
        "decision_ms": _figure(decision),
        **(_dead(told, decision) if arguments.dead else _beside_the_floor(told, decision)),
    }


def _beside_the_floor(told: list[dict[str, Any]], decision: list[float]) -> dict[str, Any]:
    floor = sorted(ms for one in told for ms in one["floor_ms"])
    return {
        "floor_ms": _figure(floor),
        "ratio": round(median(decision) / median(floor), 2),
        "fsync_ms": _figure(sorted(ms for one in told for ms in one["fsync_ms"])),
    }


def _dead(told: list[dict[str, Any]], decision: list[float]) -> dict[str, Any]:
    """A height whose leader is dead: in all, and what it costs more than its timer and another height."""
    dead = sorted(ms for one in told for ms in one["dead_ms"])
    cost = [ms - TIMER_S * 1000 - median(decision) for ms in dead]
    return {
        "timer_ms": TIMER_S * 1000,
        "dead_heights": len(told[0]["dead_ms"]),
        "dead_ms": _figure(dead),
        "cost_beyond_the_timer_ms": _figure(cost),
        "cost_beyond_the_timer_delays": round(median(cost) / (median(decision) / 3), 2),
    }


async def _run(arguments: argparse.Namespace, folder: Path, dies_at: int | None) -> list[dict[str, Any]]:
    shape = Shape(groups=1, members=arguments.members, seats=1, model="logistic", chain=False)
    scenario = Scenario(name="bench", title="", claim="", culprits=(), holds={}, network=shape)
    ground = plan.break_ground(scenario, folder)
    made = plan.draw_plan(ground, ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER))
    spec = {
        "heights": arguments.heights,
        "stretch": arguments.stretch,
        "body_bytes": arguments.body_bytes,
        "dies_at": dies_at,
        "timer_s": TIMER_S,
    }
    speakers = arguments.members - arguments.dead
    told, come = trio.open_memory_channel[dict[str, Any]](arguments.members)
    with trio.fail_after(RUN_S_MAX):
        async with open_zygote(IMPORTS, folder / "zygote.txt") as zygote, trio.open_nursery() as nursery:
            for seat in made.ground.seats:
                if seat.group == "g0":
                    child = await zygote.fork(
                        seat.name, "bench.voter:main", {**spec, "dir": str(seat.folder.path)}
                    )
                    nursery.start_soon(_listen, child, told.send, folder, arguments.dead)
            figures = [await come.receive() for _ in range(speakers)]
            # Only now: a member's streams are needed until everybody is done.
            nursery.cancel_scope.cancel()
    return figures


async def _listen(
    child: Child, tell: Callable[[dict[str, Any]], Awaitable[None]], folder: Path, may_die: bool
) -> None:
    """A member's figures come as one line when all is decided."""
    line = bytearray()
    while not line.endswith(b"\n"):
        data = await child.events.receive_some()
        if not data:
            await child.ended.wait()
            if may_die and child.status == -signal.SIGKILL:
                return
            words = (folder / "zygote.txt").read_text(encoding="utf-8", errors="replace").strip()
            raise UserError(
                f"{child.name} ended before its figures came", because=words[-2000:], fix="see what it says"
            )
        line += data
    await tell(json.loads(line))


def _figure(ascending: list[float]) -> dict[str, float]:
    return {
        "p50": round(median(ascending), 3),
        "p95": round(ascending[min(len(ascending) - 1, int(0.95 * len(ascending)))], 3),
    }
