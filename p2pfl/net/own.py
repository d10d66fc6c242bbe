"""The addresses at which others may reach this node: what the operator says, or where it listens.

What peers see of us is not asked: whoever is asked could send all the others somewhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_address

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
    _, kind, host, rest = str(Multiaddr(listen)).split("/", 3)
    if kind not in ("ip4", "ip6") or not ip_address(host).is_unspecified:
        return (listen,)
    found = [ip_address(one.split("%")[0]) for one in sorted(interfaces(int(kind[2])))]
    # Nobody else reaches our loopback; but where there is nothing else, everybody is on this machine.
    outside = [str(one) for one in found if not one.is_loopback and not one.is_link_local]
    alone = ["127.0.0.1" if kind == "ip4" else "::1"]
    return tuple(f"/{kind}/{one}/{rest}" for one in (outside or alone)[:ADDRESSES_MAX])
