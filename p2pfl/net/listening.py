"""The address a host listens at, and where libp2p's log lines go. Knows neither peers nor streams."""

from __future__ import annotations

import logging
import socket
import traceback

import multiaddr

from p2pfl.errors import UserError
from p2pfl.telemetry import logger

log = logger("net")


def parsed(listen: str) -> multiaddr.Multiaddr:
    """The address, if it is one of IPv4 and TCP. Raises UserError."""
    try:
        address = multiaddr.Multiaddr(listen)
        address.value_for_protocol("ip4")
        int(address.value_for_protocol("tcp") or "")
    except Exception as error:  # The library's parsers raise many kinds.
        raise UserError(
            f"the address {listen} is not one to listen at",
            because=str(error),
            fix="name one like /ip4/127.0.0.1/tcp/4001",
        ) from error
    return address


def assert_free(address: multiaddr.Multiaddr) -> None:
    """libp2p listens with SO_REUSEPORT: a second node at the same port would take half of our calls."""
    where = (address.value_for_protocol("ip4"), int(address.value_for_protocol("tcp") or "0"))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            raise in_use(str(address), str(error)) from error


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
