"""How bytes come in, from the socket to the body of a yamux frame, each layer patched to copy them once.

libp2p copies each byte a dozen times on its way in: every layer takes a buffer apart to serve short reads,
and keeps the rest in a new one. Part of `patches`, which pins the version. Knows no frame and no message.

    socket --READ_BYTES--> 2 + n bytes a noise message --decrypted--> 12 + n bytes a yamux frame
"""

from __future__ import annotations

import warnings
from typing import Any

import trio

with warnings.catch_warnings():
    # See `patches`, which is the first to import libp2p unless somebody imports this alone.
    warnings.simplefilter("ignore", DeprecationWarning)
    from libp2p.io import msgio
    from libp2p.io import trio as tcp_stream
    from libp2p.io import utils as io_utils
    from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
    from libp2p.security import secure_session
    from libp2p.stream_muxer.yamux import yamux

# What one read takes from a socket: a whole frame, so that a small message costs one system call, not four.
READ_BYTES = 64 * 1024
# As libp2p's own.
RETRIES = io_utils.DEFAULT_RETRY_READ_COUNT


def install() -> None:
    """Apply the patches. Called once, by `patches`."""
    _read_a_socket_at_once()
    _serve_from_what_was_decrypted()
    _take_what_is_complete()


def _read_a_socket_at_once() -> None:
    """A frame is read as 2 + 12 + n bytes, each a system call and a turn of the scheduler. Here a read takes
    what has arrived, and the next ones are served from it.
    """

    async def read(self: Any, n: int | None = None) -> bytes:
        async with self.read_lock:
            rest: bytes = self.mps_rest
            place: int = self.mps_place
            if place == len(rest):
                try:
                    rest = await self.stream.receive_some(READ_BYTES)
                except trio.BrokenResourceError as error:
                    raise ConnectionClosedError(f"reset by the peer: {error}", transport="tcp") from error
                except trio.ClosedResourceError:
                    return b""
                place = 0
                self.mps_received += len(rest)
            else:
                # Other tasks get their turn even while a peer fills the buffer with tiny frames.
                self.mps_served += 1
                if self.mps_served % 64 == 0:
                    await trio.lowlevel.checkpoint()
            end = len(rest) if n is None else min(place + n, len(rest))
            self.mps_rest, self.mps_place = rest, end
            return rest[place:end]

    plain_write = tcp_stream.TrioTCPStream.write

    async def write(self: Any, data: bytes) -> None:
        self.mps_sent += len(data)
        await plain_write(self, data)

    tcp_stream.TrioTCPStream.mps_rest = b""
    tcp_stream.TrioTCPStream.mps_place = 0
    tcp_stream.TrioTCPStream.mps_served = 0
    tcp_stream.TrioTCPStream.mps_sent = 0
    tcp_stream.TrioTCPStream.mps_received = 0
    tcp_stream.TrioTCPStream.read = read
    tcp_stream.TrioTCPStream.write = write


def _serve_from_what_was_decrypted() -> None:
    """To read the 12 bytes of a frame's head, libp2p copies the 64 KiB behind it three times. Here a place in
    the decrypted message moves on. A read brings what one message has, at least one byte.
    """

    async def read(self: Any, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        rest: bytes = self.mps_rest
        place: int = self.mps_place
        if place == len(rest):
            rest, place = await self.conn.read_msg(), 0
            if not rest:
                raise ConnectionClosedError("Connection closed")
        end = len(rest) if n is None else min(place + n, len(rest))
        self.mps_rest, self.mps_place = (b"", 0) if end == len(rest) else (rest, end)
        return rest[place:end]

    secure_session.SecureSession.mps_rest = b""
    secure_session.SecureSession.mps_place = 0
    secure_session.SecureSession.read = read


def _take_what_is_complete() -> None:
    """libp2p collects even what comes in one piece in a buffer, and copies the buffer."""

    async def read_exactly(
        reader: Any, n: int, retry_count: int = io_utils.DEFAULT_RETRY_READ_COUNT
    ) -> bytes:
        data = await reader.read(n)
        if len(data) == n:
            return data
        parts, missing = [data], n - len(data)
        for _ in range(retry_count):
            if not data:
                break  # It ended.
            data = await reader.read(missing)
            parts.append(data)
            missing -= len(data)
            if not missing:
                return b"".join(parts)
        raise IncompleteReadError(f"{n - missing} bytes of {n}", expected_bytes=n, received_bytes=n - missing)

    for module in (io_utils, msgio, yamux):
        module.read_exactly = read_exactly
