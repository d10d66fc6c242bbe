"""How members behave: what they do wrong is counted by its name, and who does so again and again is barred.

Knows peers and their standing; what is a fault is known where it is found, bans on disk are in `bans`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import trio

from consensus.types import MemberId
from p2pfl.errors import PeerFault
from p2pfl.net.bans import MEMBER, Bans
from p2pfl.net.peer import Peer
from p2pfl.telemetry import counters, logger

log = logger("net")

# How many strangers are remembered by name in `strangers`.
STRANGERS_MAX = 1000


class Conduct:
    """The faults of all members, and who else came. drop: ends the connections of a peer id."""

    def __init__(self, bans: Bans, drop: Callable[[str], None]) -> None:
        self.faults: dict[tuple[MemberId, str], int] = Counter()
        self.strangers: dict[str, int] = {}
        self._bans = bans
        self._drop = drop

    def fault(self, peer: Peer, fault: PeerFault) -> None:
        """Count this against the peer."""
        self.faults[peer.member, fault.reason] += 1
        counters.count("peer_faults", reason=fault.reason)
        log.debug("a peer's fault", peer=peer.member, reason=fault.reason, detail=fault.detail)
        if peer.offend(fault):
            counters.count("bans", whom="member")
            until_s = peer.banned_until_s - trio.current_time()
            log.warning("a peer is barred", peer=peer.member, reason=fault.reason, seconds=until_s)
            self._bans.remember(MEMBER, peer.address.peer_id, peer.standing, fault.reason)
            self._drop(peer.address.peer_id)

    def stranger(self, peer_id: str) -> None:
        """Somebody came who has no business here."""
        if len(self.strangers) < STRANGERS_MAX or peer_id in self.strangers:
            self.strangers[peer_id] = self.strangers.get(peer_id, 0) + 1
