"""Peer ids without libp2p: cheap enough for whoever only writes a genesis file."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# Multihash "identity" (0x00) of 36 bytes: a protobuf of key type 1 (Ed25519) and 32 bytes of key.
_PREFIX = bytes((0x00, 36, 0x08, 1, 0x12, 32))


def peer_id_of(peer_key: bytes) -> str:
    """The libp2p peer id (base58) of an ed25519 seed of 32 bytes."""
    public = Ed25519PrivateKey.from_private_bytes(peer_key).public_key()
    data = _PREFIX + public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits
