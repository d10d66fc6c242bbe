"""A private network: every byte of a connection, from the first, under a key that all its members share.

The wire format is libp2p's private network of version 1 (specs/pnet): each direction begins with a nonce of
24 bytes, the rest is XOR'ed with XSalsa20. It keeps strangers out before any handshake; who somebody is and
that nobody changes a byte remains the business of what comes above. Knows neither peers nor streams.

libp2p 0.8.1 has a class for it that takes a nonce of 8 bytes and plain Salsa20, so that go and js members
could not join, and breaks when a nonce comes in two parts; `sockets` puts this one in its place.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from Crypto.Cipher import Salsa20

from p2pfl.durable import disk_error
from p2pfl.errors import UserError

KEY_BYTES = 32
NONCE_BYTES = 24
_HEADER = ("/key/swarm/psk/1.0.0/", "/base16/")
# The file has 96 bytes; whatever is much longer is not one.
_FILE_BYTES_MAX = 1024
# Whatever is agreed on a connection begins with these words, so a wrong key shows in the first message.
_FIRST_WORDS = b"\x13/multistream/1.0.0\n"
_SIGMA = struct.unpack("<4I", b"expand 32-byte k")


class WrongKey(ConnectionError):
    """The other side does not have our key."""


# ---------------------------------------------------------------------------
# The file.


def create_file(path: Path) -> None:
    """A new key in a new file that only we can read. Raises UserError."""
    text = "\n".join((*_HEADER, os.urandom(KEY_BYTES).hex(), ""))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Mode 0600 from the beginning; O_EXCL: the key of a running network is never overwritten.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise UserError(
            f"{path} is there already",
            because="a network key is never overwritten: whoever has the old one would be shut out",
            fix="name another file",
        ) from error
    except OSError as error:
        raise disk_error(path, error) from error


def read_file(path: Path) -> bytes:
    """The key of a file in libp2p's format (swarm.key). Raises UserError."""
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise disk_error(path, error) from error
    lines = text.decode("ascii", "replace").split()
    if len(lines) != 3 or tuple(lines[:2]) != _HEADER:
        raise _bad(path, f"it does not have the three lines {_HEADER[0]}, {_HEADER[1]} and the key")
    try:
        key = bytes.fromhex(lines[2])
    except ValueError:
        raise _bad(path, "its third line is not base16") from None
    if len(key) != KEY_BYTES:
        raise _bad(path, f"its key has {len(key)} bytes, not {KEY_BYTES}")
    return key


def _bad(path: Path, because: str) -> UserError:
    return UserError(
        f"{path} holds no network key",
        because=because,
        fix="copy the file of another member, or make the first one with `p2pfl keys new network FILE`",
    )


# ---------------------------------------------------------------------------
# The connection.


class ProtectedConn:
    """A raw connection of libp2p's under the key. Takes the place of its `PskConn`."""

    def __init__(self, conn: Any, key: bytes) -> None:
        self.conn = conn
        self._key = key
        self._reader: Any = None
        self._writer: Any = None
        self._awaited = _FIRST_WORDS

    @property
    def is_initiator(self) -> bool:
        """Whether we called."""
        return self.conn.is_initiator

    async def write(self, data: bytes) -> None:
        """Encrypt and send. Not to be cancelled half-way: the cipher has moved on (`patches` shields it)."""
        begin = b""
        if self._writer is None:
            begin = os.urandom(NONCE_BYTES)
            self._writer = xsalsa20(self._key, begin)
        await self.conn.write(begin + self._writer.encrypt(data))

    async def read(self, n: int | None = None) -> bytes:
        """What has arrived, at most n bytes. Raises WrongKey."""
        if self._reader is None:
            nonce = b""
            while len(nonce) < NONCE_BYTES:
                part = await self.conn.read(NONCE_BYTES - len(nonce))
                if not part:
                    return b""
                nonce += part
            self._reader = xsalsa20(self._key, nonce)
        data = self._reader.decrypt(await self.conn.read(n))
        if self._awaited:
            # Random bytes would be read as the length of a message that never comes, until time runs out.
            size = min(len(data), len(self._awaited))
            if data[:size] != self._awaited[:size]:
                raise WrongKey("the peer has another network key, or none")
            self._awaited = self._awaited[size:]
        return data

    async def close(self) -> None:
        """Close the connection below."""
        await self.conn.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Of the connection below."""
        return self.conn.get_remote_address()

    def get_transport_addresses(self) -> list[Any]:
        """Of the connection below."""
        return self.conn.get_transport_addresses()

    def get_connection_type(self) -> Any:
        """Of the connection below."""
        return self.conn.get_connection_type()


def xsalsa20(key: bytes, nonce: bytes) -> Any:
    """The stream cipher (Bernstein 2011, Extending the Salsa20 nonce), one direction of one connection."""
    return Salsa20.new(key=_hsalsa20(key, nonce[:16]), nonce=nonce[16:])


def _hsalsa20(key: bytes, nonce: bytes) -> bytes:
    """A key for the first 16 bytes of a nonce. In Python: it is done once a connection and direction."""
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", nonce)
    x = [_SIGMA[0], *k[:4], _SIGMA[1], *n, _SIGMA[2], *k[4:], _SIGMA[3]]
    for _ in range(10):
        for a, b, c, d in ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)):
            _quarter(x, a, b, c, d)
        for a, b, c, d in ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)):
            _quarter(x, a, b, c, d)
    return struct.pack("<8I", *(x[place] for place in (0, 5, 10, 15, 6, 7, 8, 9)))


def _quarter(x: list[int], a: int, b: int, c: int, d: int) -> None:
    for to, one, other, bits in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
        total = (x[one] + x[other]) & 0xFFFFFFFF
        x[to] ^= ((total << bits) | (total >> (32 - bits))) & 0xFFFFFFFF
