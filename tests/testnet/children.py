"""What the zygote's tests fork: small children instead of nodes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import trio


def echo(spec: dict[str, Any], events: socket.socket) -> int:
    """Say who one is, and end with the status that was asked for."""
    events.sendall(json.dumps({"pid": os.getpid(), "parent": os.getppid(), **spec}).encode() + b"\n")
    return spec["status"]


def sleeper(spec: dict[str, Any], events: socket.socket) -> int:
    """Say one's id, then wait for ever."""
    events.sendall(f"{os.getpid()}\n".encode())
    while True:
        signal.pause()


def stubborn(spec: dict[str, Any], events: socket.socket) -> int:
    """The same, deaf to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return sleeper(spec, events)


def descriptors(spec: dict[str, Any], events: socket.socket) -> int:
    """Say which files are open here."""
    names: list[int] = []
    for name in range(256):
        with contextlib.suppress(OSError):
            os.fstat(name)
            names.append(name)
    events.sendall(json.dumps({"open": names, "mine": events.fileno()}).encode() + b"\n")
    return 0


def launcher() -> None:
    """`python -m tests.testnet.children LOG`: a launcher with two children; says their ids, hangs."""

    async def main() -> None:
        from pathlib import Path

        from testnet.zygote import open_zygote

        async with open_zygote(("json",), Path(sys.argv[1])) as zygote:
            pids = [zygote.pid]
            for name in ("a", "b"):
                child = await zygote.fork(name, "tests.testnet.children:stubborn", {})
                await child.events.receive_some(100)
                pids.append(child.pid)
            print(*pids, flush=True)
            await trio.sleep_forever()

    trio.run(main)


def start_launcher(log: str) -> subprocess.Popen[str]:
    """The above as a process; the first line of its stdout names its children."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.testnet.children", log], stdout=subprocess.PIPE, text=True
    )


if __name__ == "__main__":
    launcher()
