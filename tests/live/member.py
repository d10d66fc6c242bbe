"""What runs in a forked process of a live test: the testnet's member, in its own network, by its own clock.

Nothing in `p2pfl/` knows of it: the network is a namespace that the process enters before it opens a socket,
the clock is the `time` module of this process, and what is sent is written down on its way out.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from p2pfl.cli import failures
from p2pfl.net import peer
from p2pfl.parts import Parts
from testnet import member
from tests.live import sent

_CLONE_NEWNET = 0x40000000


def main(spec: dict[str, Any], events: socket.socket) -> int:
    """Run one node. spec: see `spec_of` in `network`. Returns the exit status."""
    if spec["space"]:
        _enter(Path(spec["space"]))
    _set_clock(Path(spec["clock"]))
    # As `p2pfl node run` does: three lines for what the operator can mend, and exit code 3.
    return failures.watch(lambda: _live(spec, events), json_wanted=False)


def _live(spec: dict[str, Any], events: socket.socket) -> int:
    if "ban_s" in spec:
        peer.BAN_MIN_S = peer.BAN_MAX_S = spec["ban_s"]

    def put_on(parts: Parts) -> None:
        sent.put_on(parts, Path(spec["sent"]), spec["life"])
        for called, address in spec["calls"].items():  # Through relays: see `proxies`.
            one = parts.network._peers[bytes.fromhex(called)]
            one.address = replace(one.address, address=address)

    return member.live(spec, events, put_on)


def _enter(space: Path) -> None:
    """From now on this process has the interfaces of that namespace and no others."""
    handle = os.open(space, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns {space}")
    os.close(handle)


def _set_clock(path: Path) -> None:
    """The wall clock is wrong by the milliseconds in this file, read again at each SIGUSR1.

    The machine's own clock stays: other processes use it. Monotonic time stays too, as it does where
    somebody sets a date.
    """
    true_ns = time.time_ns
    wrong_ns = 0

    def read(*_: object) -> None:
        nonlocal wrong_ns
        wrong_ns = int(path.read_text(encoding="ascii")) * 1_000_000 if path.exists() else 0

    read()
    signal.signal(signal.SIGUSR1, read)
    time.time_ns = lambda: true_ns() + wrong_ns
    time.time = lambda: time.time_ns() / 1e9
