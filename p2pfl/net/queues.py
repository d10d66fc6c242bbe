"""What waits between two members: numbered messages on their way out and in, and how fast they may come.

    Outbox   oldest .. written | not written yet          grows at the right, acknowledged from the left
    Inbox    taken .. expected | refused: no room          the peer sends again from `expected` on

Knows numbers and sizes; neither sockets nor what a message means.
"""

from __future__ import annotations

import struct
from collections import deque

import trio

from p2pfl.errors import PeerFault
from p2pfl.net import wire

# What waits for one peer. A round of 16 members is about 100 messages, so an absent peer finds the last ten
# rounds; its memory is bounded by the bytes: a few proposals of the largest size.
OUTBOX_MESSAGES_MAX = 1024
OUTBOX_BYTES_MAX = 24 * 1024 * 1024
# What waits for our own handlers, for each peer: 20 peers that flood us cost 160 MB and no more.
INBOX_MESSAGES_MAX = 1024
INBOX_BYTES_MAX = 8 * 1024 * 1024

# length, number, oldest, ack; the length counts what follows it.
HEAD = struct.Struct(">IQQQ")
HEAD_REST_BYTES = HEAD.size - 4


class Outbox:
    """Messages that the peer has not acknowledged, in the order of their numbers. The first number is 1."""

    def __init__(self) -> None:
        self._kept: deque[bytes] = deque()
        self._bytes = 0
        self._cursor = 0  # Index of the first message that was not written to the current stream.
        self.oldest = 1
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._kept)

    def push(self, packed: bytes) -> None:
        """Append a message; the oldest give way when there are too many."""
        self._kept.append(packed)
        self._bytes += len(packed)
        while len(self._kept) > 1 and (
            len(self._kept) > OUTBOX_MESSAGES_MAX or self._bytes > OUTBOX_BYTES_MAX
        ):
            self._pop()
            self.dropped += 1

    def acknowledged(self, ack: int) -> None:
        """The peer has taken every message below this number. Raises PeerFault for one never sent."""
        if ack > self.oldest + len(self._kept):
            raise PeerFault("bad_ack", f"{ack} of {self.oldest + len(self._kept)}")
        while self.oldest < ack:
            self._pop()

    def rewind(self) -> None:
        """Write everything that is kept once more: a new stream, or the peer asked."""
        self._cursor = 0

    def take(self, ack: int, bytes_max: int) -> list[bytes]:
        """The next frames to write: at least one if there is any, no more than `bytes_max` beyond it."""
        frames: list[bytes] = []
        size = 0
        while self._cursor < len(self._kept) and size < bytes_max:
            packed = self._kept[self._cursor]
            number = self.oldest + self._cursor
            frames.append(HEAD.pack(HEAD_REST_BYTES + len(packed), number, self.oldest, ack))
            frames.append(packed)
            size += len(packed)
            self._cursor += 1
        return frames

    def _pop(self) -> None:
        self._bytes -= len(self._kept.popleft())
        self.oldest += 1
        self._cursor = max(0, self._cursor - 1)


class Inbox:
    """Which number comes next, and the messages that our handlers have not looked at yet."""

    def __init__(self) -> None:
        self.session = bytes(16)
        self.expected = 1
        self._kept: deque[bytes] = deque()
        self._bytes = 0
        self._refused = False
        self._arrived = trio.Event()

    def __len__(self) -> int:
        return len(self._kept)

    def greet(self, session: bytes, oldest: int) -> None:
        """A stream begins. Another session means that the peer's process is new: its numbers start anew."""
        if session != self.session:
            self.session = session
            self.expected = oldest
        self.expected = max(self.expected, oldest)

    def place(self, number: int, oldest: int) -> int:
        """Negative: taken before; 0: the next one; positive: something before it is missing.

        oldest: what the peer still keeps; it gave up what lies before.
        """
        self.expected = max(self.expected, oldest)
        if number > self.expected:
            self._refused = True
        return number - self.expected

    def take(self, packed: bytes) -> bool:
        """Keep the next message; False when there is no room."""
        if self._full(len(packed)):
            self._refused = True
            return False
        self._refused = False  # It was sent again, if it had been refused.
        self.expected += 1
        self._kept.append(packed)
        self._bytes += len(packed)
        self._arrived.set()
        return True

    def skip(self) -> None:
        """Count the next message as taken without keeping it."""
        self.expected += 1

    def _full(self, size: int) -> bool:
        too_many = len(self._kept) >= INBOX_MESSAGES_MAX
        return bool(self._kept) and (too_many or self._bytes + size > INBOX_BYTES_MAX)

    async def next(self) -> bytes:
        """The oldest message, kept until `done`."""
        while not self._kept:
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._kept[0]

    def done(self) -> bool:
        """The oldest message is dealt with. True when the peer should send again what was refused."""
        self._bytes -= len(self._kept.popleft())
        if (
            self._refused
            and len(self._kept) <= INBOX_MESSAGES_MAX // 2
            and self._bytes <= INBOX_BYTES_MAX // 2
        ):
            self._refused = False
            return True
        return False


class Bucket:
    """A token bucket: `rate_per_s` on average, `burst` at once."""

    __slots__ = ("_burst", "_rate_per_s", "_time", "_tokens")

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate_per_s = rate_per_s
        self._burst = self._tokens = float(burst)
        self._time: float | None = None

    def take(self, count: float = 1.0) -> bool:
        """Whether so many more are within the rate; what is more than a whole burst counts as one."""
        count = min(count, self._burst)
        now = trio.current_time()
        passed_s = now - self._time if self._time is not None else 0.0
        self._tokens = min(self._burst, self._tokens + passed_s * self._rate_per_s)
        self._time = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True


class Buckets:
    """One bucket a message type, for one peer."""

    def __init__(self) -> None:
        self._buckets: dict[int, Bucket] = {}

    def take(self, tag: int) -> bool:
        """Whether one more message with this tag is within its rate."""
        bucket = self._buckets.get(tag)
        if bucket is None:
            row = wire.BY_TAG[tag]
            bucket = self._buckets[tag] = Bucket(row.rate_per_s, row.burst)
        return bucket.take()
