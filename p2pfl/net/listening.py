"""The address a host listens at, what others are told of it, and where libp2p's log lines go.

Knows neither peers nor streams.
"""

from __future__ import annotations

import logging
import socket
import traceback
from ipaddress import ip_address

import multiaddr

from p2pfl.errors import UserError
from p2pfl.telemetry import logger

log = logger("net")

_EXAMPLES = {"tcp": "/ip4/127.0.0.1/tcp/4001", "websocket": "/ip4/127.0.0.1/tcp/4001/ws"}


def parsed(listen: str, transport: str = "tcp") -> multiaddr.Multiaddr:
    """The address to listen at, if it is one of this transport. Raises UserError."""
    try:
        address = multiaddr.Multiaddr(listen)
        names = [protocol.name for protocol in address.protocols()]
        good = names[:1] in (["ip4"], ["ip6"]) and names[1:] in (["tcp"], ["tcp", "ws"])
        because = "" if good else "it is not an IP address and a TCP port"
    except Exception as error:  # noqa: BLE001 - the library's parsers raise many kinds.
        names, because = [], str(error)
    if because:
        raise UserError(
            f"the address {listen} is not one to listen at",
            because=because,
            fix=f"name one like {_EXAMPLES[transport]}, or like /ip6/::1/tcp/4001",
        )
    if (names[-1] == "ws") != (transport == "websocket"):
        raise UserError(
            f"net.transport is {transport}, and {listen} is no address of it",
            because="a WebSocket's address ends in /ws, one of TCP alone does not",
            fix=f"listen at an address like {_EXAMPLES[transport]}, or change the setting",
        )
    return address


def assert_free(address: multiaddr.Multiaddr) -> None:
    """libp2p listens with SO_REUSEPORT: a second node at the same port would take half of our calls."""
    (name, host), (_, port) = list(address.items())[:2]
    family = socket.AF_INET6 if name.name == "ip6" else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((str(host), int(str(port))))
        except OSError as error:
            raise in_use(str(address), str(error)) from error


def announced(listen: multiaddr.Multiaddr, known: str | None) -> list[multiaddr.Multiaddr]:
    """What we say when somebody asks where we are.

    known: the address that the others were told to call us at. Behind 0.0.0.0 are all addresses of this
    machine; the others would call themselves there.
    """
    if known is not None:
        try:
            return [multiaddr.Multiaddr(known)]
        except ValueError as error:
            raise UserError(
                f"the genesis says that we are at {known}",
                because=str(error),
                fix="it must be a multiaddr that the others can call",
            ) from error
    name, host = next(iter(listen.items()))
    return [] if name.name in ("ip4", "ip6") and ip_address(str(host)).is_unspecified else [listen]


def in_use(listen: str, because: str) -> UserError:
    """The error of an address that cannot be had."""
    return UserError(
        f"cannot listen at {listen}",
        because=because,
        fix="stop what listens there (ss -ltnp shows it), or set another address",
    )


# ---------------------------------------------------------------------------
# Logs.


class _Routed(logging.Handler):
    """libp2p's log lines become ours, at level debug: what we need to know we see for ourselves."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = record.getMessage()
        except Exception:  # noqa: BLE001 - a broken format string of the library's.
            line = str(record.msg)
        if record.exc_info and record.exc_info[1] is not None:
            line += " " + traceback.format_exception_only(record.exc_info[1])[-1].strip()
        log.debug("libp2p says", room=record.name, level=record.levelname.lower(), line=line)


_ROUTED = _Routed(level=logging.WARNING)


def route_logs() -> None:
    """libp2p's own logger has no handler, so its warnings go to stderr; some go to the root logger.

    `logging.debug` of the module would give a root logger without handlers one of its own.
    """
    library, root = logging.getLogger("libp2p"), logging.getLogger()
    if _ROUTED not in library.handlers:
        library.addHandler(_ROUTED)
        library.setLevel(logging.WARNING)  # Below, lines are formatted for nobody.
    if not root.handlers:
        root.addHandler(_ROUTED)
