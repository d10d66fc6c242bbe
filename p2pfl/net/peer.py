"""What one member's node remembers of another: where it is, the link to it, and how it behaves.

Faults have names, are counted, and too many of them in a minute bar a peer for a time. Knows no socket.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass, field

import trio

from consensus.types import MemberId
from p2pfl.errors import PeerFault
from p2pfl.net.ask import Asker
from p2pfl.net.interface import PeerAddress
from p2pfl.net.queues import Buckets
from p2pfl.net.stream import Link

# Streams on which one peer may ask at the same time: a fetch for each of sixteen blobs, and requests.
ASKED_STREAMS_MAX = 24
# On how many we ask: fewer, since a peer may not have heard yet of those that we gave up.
ASKS_MAX = 16

# So many broken rules of the wire within a minute bar a peer for a minute, then for two, up to an hour.
FAULTS_MAX, FAULTS_WITHIN_S = 20, 60.0
BAN_MIN_S, BAN_MAX_S = 60.0, 3600.0
# After so long without a ban one of the earlier ones is forgotten: who was mended is believed again.
BAN_FORGOTTEN_S = 6 * 3600.0

# Every reason this room gives, and whether it counts towards a ban. Other rooms' faults are counted only:
# they know better what to do about them.
REASONS: dict[str, tuple[bool, str]] = {
    "bad_hello": (True, "a stream of messages that does not begin with a greeting"),
    "bad_frame": (True, "a frame with an impossible length or number"),
    "bad_ack": (True, "an acknowledgement of what was never sent"),
    "bad_message": (True, "a message that is too long or not in canonical form"),
    "unknown_message": (True, "a tag that is not in the table: rubbish, or a later version"),
    "flood": (True, "more than the table's rate and burst"),
    "wrong_opener": (True, "the stream of messages was opened by the higher of the two ids"),
    "too_many_streams": (True, "more streams to ask on than a fetch of every blob needs"),
    "bad_request": (True, "a request where it cannot be made, or beyond the end of a blob"),
    "bad_answer": (True, "an answer to something that was not asked"),
    "wrong_piece": (True, "bytes that the blob's id does not vouch for"),
    "bad_record": (True, "a peer record whose signature, key or form is wrong"),
    "foreign_record": (False, "a record of somebody who is no member here"),
    "old_record": (False, "a record of its own that is older than the one before"),
    "slow": (False, "no progress for two seconds in the middle of a blob"),
    "slow_reader": (False, "an answer was not taken in the time that a slow link needs"),
    "frozen": (False, "connected, but not a word for eight seconds"),
    "bad_mux": (True, "a yamux frame that no yamux sends: version, type, flags or stream"),
    "window_overrun": (True, "more bytes on a stream than its window grants"),
    "mux_flood": (True, "more small yamux frames, pings or new streams a second than anybody needs"),
    "stream_flood": (True, "more streams open at a time, or of one protocol of libp2p, than anybody needs"),
    "ping_flood": (True, "more libp2p pings than anybody needs"),
    "gossip_flood": (
        False,
        "more gossip than all announcements are; its author may be another",
    ),
    "bad_gossip": (True, "gossip that is too long, or that libp2p cannot take apart"),
    "bad_handshake": (True, "a connection that ended before noise and yamux agreed"),
    "half_open": (True, "a handshake that was not finished in time, or gave way to younger ones"),
    "connection_flood": (True, "more connections a second from one address than a group makes"),
}
# A fault a message would bar a peer for one bad moment: of these, one a second counts towards a ban.
FLOODS = frozenset(name for name in REASONS if name.endswith("flood"))


class Standing:
    """The offences of one peer, or of one address, and until when they bar it."""

    __slots__ = ("_flooded_s", "_offences_s", "banned_until_s", "bans")

    def __init__(self) -> None:
        self.banned_until_s = -math.inf
        self.bans = 0
        self._flooded_s = -math.inf
        self._offences_s: deque[float] = deque(maxlen=FAULTS_MAX)

    @property
    def banned_for_s(self) -> float:
        """For how long it is barred yet; 0 when it is not."""
        return max(0.0, self.banned_until_s - trio.current_time())

    def is_banned(self) -> bool:
        """Whether it is barred now."""
        return trio.current_time() < self.banned_until_s

    def offend(self, fault: PeerFault) -> bool:
        """Remember a fault; True when it was one too many, and its author is barred from now on."""
        counts, _ = REASONS.get(fault.reason, (False, ""))
        if not counts or self.is_banned():
            return False
        now = trio.current_time()
        if fault.reason in FLOODS:
            if now - self._flooded_s < 1.0:
                return False
            self._flooded_s = now
        self._offences_s.append(now)
        if len(self._offences_s) < FAULTS_MAX or now - self._offences_s[0] > FAULTS_WITHIN_S:
            return False
        self.ban()
        return True

    def ban(self) -> None:
        """Bar it from now on, for longer than the last time."""
        now = trio.current_time()
        if self.bans:
            self.bans = max(0, self.bans - int((now - self.banned_until_s) / BAN_FORGOTTEN_S))
        self.banned_until_s = now + min(BAN_MAX_S, BAN_MIN_S * 2.0 ** min(self.bans, 10))
        self.bans += 1
        self._offences_s.clear()


@dataclass
class Peer:
    """One member as we see it. `changed` is replaced whenever its first connection comes or its last goes.

    parted: it has lost the right to speak; at most it is an observer.
    """

    member: MemberId
    address: PeerAddress
    link: Link
    changed: trio.Event = field(default_factory=trio.Event)
    since_s: float = 0.0
    asking: int = 0
    asks: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(ASKS_MAX))
    buckets: Buckets = field(default_factory=Buckets)
    idle: dict[str, list[tuple[float, Asker]]] = field(default_factory=lambda: defaultdict(list))
    standing: Standing = field(default_factory=Standing)
    parted: bool = False

    def connection_changed(self) -> None:
        """The first connection came, or the last one went: what waited on the old one is void."""
        self.since_s = trio.current_time()
        self.idle = defaultdict(list)
        self.look_again()

    def look_again_if_lost(self) -> None:
        """Wake who waits to call it: there is another address to try."""
        if not self.link.up:
            self.look_again()

    def look_again(self) -> None:
        """Wake who waits for a change."""
        self.changed.set()
        self.changed = trio.Event()

    @property
    def banned_until_s(self) -> float:
        """Until when it is barred."""
        return self.standing.banned_until_s

    def is_banned(self) -> bool:
        """Whether it is barred now."""
        return self.standing.is_banned()

    def offend(self, fault: PeerFault) -> bool:
        """Remember a fault; True when it was one too many, and the peer is barred from now on."""
        return self.standing.offend(fault)
