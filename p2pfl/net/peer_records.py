"""The message that carries signed peer records, and its limits. Imports no libp2p; who does is `book`."""

from __future__ import annotations

from dataclasses import dataclass

from p2pfl.rules.epochs import is_address, is_peer_id

# An address of a DNS name has 64 bytes or so, a key, a signature and their heads 180.
RECORD_BYTES_MAX = 1024
# Records of one message; whoever knows more sends several.
RECORDS_MAX = 16
# TCP over both IP versions, inside and outside of a router, twice: nobody needs more, and each may be called.
ADDRESSES_MAX = 8
# A host name of 253 letters, a port and the id of a relay.
ADDRESS_TEXT_MAX = 360
# What an address that leads through a relay ends in.
CIRCUIT = "/p2p-circuit"


def can_be_called(text: str) -> bool:
    """Whether this is a multiaddr of a host and a TCP port, a WebSocket's perhaps, or one through a relay."""
    direct, circuit, rest = text.partition(CIRCUIT)
    if circuit:
        direct, _, relay = direct.partition("/p2p/")
        if rest or not is_peer_id(relay):
            return False
    return len(text) <= ADDRESS_TEXT_MAX and is_address(direct.removesuffix("/ws"))


@dataclass(frozen=True, slots=True)
class PeerRecords:
    """Signed peer records (libp2p envelopes): where their authors are. Never reaches the handlers."""

    records: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.records) > RECORDS_MAX:
            raise ValueError(f"at most {RECORDS_MAX} records")
        if any(len(record) > RECORD_BYTES_MAX for record in self.records):
            raise ValueError(f"a record has at most {RECORD_BYTES_MAX} bytes")
