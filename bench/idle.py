"""What an idle member costs: resident and proportional memory, its share of a processor, descriptors.

One member runs as an operator runs it, `p2pfl node run` in a process of its own; the others, and a council of
one seat, are forked from one process beside it. They learn one round, which makes every room of the member
work once, and then have nothing to do but to stay connected. The training process, which alone has torch, is
told apart. Needs /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import trio

from consensus.types import ZERO_MEMBER
from p2pfl.errors import UserError
from p2pfl.genesis import ChainEntry
from testnet import plan
from testnet.launch import IMPORTS
from testnet.scenarios import Scenario, Shape
from testnet.zygote import Child, open_zygote

# Until the others have decided the only round.
DECIDED_S_MAX = 180.0
# After the round: what was under way ends, and the collector has had its turns.
SETTLE_S = 15.0
MB = 1_000_000


def add_parser(commands: Any) -> None:
    """Add `idle`."""
    parser = commands.add_parser(
        "idle", help="memory and processor time of an idle member", description=__doc__
    )
    parser.add_argument("--members", type=int, default=4, metavar="N")
    parser.add_argument("--model", choices=("logistic", "cnn", "mlp"), default="cnn")
    parser.add_argument(
        "--seconds", type=float, default=20.0, metavar="S", help="processor time is counted for"
    )
    parser.set_defaults(measure=idle)


def idle(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of `bench idle`."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise UserError(
            "an idle member cannot be measured here",
            because="this system has no /proc that tells proportional memory",
            fix="measure on Linux",
        )
    with tempfile.TemporaryDirectory() as folder:
        return trio.run(_measured, arguments, Path(folder))


async def _measured(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    scenario = _scenario(arguments)
    ground = await trio.to_thread.run_sync(partial(plan.break_ground, scenario, directory))
    chain = ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER)
    made = await trio.to_thread.run_sync(partial(plan.draw_plan, ground, chain))
    mine, *others = made.ground.seats
    async with open_zygote(IMPORTS, directory / "zygote.txt") as zygote, trio.open_nursery() as nursery:
        member = await trio.to_thread.run_sync(_start, mine, directory / "member.txt")
        try:
            decided = trio.Event()
            for seat in others:
                child = await zygote.fork(seat.name, "testnet.member:main", _spec(seat))
                nursery.start_soon(_hear, child, decided if seat.group == mine.group else None)
            with trio.move_on_after(DECIDED_S_MAX):
                await decided.wait()
            if not decided.is_set() or member.poll() is not None:
                words = (directory / "member.txt").read_text(encoding="utf-8", errors="replace")[-2000:]
                raise UserError("the round was not decided", because=words, fix="run it on a quieter machine")
            await trio.sleep(SETTLE_S)
            cpu_s, at_s = _cpu_s(member.pid), time.monotonic()
            await trio.sleep(arguments.seconds)
            share = (_cpu_s(member.pid) - cpu_s) / (time.monotonic() - at_s)
            return {**_figures(member.pid), "cpu_share": round(share, 4), "peers": len(others)}
        finally:
            member.terminate()
            await trio.to_thread.run_sync(member.wait)
            nursery.cancel_scope.cancel()


def _scenario(arguments: argparse.Namespace) -> Scenario:
    shape = Shape(
        groups=1, members=arguments.members, seats=1, rounds=1, model=arguments.model, partition="Iid",
        chain=False,
    )  # fmt: skip
    return Scenario("bench-idle", "An idle member", "", (), {}, network=shape, task={"local_epochs": 1})


def _start(seat: plan.Seat, log: Path) -> subprocess.Popen[bytes]:
    """`p2pfl node run`, as an operator types it."""
    told = {
        "node.dir": seat.folder.path,
        "node.genesis": seat.folder.genesis,
        "node.name": seat.name,
        "node.new_keys": "true",
        "log.file": log,
    }
    command = [sys.executable, "-m", "p2pfl", "node", "run"]
    for name, value in told.items():
        command += ["--set", f"{name}={value}"]
    with log.open("ab") as words:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words)


def _spec(seat: plan.Seat) -> dict[str, Any]:
    return {
        "name": seat.name,
        "dir": str(seat.folder.path),
        "attacks": [],
        "explorer": None,
        "rpc": None,
        "account_key": None,
        "new_keys": True,
        "log_level": "info",
    }


async def _hear(child: Child, decided: trio.Event | None) -> None:
    """Read what a neighbour tells, so that it need not keep it; note the round's end."""
    buffer = bytearray()
    while data := await child.events.receive_some():
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        if decided is not None and any(json.loads(line)["kind"] == "decided" for line in lines):
            decided.set()


def _figures(pid: int) -> dict[str, Any]:
    trainers = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    status = _table(Path(f"/proc/{pid}/status"))
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    return {
        "rss_mb": round(_kib(status["VmRSS"]) * 1024 / MB, 1),
        "pss_mb": round(_kib(_table(Path(f"/proc/{pid}/smaps_rollup"))["Pss"]) * 1024 / MB, 1),
        "peak_rss_mb": round(_kib(status["VmHWM"]) * 1024 / MB, 1),
        "anonymous_mb": round(_kib(status["RssAnon"]) * 1024 / MB, 1),
        "threads": int(status["Threads"]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 (numbers, not paths)
        "torch": "torch" in maps,
        "trainers_rss_mb": round(
            sum(_kib(_table(Path(f"/proc/{each}/status"))["VmRSS"]) for each in trainers) * 1024 / MB, 1
        ),
    }


def _table(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _kib(words: str) -> int:
    return int(words.partition(" ")[0])


def _cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
