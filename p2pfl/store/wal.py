"""The inputs of the core for the height that is being decided, durable before anything follows from them.

Feeding the entries of a height to a fresh core brings it back to where it was (R9). Knows the events'
bytes and their order; what they mean is known to `consensus.replica`.
"""

from __future__ import annotations

import threading
from pathlib import Path

from consensus import codec
from consensus.types import Digest, Event
from p2pfl import telemetry
from p2pfl.durable import RECORD_BYTES_MAX, Journal
from p2pfl.errors import UserError

log = telemetry.logger("wal")

# Heights that are decided stay in the file until it is this long: a rewrite costs two fsyncs, a mark none.
ROTATE_BYTES = 4 * 1024 * 1024
_BEGIN, _EVENT = b"\x00", b"\x01"
_FIX = (
    "move the file away and start again: with its guard the node signs nothing until the height that the "
    "guard names is decided, and then goes on as before"
)


class Wal:
    """The log of one chain's open height. Calls may come from several threads."""

    def __init__(self, path: Path, group_id: Digest) -> None:
        """Open or create. Raises UserError for a damaged file, with the offset and the way out."""
        self.path = path
        self.height: int | None = None  # The height that the entries belong to.
        self._identity = b"wal" + group_id
        self._entries: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()
        if path.exists():
            self._journal = Journal.open(path, self._take, identity=self._identity, fix=_FIX)
            if self._journal.cut is not None:
                cut = self._journal.cut
                log.warning("cut an interrupted entry off the log", offset=cut.offset, bytes=cut.length)
        else:
            self._journal = Journal.create(path, self._identity)

    def _take(self, offset: int, payload: bytes) -> None:
        if payload[:1] == _BEGIN:
            self.height = int.from_bytes(payload[1:], "big")
            self._entries = []
        else:
            self._entries.append((offset, payload[1:]))

    def append(self, event: Event) -> None:
        """Keep this input of the current height; durable when it returns (one fsync)."""
        self.append_many([event])

    def append_many(self, events: list[Event]) -> None:
        """Keep several inputs with one fsync."""
        with self._lock:
            if self.height is None:
                raise ValueError("no height was begun: call replay or reset first")
            entries = [codec.encode(event, Event) for event in events]
            offsets = self._journal.append(*(_EVENT + entry for entry in entries))
            self._entries += zip(offsets, entries, strict=True)

    def replay(self, height: int) -> list[Event]:
        """The kept inputs of this height in their order, none if the log is of another; now it is of this."""
        with self._lock:
            if self.height != height:
                self._begin(height)
            return [self._event(offset, entry) for offset, entry in self._entries]

    def reset(self, height: int) -> None:
        """What was before is decided and stored: from now on entries belong to `height`.

        The mark needs no fsync of its own: if it is lost, so is everything behind it, and the next start
        finds a log of a height that its chain has decided.
        """
        with self._lock:
            if self.height != height:
                self._begin(height)

    def _begin(self, height: int) -> None:
        mark = _BEGIN + height.to_bytes(8, "big")
        if self._journal.size_bytes > ROTATE_BYTES:
            self._journal = self._journal.replace(self._identity, [mark])
        else:
            self._journal.append(mark, sync=False)
        self.height, self._entries = height, []

    def _event(self, offset: int, entry: bytes) -> Event:
        try:
            return codec.decode(entry, Event, size_max=RECORD_BYTES_MAX)
        except codec.DecodeError as error:
            raise UserError(
                f"{self.path} is damaged at byte {offset}",
                because=f"the entry is no event of this release: {error}",
                fix=_FIX,
            ) from error

    def close(self) -> None:
        """Close and unlock."""
        with self._lock:
            self._journal.close()
