"""What an operator decides about one node's network. Knows no libp2p: settings are read without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class NetOptions:
    """The settings of section `net`, as `host.Network` takes them; each default is the setting's default.

    transport: what we listen with. security: the handshake; the same for all members. psk_file: the key of a
    private network, the same for all members.
    """

    transport: str = "tcp"  # or "websocket"
    security: str = "noise"  # or "tls"
    psk_file: Path | None = None


DEFAULTS = NetOptions()
