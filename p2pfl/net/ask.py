"""Requests and their answers, on streams of their own: a long answer must not hold up a vote.

A stream carries requests one way and answers the other, in the same order; several may be on their way.
Knows frames; who may ask what is in `host`, what a piece proves is in `blobs`.

    frame = length (4) | tag (1) | CBOR          a piece's bytes follow the frame of its PieceHead as they are
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from p2pfl.errors import PeerFault
from p2pfl.net import wire
from p2pfl.net.stream import Stream, StreamBroken

# A stream on which nobody asks for this long is given back.
IDLE_S = 60.0
# An answer that makes no progress for this long comes from a silent peer. One that makes less than this much
# progress in that time comes from a slow one: 64 KiB in 2 s are 0.26 Mbit/s, below any link that we serve.
STALL_S = 2.0
SLOW_BYTES = 64 * 1024
# An answer must be taken in this time, and what its size needs at SLOW_BYTES a STALL_S; whoever takes a byte
# now and then would hold a piece in memory, and a place, for ever.
TAKE_S = 15.0
# Bytes of a blob are only copied, so more of them may come at once.
READ_BYTES = 256 * 1024
# Requests are small; whoever sends more before the first frame is complete is not asking.
REQUEST_BYTES_MAX = 1 + max(row.size_max for row in wire.TABLE if 32 <= row.tag < 48)
_ANSWERS = frozenset(row.tag for row in wire.TABLE if row.tag >= 48)


class Stalled(StreamBroken):
    """The peer is silent or too slow."""


class Reader:
    """Frames and raw bytes from a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def frame(self, bytes_max: int) -> bytes:
        """One frame without its length. Raises PeerFault("bad_frame") for a longer one."""
        await self._fill(4)
        length = int.from_bytes(self._buffer[:4], "big")
        if not 1 <= length <= bytes_max:
            raise PeerFault("bad_frame", f"a frame of {length} bytes, the limit is {bytes_max}")
        await self._fill(4 + length)
        packed = bytes(memoryview(self._buffer)[4 : 4 + length])
        del self._buffer[: 4 + length]
        return packed

    async def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            self._buffer += await self._stream.read(READ_BYTES)

    async def raw(self, size: int) -> bytearray:
        """Exactly this many bytes. Raises Stalled when they come too slowly."""
        data = bytearray(size)
        view, place = memoryview(data), min(size, len(self._buffer))
        view[:place] = self._buffer[:place]
        del self._buffer[:place]
        began_s, before = trio.current_time(), place
        while place < size:
            with trio.move_on_after(STALL_S) as scope:
                part = await self._stream.read(min(READ_BYTES, size - place))
                view[place : place + len(part)] = part
                place += len(part)
            if scope.cancelled_caught:
                raise Stalled("silent in the middle of an answer")
            if (now := trio.current_time()) - began_s > STALL_S:
                if place - before < SLOW_BYTES and place < size:
                    raise Stalled(f"{place - before} bytes in {now - began_s:.1f} s")
                began_s, before = now, place
        return data


def framed(packed: bytes) -> bytes:
    """A packed message with its length."""
    return len(packed).to_bytes(4, "big") + packed


class Asker:
    """The end that asks. `owed` answers are still to come."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.owed = 0
        self._reader = Reader(stream)

    async def send(self, request: object) -> None:
        """Ask. The answers come in the order of the requests."""
        self.owed += 1
        await self.stream.write(framed(wire.pack(request)))

    async def receive(self, *, silence_s: float) -> object:
        """The next answer: a response, a Piece or Refused.

        Raises Stalled when none begins within `silence_s`, StreamBroken, and PeerFault.
        """
        with trio.move_on_after(silence_s) as scope:
            packed = await self._reader.frame(wire.PACKED_BYTES_MAX)
        if scope.cancelled_caught:
            raise Stalled(f"no answer within {silence_s:g} s")
        if packed[0] not in _ANSWERS:
            raise PeerFault("bad_answer", f"tag {packed[0]}")
        answer = wire.unpack(packed)
        if isinstance(answer, wire.PieceHead):
            data = await self._reader.raw(answer.length)
            answer = wire.Piece(answer.total_length, answer.proof, data)
        self.owed -= 1
        return answer


def _nobody_waits() -> None:
    """Members are known, and few."""


async def serve(
    stream: Stream,
    answer: Callable[[bytes], Awaitable[Sequence[bytes]]],
    on_taken: Callable[[], None] = _nobody_waits,
) -> None:
    """Answer requests until the peer ends the stream or asks nothing for IDLE_S.

    answer: from a packed request to what is to be written. on_taken: an answer has been written. Raises
    PeerFault, StreamBroken.
    """
    reader = Reader(stream)
    try:
        while True:
            with trio.move_on_after(IDLE_S) as scope:
                packed = await reader.frame(REQUEST_BYTES_MAX)
            if scope.cancelled_caught:
                return
            parts = await answer(packed)
            size = sum(len(part) for part in parts)
            with trio.move_on_after(TAKE_S + size * STALL_S / SLOW_BYTES) as scope:
                for part in parts:
                    await stream.write(part)
            if scope.cancelled_caught:
                raise PeerFault("slow_reader", f"{size} bytes were not taken")
            del parts, part
            on_taken()
    finally:
        await stream.reset()
