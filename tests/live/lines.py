"""The cable of a test of conditions: each node in a namespace of its own, at the end of a long line (`line`).

Lines are as long, as lossy and as slow as one says; a node can be pulled off its line, and can get another
address. Bytes are counted at the interface, framing of TCP and IP included. Needs root, iproute2 and tun.
"""

from __future__ import annotations

import array
import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio

from tests.live.line import Line
from tests.live.switch import SUBNET, Switch, inside, ip, new_space

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
TUN = Path("/dev/net/tun")
# The first address after all others': a node that moves gets one from there.
MOVED_FROM = 100


class Lines:
    """Nodes in namespaces of their own, far from each other."""

    PORT = Switch.PORT

    def __init__(self, names: Sequence[str], line: Line) -> None:
        self.line = line
        self._numbers = {name: index + 1 for index, name in enumerate(names)}
        self._handles: dict[str, int] = {}
        self._spaces: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        devices: dict[str, int] = {}
        for name in names:
            handle, space = new_space()
            self._handles[name], self._spaces[name] = handle, space
            devices[name] = inside(handle, _device)
            ip(space, "link set lo up", f"addr add {self._here(name)}/24 dev eth0", "link set eth0 up")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.live.line", str(os.getpid()), *line.arguments()]
            + [f"{self._here(name)}={device}" for name, device in devices.items()],
            pass_fds=list(devices.values()),
            start_new_session=True,  # A Ctrl-C is for the launcher, which ends the rest.
        )
        for device in devices.values():
            os.close(device)

    @staticmethod
    def why_not() -> str | None:
        """Why this machine cannot have such lines, or None."""
        missing = None if TUN.exists() else f"the kernel has no {TUN}"
        return Switch.why_not() or missing

    def _here(self, name: str) -> str:
        return f"{SUBNET}.{self._numbers[name]}"

    def address(self, name: str) -> str:
        """Where this node listens."""
        return f"/ip4/{self._here(name)}/tcp/{self.PORT}"

    def listens(self, name: str) -> str | None:
        """At every address that it will ever have."""
        return f"/ip4/0.0.0.0/tcp/{self.PORT}"

    async def open(self, nursery: trio.Nursery) -> None:
        """All is there."""

    def calls(self, name: str) -> dict[str, str]:
        """Where this node calls the others, if not where they listen."""
        return {}

    def space(self, name: str) -> str | None:
        """The namespace that this node enters."""
        return self._spaces[name]

    def cut_off(self, names: Iterable[str]) -> None:
        """These nodes are off their lines: they hear nobody, not even each other."""
        for name in names:
            ip(self._spaces[name], "link set eth0 down")

    def heal(self) -> None:
        """Everybody is on its line again."""
        for space in self._spaces.values():
            ip(space, "link set eth0 up")

    def move(self, name: str) -> str:
        """This node gets another address, and nobody answers at the old one; returns where it listens now."""
        before, self._numbers[name] = self._here(name), MOVED_FROM + self._numbers[name]
        ip(
            self._spaces[name],
            f"addr add {self._here(name)}/24 dev eth0",
            f"addr del {before}/24 dev eth0",
            # The kernel removes the other addresses of a network with the first one.
            f"addr replace {self._here(name)}/24 dev eth0",
        )
        return self.address(name)

    def bytes_of(self, name: str) -> tuple[int, int]:
        """Bytes received and sent by this node so far, as its interface counts them."""
        return inside(self._handles[name], _counted)

    def handle(self, name: str) -> int:
        """A descriptor of the node's namespace."""
        return self._handles[name]

    def close(self) -> None:
        """End the lines and let go of the namespaces; they end when no process is in them."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for handle in self._handles.values():
            os.close(handle)
        self._handles = {}


def _device() -> int:
    """A tun device named eth0 in the namespace of this thread."""
    descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    wanted = array.array("B", struct.pack("16sH22x", b"eth0", _IFF_TUN | _IFF_NO_PI))
    fcntl.ioctl(descriptor, _TUNSETIFF, wanted)
    return descriptor


def _counted() -> tuple[int, int]:
    for line in Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "eth0":
            words = counters.split()
            return int(words[0]), int(words[8])
    raise OSError("the namespace has no eth0")
