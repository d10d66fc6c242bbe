"""What is done to a node below its messages, by whom: a member, an observer, or an address nobody knows.

The door and the fences tell it here; it counts, and bars whom it should. Knows peers, no libp2p.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from p2pfl.errors import PeerFault
from p2pfl.net.door import Door
from p2pfl.net.peer import Peer
from p2pfl.telemetry import counters, logger

log = logger("net")

MemberFault = Callable[[Peer, PeerFault], None]


class Outside:
    """The outer side of one node.

    members: by peer id. on_member, on_observer: a fault of theirs; the latter says whether it was one.
    drop: ends the connections of a peer id.
    """

    def __init__(
        self,
        members: Mapping[str, Peer],
        on_member: MemberFault,
        on_observer: Callable[[str, PeerFault], bool],
        drop: Callable[[str], None],
    ) -> None:
        self.faults: dict[str, int] = Counter()  # Of strangers, by reason.
        self._members = members
        self._on_member = on_member
        self._on_observer = on_observer
        self._drop = drop
        self.door = Door(lives_here=self._lives_here, on_fault=self._at_the_door)

    def is_member(self, peer_id: str) -> bool:
        """Whether this peer id is one of ours, and not barred."""
        peer = self._members.get(peer_id)
        return peer is not None and not peer.is_banned()

    def fault(self, peer_id: str, remote: str, fault: PeerFault) -> None:
        """Somebody who has shaken hands broke a rule of libp2p's."""
        peer = self._members.get(peer_id)
        if peer is not None:
            self._on_member(peer, fault)
        elif not self._on_observer(peer_id, fault) and remote and self.door.offend(remote, fault):
            self._drop(peer_id)

    def _lives_here(self, address: str) -> bool:
        return any(f"/{address}/" in peer.address.address for peer in self._members.values())

    def _at_the_door(self, address: str, fault: PeerFault, barred: bool) -> None:
        self.faults[fault.reason] += 1
        counters.count("stranger_faults", reason=fault.reason)
        if barred:
            counters.count("bans", whom="address")
            left_s = self.door.barred().get(address, 0.0)
            log.warning("an address is barred", address=address, reason=fault.reason, seconds=left_s)
