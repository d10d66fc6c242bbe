"""Who can reach whom in a network without sockets, and how long a message takes. Links are cut and mended.

Knows the ends (`memory.MemoryNetwork`) by what they are told: who is connected.
"""

from __future__ import annotations

from random import Random
from typing import Any, Protocol

from consensus.types import MemberId
from p2pfl.net.once import OnceForAll


class End(Protocol):
    """What of a network its hub needs."""

    me: MemberId
    peers: set[MemberId]
    connected: set[MemberId]

    def set_connected(self, now: set[MemberId]) -> None: ...


class Hub:
    """Carries what the networks made on it say to one another. delay_s: (least, most) for one way.

    whole: a small blob crosses in one piece and is verified once for all, and nothing is gossiped, for
    hundreds of nodes in one process: there everybody hears from those who decided.
    """

    def __init__(
        self, *, seed: int = 0, delay_s: tuple[float, float] = (0.0, 0.0), whole: bool = False
    ) -> None:
        self.whole = whole
        self._chance = Random(seed)
        self._delay_s = delay_s
        self.once = OnceForAll()
        self._running: dict[MemberId, End] = {}
        self._cut: set[frozenset[MemberId]] = set()

    def cut(self, a: MemberId, b: MemberId) -> None:
        """Break the link between two members; what is on its way comes after it is mended."""
        self._cut.add(frozenset((a, b)))
        self.refresh()

    def mend(self, a: MemberId, b: MemberId) -> None:
        """Bring the link back."""
        self._cut.discard(frozenset((a, b)))
        self.refresh()

    def isolate(self, member: MemberId) -> None:
        """Break all links of a member."""
        self._cut.update(frozenset((member, other)) for other in self._running if other != member)
        self.refresh()

    def rejoin(self, member: MemberId) -> None:
        """Bring all links of a member back."""
        self._cut = {link for link in self._cut if member not in link}
        self.refresh()

    def draw_delay_s(self) -> float:
        """The delay of the next message."""
        return self._chance.uniform(*self._delay_s)

    def reach(self, a: MemberId, b: MemberId) -> Any | None:
        """The network of `b`, if `a` can speak to it now."""
        here, there = self._running.get(a), self._running.get(b)
        if here is None or there is None or frozenset((a, b)) in self._cut:
            return None
        return there if b in here.peers and a in there.peers else None

    def join(self, network: End) -> None:
        """A network began to run."""
        if network.me in self._running:
            raise RuntimeError("this member runs already")
        self._running[network.me] = network
        self.look_at(network)

    def leave(self, network: End) -> None:
        """A network stopped."""
        del self._running[network.me]
        network.set_connected(set())
        self.look_at(network)

    def refresh(self) -> None:
        """Tell everybody who can be reached now."""
        for network in list(self._running.values()):
            self._tell(network)

    def look_at(self, network: End) -> None:
        """Tell this one, and those with whom that changes something: not all, where there are hundreds."""
        if network.me in self._running:
            self._tell(network)
        for other in list(self._running.values()):
            now = self.reach(other.me, network.me) is not None
            if now != (network.me in other.connected):
                other.set_connected(other.connected ^ {network.me})

    def _tell(self, network: End) -> None:
        network.set_connected({peer for peer in network.peers if self.reach(network.me, peer)})
