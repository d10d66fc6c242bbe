"""Yamux frames as a peer may send them: every header is looked at before libp2p acts on it.

libp2p takes what comes: more than the window of a stream (it logs that), as many streams as are opened,
pings and window updates as fast as they arrive. Here what no yamux sends ends the connection, and what comes
too fast waits, which holds the sender up and nobody else. Knows the fields of libp2p's yamux; no message.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

import trio

from p2pfl.errors import PeerFault
from p2pfl.net.queues import Bucket

HEADER = struct.Struct(">BBHII")
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
# As in yamux: what a new stream may send before it was granted more.
FIRST_WINDOW_BYTES = 256 * 1024
# A window never grows beyond this (`patches`): what may be on its way to a stream that has just ended.
WINDOW_BYTES_MAX = 4 * 1024 * 1024

# Streams that a peer may have open on one connection: 24 to ask on, messages, gossip, ping and identify.
# What nobody reads from them costs 16 MiB at most.
STREAMS_MAX = 64
# A peer that comes back opens all of them at once.
STREAMS_PER_S, STREAMS_BURST = 50.0, 256
# Keepalives come every half a minute; libp2p in Python measures the round trip a little more often.
PINGS_PER_S, PINGS_BURST = 10.0, 50
# A frame costs about 50 us whatever it carries: a reader of 100 MB/s that grants every read sends 1,600
# window updates a second; small messages are written together. Faster ones than that are not read yet.
SMALL_BYTES = 64
SMALL_PER_S, SMALL_BURST = 2000.0, 8192
PAUSE_S = 0.1


class Yamux(Protocol):
    """The part of libp2p's connection that is used here."""

    is_initiator_value: bool
    streams: dict[int, Any]


class Frames:
    """What one connection has sent. on_fault: a fault that leaves the connection usable."""

    __slots__ = ("_mux", "_on_fault", "_opened", "_pings", "_small", "_theirs")

    def __init__(self, mux: Yamux, on_fault: Any) -> None:
        self._mux = mux
        self._on_fault = on_fault
        self._theirs = 0 if mux.is_initiator_value else 1  # Parity of the streams that the peer opens.
        self._opened = Bucket(STREAMS_PER_S, STREAMS_BURST)
        self._pings = Bucket(PINGS_PER_S, PINGS_BURST)
        self._small = Bucket(SMALL_PER_S, SMALL_BURST)

    async def look(self, header: bytes) -> None:
        """At the header of the next frame. Raises PeerFault when the connection is over."""
        version, kind, flags, stream_id, length = HEADER.unpack(header)
        if version or kind > GO_AWAY or flags > SYN | ACK | FIN | RST:
            raise PeerFault("bad_mux", f"version {version}, type {kind}, flags {flags:#x}")
        if (stream_id == 0) != (kind >= PING):
            raise PeerFault("bad_mux", f"type {kind} on stream {stream_id}")
        if kind == DATA:
            self._fits(stream_id, length, opens=bool(flags & SYN))
        if flags & SYN and kind < PING:
            self._opens(stream_id)
            if not self._opened.take():
                await self._pause("new streams")
        if kind == PING and not self._pings.take():
            await self._pause("pings")
        small = kind != DATA or length < SMALL_BYTES or stream_id not in self._mux.streams
        if small and not self._small.take():
            await self._pause("small frames")

    def _fits(self, stream_id: int, length: int, *, opens: bool) -> None:
        stream = self._mux.streams.get(stream_id)
        # Of a stream that we have just ended, what was on its way may still come.
        room = stream.recv_window if stream is not None and not opens else None
        if room is None:
            room = FIRST_WINDOW_BYTES if opens else WINDOW_BYTES_MAX
        if length > room:
            raise PeerFault("window_overrun", f"{length} bytes on stream {stream_id}, {room} were granted")

    def _opens(self, stream_id: int) -> None:
        if stream_id % 2 != self._theirs:
            raise PeerFault("bad_mux", f"the peer opened stream {stream_id}")
        theirs = sum(
            1 for number, each in self._mux.streams.items() if number % 2 == self._theirs and not each.closed
        )
        if theirs >= STREAMS_MAX:
            raise PeerFault("stream_flood", f"{theirs} streams are open")

    async def _pause(self, what: str) -> None:
        self._on_fault(PeerFault("mux_flood", what))
        await trio.sleep(PAUSE_S)
