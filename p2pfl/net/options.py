"""What an operator decides about one node's network. Knows no libp2p: settings are read without it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NetOptions:
    """The settings of section `net`, as `host.Network` takes them; each default is the setting's default."""


DEFAULTS = NetOptions()
