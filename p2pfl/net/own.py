"""The addresses at which others may reach this node: what the operator says, or where it listens.

What peers see of us is not asked: whoever is asked could send all the others somewhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from multiaddr import Multiaddr
from multiaddr.utils import get_network_addrs

from p2pfl.net.peer_records import ADDRESSES_MAX


def own_addresses(
    listen: str, announce: Iterable[str] = (), interfaces: Callable[[int], Iterable[str]] = get_network_addrs
) -> tuple[str, ...]:
    """What `announce` says; else the address that is listened at, or those of all interfaces if it is none.

    interfaces: the addresses of this machine, by IP version.
    """
    said = tuple(announce)
    if said:
        return said[:ADDRESSES_MAX]
    where = Multiaddr(listen)
    host = where.value_for_protocol("ip4")
    if host != "0.0.0.0":  # noqa: S104 - it is compared, not bound.
        return (listen,)
    port = where.value_for_protocol("tcp")
    found = sorted(interfaces(4))
    # Nobody else reaches our loopback; but where there is nothing else, everybody is on this machine.
    outside = [one for one in found if not one.startswith(("127.", "169.254."))] or ["127.0.0.1"]
    return tuple(f"/ip4/{one}/tcp/{port}" for one in outside[:ADDRESSES_MAX])
