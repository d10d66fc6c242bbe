"""The cable of a live test: each node in a network namespace of its own, all on one bridge, which can be cut.

    switch namespace:   bridge "whole" --- v0 v1 v2 ..    one veth pair a node; its other end is the
                        bridge "apart" --- v3 ..          node's eth0, in the node's own namespace

A node is cut off by moving its port to the other bridge: packets vanish, nobody is told, as in a real
partition. A namespace lives as long as a descriptor of it, so nothing is left when the launcher ends.
Needs root and iproute2; without them the cable is that of `proxies`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import trio

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
# Nobody outside of the namespaces sees it.
SUBNET = "10.213.0"


class Switch:
    """Nodes in namespaces of their own."""

    # A namespace has all ports for itself.
    PORT = 20_000

    def __init__(self, names: Sequence[str]) -> None:
        self._ports = {name: index for index, name in enumerate(names)}
        self._handles: list[int] = []
        self._switch = self._new_space()
        ip(
            self._switch,
            "link add name whole type bridge",
            "link add name apart type bridge",
            "link set whole up",
            "link set apart up",
        )
        self._spaces: dict[str, str] = {}
        for name, index in self._ports.items():
            space = self._spaces[name] = self._new_space()
            ip(self._switch, f"link add v{index} type veth peer name eth0 netns {space}")
            ip(self._switch, f"link set v{index} master whole", f"link set v{index} up")
            address = f"addr add {SUBNET}.{index + 1}/24 dev eth0"
            ip(space, "link set lo up", address, "link set eth0 up")

    @staticmethod
    def why_not() -> str | None:
        """Why this machine cannot have namespaces, or None."""
        if os.geteuid() != 0:
            return "network namespaces need root"
        missing = [command for command in ("ip", "nsenter", "unshare") if shutil.which(command) is None]
        if missing:
            return f"{' and '.join(missing)} of iproute2 and util-linux are not installed"
        # In many containers root may not: asked once, not found out in the middle of a run.
        tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False)
        return "root may make no namespaces and mounts here" if tried.returncode else None

    def address(self, name: str) -> str:
        """Where this node listens."""
        return f"/ip4/{SUBNET}.{self._ports[name] + 1}/tcp/{self.PORT}"

    def listens(self, name: str) -> str | None:
        """If not where its address says."""
        return None

    async def open(self, nursery: trio.Nursery) -> None:
        """All is there."""

    def calls(self, name: str) -> dict[str, str]:
        """Where this node calls the others, if not where they listen."""
        return {}

    def space(self, name: str) -> str | None:
        """The namespace that this node enters."""
        return self._spaces[name]

    def cut_off(self, names: Iterable[str]) -> None:
        """These nodes hear each other and nobody else."""
        ip(self._switch, *(f"link set v{self._ports[name]} master apart" for name in names))

    def heal(self) -> None:
        """Everybody hears everybody."""
        ip(self._switch, *(f"link set v{index} master whole" for index in self._ports.values()))

    def close(self) -> None:
        """Let go of the namespaces; they end when no process is in them."""
        for handle in self._handles:
            os.close(handle)
        self._handles = []

    def _new_space(self) -> str:
        handle, path = new_space()
        self._handles.append(handle)
        return path


def new_space() -> tuple[int, str]:
    """A new network namespace: a descriptor that keeps it, and a path for any process of this user."""

    def make() -> int:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
            raise OSError("this kernel makes no network namespace")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    handle = elsewhere(make)
    return handle, f"/proc/{os.getpid()}/fd/{handle}"


def inside(handle: int, function: Callable[[], T]) -> T:
    """The function's result as a thread of that namespace sees it; the others stay where they are."""

    def enter() -> T:
        if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET):
            raise OSError("this namespace cannot be entered")
        return function()

    return elsewhere(enter)


def elsewhere(function: Callable[[], T]) -> T:
    """The function's result, in a thread of its own: what it does to itself ends with it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def ip(space: str, *lines: str) -> None:
    """Run these `ip` commands in a namespace. Raises OSError with what it said."""
    command = ["nsenter", f"--net={space}", "ip", "-batch", "-"]
    done = subprocess.run(command, input="\n".join(lines) + "\n", text=True, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' / '.join(lines)}: {done.stderr.strip()}")
