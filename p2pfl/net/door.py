"""Who may knock: connections that somebody makes to us, by their remote address, before we know who it is.

A handshake costs a socket, a task and 10 ms of processor, and is given to anybody who asks. So half-open
ones are few, the oldest give way to the youngest (an honest handshake takes two round trips, however many
dishonest ones hang), an address makes so many a second, and one that only breaks handshakes is barred for a
time. Where a member lives, or has come from, is slowed down and never barred: others behind that address
would suffer. Knows neither sockets nor peer ids.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

import trio

from p2pfl.errors import PeerFault
from p2pfl.net.peer import Standing
from p2pfl.net.queues import Bucket

# All members of a group on one machine start at the same time; more handshakes than that nobody has.
HALF_OPEN_PER_ADDRESS = 32
# Two addresses' worth. With the 2 KiB that a handshake reads ahead and its task they cost less than 4 MB.
HALF_OPEN_MAX = 64
# A group of twenty behind one address, each calling again after its own restart, and then at most every 5 s.
CONNECTIONS_PER_S, CONNECTIONS_BURST = 5.0, 100
# From all addresses together where no member lives: a fifth of a processor, however many somebody has.
STRANGERS_PER_S, STRANGERS_BURST = 20.0, 200
# How many addresses are remembered, the barred ones longest: about 1 KiB each.
ADDRESSES_MAX = 4096
# A member that was away for the night is known where it was; who has that address next week is a stranger.
HOME_S = 12 * 3600.0
# Many times the members; a member that comes from ever new addresses makes us forget no more than old ones.
HOMES_MAX = 1024
# After a start nobody is known yet: whoever scans ports behind the router of all members must not have it
# barred before one of them has called, which takes them a few seconds.
GRACE_S = 60.0


class Knock:
    """One half-open connection. shut: closes its socket at once."""

    __slots__ = ("address", "shut")

    def __init__(self, address: str, shut: Callable[[], None]) -> None:
        self.address = address
        self.shut = shut


class _Address:
    __slots__ = ("calls", "open", "standing")

    def __init__(self) -> None:
        self.calls = Bucket(CONNECTIONS_PER_S, CONNECTIONS_BURST)
        self.open: OrderedDict[Knock, None] = OrderedDict()
        self.standing = Standing()


class Door:
    """The half-open connections of one host.

    lives_here: is it known that a member has this address. on_fault: (address, fault, barred from now on).
    grace_s: for how long after the first knock nobody is barred.
    """

    def __init__(
        self,
        *,
        lives_here: Callable[[str], bool],
        on_fault: Callable[[str, PeerFault, bool], None],
        grace_s: float = 0.0,
    ) -> None:
        self._lives_here = lives_here
        self._on_fault = on_fault
        self._grace_s = grace_s
        self._bars_from_s: float | None = None
        self._homes: OrderedDict[str, float] = OrderedDict()  # When a member was last there.
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._open: OrderedDict[Knock, None] = OrderedDict()
        self._strangers = Bucket(STRANGERS_PER_S, STRANGERS_BURST)

    @property
    def half_open(self) -> int:
        """Handshakes that are on their way."""
        return len(self._open)

    def barred(self) -> dict[str, float]:
        """Addresses that are barred, and for how many seconds yet."""
        found = {address: one.standing.banned_for_s for address, one in self._addresses.items()}
        return {address: left_s for address, left_s in found.items() if left_s and not self._is_home(address)}

    def is_barred(self, remote: str) -> bool:
        """Whether nobody may come from there now."""
        address = customer_of(remote)
        one = self._addresses.get(address)
        return one is not None and one.standing.is_banned() and not self._is_home(address)

    def welcome(self, remote: str) -> None:
        """A member is there, or was until now."""
        address = customer_of(remote)
        self._homes[address] = trio.current_time()
        self._homes.move_to_end(address)
        if len(self._homes) > HOMES_MAX:
            self._homes.popitem(last=False)

    def knock(self, remote: str, shut: Callable[[], None]) -> Knock | None:
        """A connection came; None when it is to be closed at once."""
        address = customer_of(remote)
        one = self._known(address)
        self._may_bar()  # The first one begins the grace.
        home = self._is_home(address)
        if one.standing.is_banned() and not home:
            return None
        if not one.calls.take():
            self._offend(address, PeerFault("connection_flood", address))
            return None
        if not home and not self._strangers.take():
            # Nobody in particular is to blame, so nobody is barred for it.
            self._on_fault(address, PeerFault("connection_flood", "from everywhere"), False)
            return None
        if len(one.open) >= HALF_OPEN_PER_ADDRESS:
            self._give_way(next(iter(one.open)))
        elif len(self._open) >= HALF_OPEN_MAX:
            # Of whoever has most of them: one address must not push out all the others.
            crowded = max(self._addresses.values(), key=lambda each: len(each.open))
            self._give_way(next(iter(crowded.open)))
        knock = Knock(address, shut)
        one.open[knock] = self._open[knock] = None
        return knock

    def settled(self, knock: Knock, reason: str | None, *, member: bool = False) -> None:
        """The handshake is over. reason: why it failed; None: it did not. member: who came is one of us."""
        if knock not in self._open:
            return  # It gave way, and was counted then.
        self._forget(knock)
        if member and reason is None:
            self.welcome(knock.address)
        if reason is not None:
            self._offend(knock.address, PeerFault(reason, knock.address))

    def offend(self, remote: str, fault: PeerFault) -> bool:
        """Somebody there, who is no member, broke a rule. True when the address is barred from now on."""
        return self._offend(customer_of(remote), fault)

    def _give_way(self, knock: Knock) -> None:
        self._forget(knock)
        knock.shut()
        self._offend(knock.address, PeerFault("half_open", f"{knock.address}, gave way"))

    def _forget(self, knock: Knock) -> None:
        del self._open[knock]
        one = self._addresses.get(knock.address)
        if one is not None:
            one.open.pop(knock, None)

    def _offend(self, address: str, fault: PeerFault) -> bool:
        one = self._known(address)
        barred = self._may_bar() and not self._is_home(address) and one.standing.offend(fault)
        self._on_fault(address, fault, barred)
        return barred

    def _may_bar(self) -> bool:
        now = trio.current_time()
        if self._bars_from_s is None:
            self._bars_from_s = now + self._grace_s
        return now >= self._bars_from_s

    def _is_home(self, address: str) -> bool:
        seen_s = self._homes.get(address)
        if seen_s is not None and trio.current_time() - seen_s < HOME_S:
            return True
        return self._lives_here(address)

    def _known(self, address: str) -> _Address:
        one = self._addresses.get(address)
        if one is None:
            one = self._addresses[address] = _Address()
            if len(self._addresses) > ADDRESSES_MAX:
                self._forget_an_address()
        self._addresses.move_to_end(address)
        return one

    def _forget_an_address(self) -> None:
        """One that was not heard of for long and has neither a ban nor a handshake, if there is one."""
        for looked, (address, one) in enumerate(self._addresses.items()):
            if not (one.open or one.standing.is_banned()):
                del self._addresses[address]
                return
            if looked == HALF_OPEN_MAX:
                break  # All of them barred: whoever has so many addresses is not stopped by remembering them.
        del self._addresses[next(address for address, one in self._addresses.items() if not one.open)]


def customer_of(remote: str) -> str:
    """What one customer of a provider has: an IPv4 address, or the 64 bits in front of an IPv6 address."""
    try:
        parsed = ip_address(remote.partition("%")[0])
    except ValueError:
        return remote[:64]
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Address(int(parsed) >> 64 << 64)) + "/64"
    return str(parsed)
