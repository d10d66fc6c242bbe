"""What a watcher is told of the process itself: how late its event loop is, what it holds, what it sent."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import trio

from p2pfl.rounds.context import Observe
from p2pfl.telemetry import counters

# How often a watcher is told of bytes sent and of the event loop's lag.
REPORT_S = 2.0
# A probe costs a fifth of a millisecond of processor time; a hundred of them a report are enough for a p99.
LAG_PROBE_S = 0.02
_STATM = Path("/proc/self/statm")


async def watch_process(network: Any, observe: Observe) -> None:
    """All of them, until cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_lag, observe)
        nursery.start_soon(report_wire, network, observe)
        nursery.start_soon(report_process, observe)


async def watch_lag(observe: Observe) -> None:
    """How late the event loop wakes, p99 of each period: votes wait at least so long."""
    late_ms: list[float] = []
    while True:
        due = trio.current_time() + LAG_PROBE_S
        await trio.sleep_until(due)
        late_ms.append((trio.current_time() - due) * 1000)
        if len(late_ms) * LAG_PROBE_S >= REPORT_S:
            late_ms.sort()
            p99 = late_ms[math.ceil(len(late_ms) * 0.99) - 1]
            observe("lag", {"p99_ms": round(p99, 3), "max_ms": round(late_ms[-1], 3)})
            late_ms.clear()


async def report_wire(network: Any, observe: Observe) -> None:
    """The bytes sent and received so far, by kind."""
    while True:
        await trio.sleep(REPORT_S)
        told = {"sent": dict(network.sent_bytes), "received": dict(network.received_bytes)}
        observe("wire", {**told, "counted": _counted()})


def _counted() -> dict[str, int]:
    """What others did wrong, by reason, and who was barred, as `bans_WHOM`."""
    found: dict[str, int] = {}
    for name, labels, value in counters.rows():
        if name in ("peer_faults", "observer_faults", "stranger_faults"):
            found[labels["reason"]] = found.get(labels["reason"], 0) + int(value)
        elif name == "bans":
            found["bans_" + labels["whom"]] = int(value)
    return found


async def report_process(observe: Observe) -> None:
    """What must stay flat in a process that runs for weeks; 0: this system does not say it."""
    while True:
        await trio.sleep(REPORT_S)
        observe(
            "process",
            {
                "rss_bytes": resident_bytes(),
                "descriptors": len(os.listdir("/dev/fd")),  # noqa: PTH208 (numbers, not paths)
                "tasks": trio.lowlevel.current_statistics().tasks_living,
            },
        )


def resident_bytes() -> int:
    """Resident memory of this process; 0 where there is no /proc."""
    if not _STATM.exists():
        return 0
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")
