"""One held-open stream between two members: messages in order, acknowledged, delivered once.

A link outlives its streams. What was not acknowledged when a stream broke is sent again on the next one;
what the other side has taken already it recognises by its number. Both directions share one stream, and
acknowledgements ride on messages. Knows frames and numbers; who opens the stream is in `host`.

    frame   = length (4) | number (8) | oldest (8) | ack (8) | tag (1) | CBOR        (`wire`)
    hello   = length (4) | "MPS1" | session (16) | oldest (8) | known session (16) | expected (8)
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import trio

from p2pfl.errors import PeerFault
from p2pfl.net import wire
from p2pfl.net.queues import HEAD, HEAD_REST_BYTES, OUTBOX_MESSAGES_MAX, Bucket, Buckets, Inbox, Outbox

# An acknowledgement waits this long for a message to ride on, or for this much to acknowledge.
ACK_S = 0.1
ACK_MESSAGES = 64
ACK_BYTES = 1024 * 1024
# Whoever has said nothing for this long says that it is alive; whoever misses three of them is frozen.
HEARTBEAT_S = 2.0
FROZEN_S = 8.0
HELLO_S = 5.0
# Messages that wait are written together, up to this size: one system call and one encryption.
WRITE_BYTES = 256 * 1024
# What is read at once is parsed at once: 64 KiB are 700 votes and take less than 10 ms.
READ_BYTES = 64 * 1024
# After as much, others get their turn; less is parsed in less time than a turn takes.
TURN_BYTES = 4 * 1024

_HELLO = struct.Struct(">I4s16sQ16sQ")
_MAGIC = b"MPS1"
_FRAME_BYTES_MAX = HEAD_REST_BYTES + wire.PACKED_BYTES_MAX
_HEARTBEAT_TAG = wire.BY_KIND[wire.Heartbeat].tag
_SIGN_OF_LIFE = wire.pack(wire.Heartbeat())
_AGAIN = wire.pack(wire.Heartbeat(again=True))
# Frames that a peer may repeat: its whole outbox after each reconnect, and a few in a crossing.
_REPEATS_PER_S, _REPEATS_BURST = 200.0, 8 * OUTBOX_MESSAGES_MAX
# How often a peer may ask for everything once more: each costs us its whole outbox.
_AGAIN_PER_S, _AGAIN_BURST = 4.0, 64
# After a flood nothing is read for so long, which holds the flooder up: 64 KiB each time are 10 ms of work.
FLOOD_PAUSE_S = 0.1
# One-way messages have the tags below; requests and answers travel on streams of their own.
_TAGS = frozenset(row.tag for row in wire.TABLE if row.tag < 32)


class RawStream(Protocol):
    """The part of a libp2p stream that is used here."""

    async def read(self, n: int | None = None) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    async def reset(self) -> None: ...


class StreamBroken(Exception):
    """The stream ended, was reset, or its connection is gone. Nobody's fault."""


class Stream:
    """A libp2p stream whose many ways to end are one: StreamBroken. What else is raised above is a bug."""

    def __init__(self, raw: RawStream) -> None:
        self._raw = raw

    async def read(self, size: int = READ_BYTES) -> bytes:
        """At least one byte, at most `size`."""
        try:
            data = await self._raw.read(size)
        except Exception as error:  # A dozen kinds, all of the library's.
            raise StreamBroken(f"{type(error).__name__}: {error}") from error
        if not data:
            raise StreamBroken("it ended")
        return data

    async def write(self, data: bytes) -> None:
        """All of it. Larger pieces cost less: a noise message has 64 KiB."""
        try:
            await self._raw.write(data)
        except Exception as error:
            raise StreamBroken(f"{type(error).__name__}: {error}") from error

    async def reset(self) -> None:
        """End it at once, in both directions."""
        with trio.move_on_after(1.0, shield=True):
            try:
                await self._raw.reset()
            except Exception:  # noqa: BLE001 - it is over either way.
                return


@contextmanager
def one_error() -> Iterator[None]:
    """Around a nursery whose tasks share one fate: raise what ended it as it was, a peer's fault first."""
    try:
        yield
    except BaseExceptionGroup as group:
        errors, cancelled = group.split(Exception)
        if errors is None:
            raise
        flat = list(_leaves(errors))
        if cancelled is not None:
            # We are cancelled, and what broke meanwhile interests nobody any more; a bug does.
            if all(isinstance(error, (PeerFault, StreamBroken)) for error in flat):
                raise cancelled from None
            raise
        raise next((error for error in flat if isinstance(error, PeerFault)), flat[0]) from None


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class Link:
    """The conversation with one peer, over as many streams as it takes.

    on_up: called when both sides have said hello. on_fault: a fault that leaves the stream usable.
    """

    def __init__(
        self, session: bytes, on_up: Callable[[], None], on_fault: Callable[[PeerFault], None]
    ) -> None:
        self.outbox = Outbox()
        self.inbox = Inbox()
        self.last_heard_s = -math.inf
        self.up = False
        self.ups = 0  # How often it came up.
        self._session = session
        self._on_up = on_up
        self._on_fault = on_fault
        self._buckets = Buckets()
        self._repeats = Bucket(_REPEATS_PER_S, _REPEATS_BURST)
        self._agains = Bucket(_AGAIN_PER_S, _AGAIN_BURST)
        self._flooded = False
        self._newest = 0  # How many streams there have been.
        self._wake = trio.Event()
        self._nap = trio.CancelScope()  # What the writer sleeps in.
        self._turn = trio.Lock()
        self._scope: trio.CancelScope | None = None
        self._ack_due_s = math.inf
        self._unacked_messages = 0
        self._unacked_bytes = 0
        self._again = False

    def send(self, packed: bytes) -> None:
        """Put a packed message into the outbox."""
        self.outbox.push(packed)
        self._wake.set()

    def done(self) -> None:
        """The handlers have dealt with the oldest message of the inbox."""
        if self.inbox.done():
            self._again = True
            self._wake.set()

    async def serve(self, stream: Stream) -> None:
        """Talk on this stream until it ends; the newest stream takes the place of the one before it.

        Raises PeerFault when the peer broke the framing, StreamBroken when the stream ended.
        """
        if self._scope is not None:
            self._scope.cancel()
        self._newest += 1
        mine = self._newest
        try:
            async with self._turn:
                if mine != self._newest:
                    return  # A newer one came while we waited: whoever opens many has the last one.
                with trio.CancelScope() as scope:
                    self._scope = scope
                    try:
                        await self._serve(stream)
                    finally:
                        self._scope = None
                        self.up = False
        finally:
            await stream.reset()

    async def _serve(self, stream: Stream) -> None:
        inbox = self.inbox
        hello = (_HELLO.size - 4, _MAGIC, self._session, self.outbox.oldest, inbox.session, inbox.expected)
        await stream.write(_HELLO.pack(*hello))
        buffer = bytearray()
        with trio.fail_after(HELLO_S):
            while len(buffer) < _HELLO.size:
                buffer += await stream.read()
        self._greet(buffer)
        del buffer[: _HELLO.size]
        self.last_heard_s = trio.current_time()
        self.up = True
        self.ups += 1
        self._on_up()
        with one_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream)
                await self._read(stream, buffer)

    def _greet(self, buffer: bytearray) -> None:
        length, magic, session, oldest, known, expected = _HELLO.unpack_from(buffer)
        if length != _HELLO.size - 4 or magic != _MAGIC or not 1 <= oldest < 1 << 63:
            raise PeerFault("bad_hello", buffer[: _HELLO.size].hex())
        self.inbox.greet(session, oldest)
        if known == self._session:
            self.outbox.acknowledged(expected)
        self.outbox.rewind()

    # -- writing -----------------------------------------------------------

    async def _write(self, stream: Stream) -> None:
        heartbeat_due_s = trio.current_time() + HEARTBEAT_S
        while True:
            now = trio.current_time()
            frames = self.outbox.take(self.inbox.expected, WRITE_BYTES)
            if self._again or (not frames and now >= min(self._ack_due_s, heartbeat_due_s)):
                sign = _AGAIN if self._again else _SIGN_OF_LIFE
                head = HEAD.pack(HEAD_REST_BYTES + len(sign), 0, self.outbox.oldest, self.inbox.expected)
                frames += (head, sign)
                self._again = False
            if frames:
                self._ack_due_s, self._unacked_messages, self._unacked_bytes = math.inf, 0, 0
                heartbeat_due_s = now + HEARTBEAT_S
                await stream.write(b"".join(frames))
                continue
            self._wake = trio.Event()
            with trio.move_on_at(min(self._ack_due_s, heartbeat_due_s)) as self._nap:
                await self._wake.wait()

    def _acknowledge(self, size: int) -> None:
        self._unacked_messages += 1
        self._unacked_bytes += size
        if self._unacked_messages >= ACK_MESSAGES or self._unacked_bytes >= ACK_BYTES:
            self._ack_due_s = -math.inf
            self._wake.set()
        elif self._ack_due_s == math.inf:
            self._ack_due_s = trio.current_time() + ACK_S
            # To wake the writer, only for it to sleep until then, would cost two turns of the scheduler.
            self._nap.deadline = min(self._nap.deadline, self._ack_due_s)

    # -- reading -----------------------------------------------------------

    async def _read(self, stream: Stream, buffer: bytearray) -> None:
        taken = len(buffer)
        while True:
            place = 0
            while (end := self._frame_end(buffer, place)) is not None:
                self._take_frame(buffer, place, end)
                place = end
            del buffer[:place]
            if taken >= TURN_BYTES:
                await trio.lowlevel.checkpoint()  # A peer that never stops must not keep the others waiting.
            if self._flooded:
                self._flooded = False
                await trio.sleep(FLOOD_PAUSE_S)
            data = await stream.read()
            taken = len(data)
            buffer += data
            self.last_heard_s = trio.current_time()

    @staticmethod
    def _frame_end(buffer: bytearray, place: int) -> int | None:
        if len(buffer) - place < HEAD.size:
            return None
        length = int.from_bytes(buffer[place : place + 4], "big")
        if not HEAD_REST_BYTES < length <= _FRAME_BYTES_MAX:
            raise PeerFault("bad_frame", f"a frame of {length} bytes")
        end = place + 4 + length
        return end if end <= len(buffer) else None

    def _take_frame(self, buffer: bytearray, place: int, end: int) -> None:
        _, number, oldest, ack = HEAD.unpack_from(buffer, place)
        tag = buffer[place + HEAD.size]
        packed = bytes(memoryview(buffer)[place + HEAD.size : end])
        self.outbox.acknowledged(ack)
        if tag == _HEARTBEAT_TAG:
            if not self._buckets.take(tag):
                self._flood("Heartbeat")
            elif wire.unpack(packed) == wire.Heartbeat(again=True):
                if self._agains.take():
                    self.outbox.rewind()
                    self._wake.set()
                else:
                    self._flood("again")
            return
        if not 1 <= oldest <= number < 1 << 63:
            raise PeerFault("bad_frame", f"number {number}, oldest {oldest}")
        if (place_in_order := self.inbox.place(number, oldest)) != 0:
            if not self._repeats.take():
                self._flood("repeated messages")
            if place_in_order < 0:
                self._acknowledge(len(packed))  # Our acknowledgement did not arrive.
            return
        if tag not in _TAGS:
            # A later version's message, or rubbish: the framing is intact, so only this one is lost.
            self._on_fault(PeerFault("unknown_message", f"tag {tag}"))
            self.inbox.skip()
        elif not self._buckets.take(tag):
            self._flood(wire.BY_TAG[tag].kind.__name__)
            self.inbox.skip()
        elif not self.inbox.take(packed):
            return
        self._acknowledge(len(packed))

    def _flood(self, what: str) -> None:
        self._flooded = True
        self._on_fault(PeerFault("flood", what))
