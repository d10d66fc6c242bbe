"""Host names in addresses, asked of the operating system, which knows /etc/hosts and mDNS names too.

Names are what members say of themselves, and a name server may take its time. So each peer has few questions
open at a time, and all together have threads of their own. Knows neither connections nor who a peer is.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import multiaddr
import trio

from p2pfl.net.interface import Unreachable

_FAMILIES = {"dns": 0, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}
# A name with more addresses than these is a load balancer, and no member.
RESOLVED_MAX = 3
# Who waits for a name server cannot be interrupted (half a minute by the system's own limit), so a call that
# is given up leaves a thread behind. One is for the name that is slow, one for the next that may not be.
OPEN_PER_PEER = 2
# Two for each of sixteen members: a third of them may be liars and take their two for ever. These threads
# sleep in the system, and are not those that sign and write.
OPEN_MAX = 32


class Names:
    """The questions that one host has asked and that are not answered yet."""

    def __init__(self) -> None:
        self._open: dict[str, set[str]] = {}  # By peer: a thread is at each of these names.
        self._threads = trio.CapacityLimiter(math.inf)  # They are counted here.

    async def resolved(self, address: str, peer_id: str) -> Sequence[multiaddr.Multiaddr]:
        """The address, with numbers in the place of a name. Raises Unreachable.

        peer_id: on whose account the name is asked.
        """
        try:
            at = multiaddr.Multiaddr(address)
        except ValueError as error:  # Each library has kinds of its own; all are ValueErrors.
            raise Unreachable(f"{address}: {error}") from error
        first = next(iter(at.protocols())).name
        if first not in _FAMILIES:
            return (at,)
        _, _, name, rest = str(at).split("/", 3)
        try:
            found = await self._asked(name, _FAMILIES[first], peer_id)
            # One with a zone (fe80::1%eth0) means something else on each machine, and is no multiaddr.
            hosts = [host for host in dict.fromkeys(str(where[0]) for *_, where in found) if "%" not in host]
            kinds = (f"/ip{ip_address(host).version}/{host}/{rest}" for host in hosts[:RESOLVED_MAX])
            places = [multiaddr.Multiaddr(each) for each in kinds]
        except (OSError, ValueError) as error:
            raise Unreachable(f"{address}: {error}") from error
        if not places:
            raise Unreachable(f"{address}: no address that can be called")
        return places

    async def _asked(self, name: str, family: int, peer_id: str) -> Sequence[Any]:
        await (
            trio.lowlevel.checkpoint()
        )  # From here on until the thread has started nothing can be cancelled.
        mine = self._open.setdefault(peer_id, set())
        if name in mine or len(mine) >= OPEN_PER_PEER:
            raise Unreachable(f"{name}: names of this peer are still being asked")
        if sum(len(names) for names in self._open.values()) >= OPEN_MAX:
            raise Unreachable(f"{name}: {OPEN_MAX} names are still being asked")
        mine.add(name)

        def ask() -> Sequence[Any]:
            try:
                return socket.getaddrinfo(name, None, family=family, type=socket.SOCK_STREAM)
            finally:
                mine.discard(name)  # Also when nobody waits for it any more.

        return await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._threads)
