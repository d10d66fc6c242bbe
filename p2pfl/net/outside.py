"""What is done to a node below its messages, by whom: a member, an observer, or an address nobody knows.

The door and the fences tell it here; it counts, and bars whom it should. Knows peers, no libp2p.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import trio

from p2pfl.errors import PeerFault
from p2pfl.net.book import Record
from p2pfl.net.door import GRACE_S, Door, customer_of
from p2pfl.net.peer import Peer
from p2pfl.telemetry import counters, logger

log = logger("net")

# What members say of their addresses is looked at again so often at most: strangers make us look.
NAMED_S = 5.0

MemberFault = Callable[[Peer, PeerFault], None]


class Outside:
    """The outer side of one node.

    members: by peer id. on_member, on_observer: a fault of theirs; the latter says whether it was one.
    drop: ends the connections of a peer id. record: what a peer itself says of its addresses.
    """

    def __init__(
        self,
        members: Mapping[str, Peer],
        on_member: MemberFault,
        on_observer: Callable[[str, PeerFault], bool],
        drop: Callable[[str], None],
        record: Callable[[str], Record | None],
    ) -> None:
        self.faults: dict[str, int] = Counter()  # Of strangers, by reason.
        self._members = members
        self._on_member = on_member
        self._on_observer = on_observer
        self._drop = drop
        self._record = record
        self._here: dict[str, str] = {}  # Where members are connected from, by peer id.
        self._named: set[str] = set()
        self._named_until_s = -math.inf
        self.door = Door(lives_here=self._lives_here, on_fault=self._at_the_door, grace_s=GRACE_S)

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

    def member_at(self, peer_id: str, remote: str) -> None:
        """A member is connected with this address, by whatever name it was called; "": it is gone."""
        if remote:
            self._here[peer_id] = customer_of(remote)
        elif (address := self._here.pop(peer_id, None)) is not None:
            self.door.welcome(address)

    def _lives_here(self, address: str) -> bool:
        if trio.current_time() >= self._named_until_s:
            self._named = set(self._names())
            self._named_until_s = trio.current_time() + NAMED_S
        return address in self._named or address in self._here.values()

    def _names(self) -> Iterator[str]:
        """What the genesis and members themselves say; what others say of them would shelter anybody."""
        for peer_id, peer in self._members.items():
            record = self._record(peer_id)
            for place in (peer.address.address, *(record.addresses if record is not None else ())):
                _, kind, host, *rest = (*place.split("/"), "", "", "")
                if kind in ("ip4", "ip6") and "p2p-circuit" not in rest:
                    yield customer_of(host)

    def _at_the_door(self, address: str, fault: PeerFault, barred: bool) -> None:
        self.faults[fault.reason] += 1
        counters.count("stranger_faults", reason=fault.reason)
        if barred:
            counters.count("bans", whom="address")
            left_s = self.door.barred().get(address, 0.0)
            log.warning("an address is barred", address=address, reason=fault.reason, seconds=left_s)
