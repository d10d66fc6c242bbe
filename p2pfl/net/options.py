"""What an operator decides about one node's network. Knows no libp2p: settings are read without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from p2pfl.errors import UserError
from p2pfl.net.interface import PeerAddress
from p2pfl.net.peer_records import ADDRESSES_MAX, can_be_called
from p2pfl.rules.epochs import is_peer_id


@dataclass(frozen=True)
class NetOptions:
    """The settings of section `net`, as `host.Network` takes them; each default is the setting's default.

    transport: what we listen with. security: the handshake; the same for all members. psk_file: the key of a
    private network, the same for all members. announce: multiaddrs that others reach us at; none: those we
    listen at. bootstrap: where some peers are, whatever the genesis says. mdns: say where we are on the LAN,
    and listen who else is there. relay: pass on between members that cannot call each other, or be one of
    those. dht: ask members where others are.

    observers: how many strangers may look (0: none). observers_kib_s: KiB a second for all of them together.
    observers_updates: whether they see the updates of decided blocks too.
    """

    transport: str = "tcp"  # or "websocket"
    security: str = "noise"  # or "tls"
    psk_file: Path | None = None
    announce: tuple[str, ...] = ()
    bootstrap: tuple[PeerAddress, ...] = ()
    mdns: bool = False
    relay: str = "off"  # or "serve", "use"
    dht: bool = False
    observers: int = 8
    observers_kib_s: int = 512
    observers_updates: bool = False


DEFAULTS = NetOptions()

# A list for people: enough for every member of a network, short enough to be no other file by mistake.
BOOTSTRAP_MAX = 64


def announced(text: str | None) -> tuple[str, ...]:
    """The addresses of setting `net.announce`. Raises UserError."""
    found = _listed(text)
    for address in found:
        if not can_be_called(address):
            raise UserError(
                f"net.announce: {address} is no address that others can call",
                because="it should name a host and a TCP port, as others reach them",
                fix="give something like /ip4/203.0.113.5/tcp/9000, several with commas between",
            )
    if len(found) > ADDRESSES_MAX:
        raise UserError(
            f"net.announce has {len(found)} addresses",
            because=f"others try one after the other, and take {ADDRESSES_MAX} at most",
            fix="name those that others can really reach",
        )
    return found


def bootstrapped(text: str | None) -> tuple[PeerAddress, ...]:
    """The peers of setting `net.bootstrap`. Raises UserError."""
    found = [named(each, "net.bootstrap") for each in _listed(text)]
    if len(found) > BOOTSTRAP_MAX:
        raise UserError(
            f"net.bootstrap has {len(found)} peers",
            because=f"{BOOTSTRAP_MAX} are plenty: one that can be reached tells where the others are",
            fix="name a few of them",
        )
    return tuple(found)


def named(text: str, option: str) -> PeerAddress:
    """Who is where: a multiaddr with a peer id, as an operator wrote it for this option. Raises UserError."""
    address, _, peer_id = text.partition("/p2p/")
    if not can_be_called(address) or not is_peer_id(peer_id):
        raise UserError(
            f"{option}: {text} does not say who is where",
            because="it should name a host, a TCP port and a peer id",
            fix="give something like /ip4/203.0.113.5/tcp/9000/p2p/12D3KooW..., with commas between",
        )
    return PeerAddress(peer_id, address)


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())
