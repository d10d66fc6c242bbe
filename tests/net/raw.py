"""A peer that speaks noise as it should and everything above by hand, so that it can break any rule of it.

    raw socket -> multistream -> noise -> multistream -> yamux frames, one by one

Knows the bytes of libp2p's protocols; what is worth sending is up to the tests.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from p2pfl.net import patches

patches.install()

from libp2p.crypto.ed25519 import create_new_key_pair  # noqa: E402 - once its version is the right one.
from libp2p.crypto.rsa import create_new_key_pair as create_rsa_key  # noqa: E402
from libp2p.crypto.serialization import deserialize_public_key  # noqa: E402
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key  # noqa: E402
from libp2p.io.trio import TrioTCPStream  # noqa: E402
from libp2p.network.connection.raw_connection import RawConnection  # noqa: E402
from libp2p.peer.id import ID  # noqa: E402
from libp2p.pubsub.pb import rpc_pb2  # noqa: E402
from libp2p.security.noise.transport import Transport  # noqa: E402

__all__ = ["Raw", "create_rsa_key", "deserialize_public_key", "raw_peer", "rpc_pb2", "shaken", "socket_to"]

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
# Loopback has sixteen million addresses: a stranger comes from another one than the members.
ELSEWHERE = "127.0.0.66"
# What breaks when the other side has had enough of us.
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, EOFError)


def line(name: str) -> bytes:
    """One line of multistream."""
    data = name.encode() + b"\n"
    return varint(len(data)) + data


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def opening(protocol: str) -> bytes:
    """What the opener of a stream says first."""
    return line("/multistream/1.0.0") + line(protocol)


def frame(kind: int, flags: int, stream_id: int, data: bytes = b"", length: int | None = None) -> bytes:
    """A yamux frame; `length` may lie."""
    return struct.pack(">BBHII", 0, kind, flags, stream_id, len(data) if length is None else length) + data


async def socket_to(port: int, source: str = ELSEWHERE) -> trio.SocketStream:
    """A TCP connection from an address of our choice."""
    sock = trio.socket.socket()
    await sock.bind((source, 0))
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


class Raw:
    """One connection of the hostile peer, after noise and yamux were agreed on."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._next = 1
        self.received = bytearray()
        self.gone = False

    async def send(self, *frames: bytes) -> None:
        """Write frames; raises EOFError when the other side has ended the connection."""
        try:
            await self._session.write(b"".join(frames))
        except Exception as error:
            self.gone = True
            raise EOFError(str(error)) from error

    async def open(self, protocol: str, data: bytes = b"") -> int:
        """A stream with this protocol, chosen at once, and what is said on it first."""
        number = self.new_id()
        await self.send(frame(DATA, SYN, number, opening(protocol) + data))
        return number

    def new_id(self) -> int:
        self._next += 2
        return self._next - 2

    async def read_on(self, keep: int = 1 << 20) -> None:
        """Take what comes and answer pings, until the end; the last `keep` bytes stay in `received`."""
        try:
            while True:
                data = await self._session.read(65536)
                if not data:
                    break
                self.received += data
                del self.received[:-keep]
        except Exception:  # noqa: BLE001 - it is over.
            pass
        self.gone = True

    async def close(self) -> None:
        with trio.move_on_after(1, shield=True):
            await self._session.close()


async def _exactly(stream: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await stream.read(size - len(data))
        if not part:
            raise EOFError("the other side ended it")
        data += part
    return data


async def _agree(stream: Any, protocol: str) -> None:
    expected = opening(protocol)
    await stream.write(expected)
    if await _exactly(stream, len(expected)) != expected:
        raise EOFError(f"no {protocol}")


async def shaken(port: int, peer_id: str, key: bytes, source: str = ELSEWHERE) -> Raw:
    """Connect and shake hands with this key. Raises one of GONE when one is not let in."""
    with trio.fail_after(10):
        tcp = TrioTCPStream(await socket_to(port, source))
        try:
            await _agree(tcp, "/noise")
            mine = create_new_key_pair(key)
            noise = Transport(mine, noise_privkey=create_noise_key().private_key)
            session = await noise.secure_outbound(RawConnection(tcp, True), ID.from_string(peer_id))
            await _agree(session, "/yamux/1.0.0")
        except Exception as error:
            await tcp.close()
            raise EOFError(f"{type(error).__name__}: {error}") from error
        except BaseException:
            with trio.CancelScope(shield=True):
                await tcp.close()
            raise
    return Raw(session)


@asynccontextmanager
async def raw_peer(port: int, peer_id: str, key: bytes, source: str = ELSEWHERE) -> AsyncIterator[Raw]:
    """A connection whose reader runs, until the block ends."""
    raw = await shaken(port, peer_id, key, source)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.read_on)
        try:
            yield raw
        finally:
            nursery.cancel_scope.cancel()
            await raw.close()
