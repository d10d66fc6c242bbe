"""The inputs of the core for the height that is being decided, durable before anything follows from them.

Feeding the entries of a height to a fresh core brings it back to where it was (R9). Those of decided heights
are kept through the next epoch: they hold the justifications by which liars can be named. Knows the events'
bytes and their order; what they mean is known to `consensus.replica`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from consensus.types import Digest, Event
from p2pfl import codec, telemetry
from p2pfl.durable import RECORD_BYTES_MAX, Journal
from p2pfl.errors import UserError
from p2pfl.store.wal_file import (
    ENTRY,
    MARK,
    Reading,
    Segment,
    by_height,
    identity,
    justifying,
    mark,
    place_of,
    read,
    segment_path,
    segments,
)

log = telemetry.logger("wal")

# A restart reads the open file whole, some ten milliseconds; setting it aside costs two fsyncs, a mark none.
SEGMENT_BYTES = 4 * 1024 * 1024
# What one chain's decided heights may take beside that: 15,000 of four members with a small model.
# Beyond it, of the oldest heights that were decided in round 0 only the votes stay (a proposal of round 0 has
# no justification, and its block is in the chain), then the oldest go altogether.
KEPT_BYTES_MAX = 64 * 1024 * 1024
_FIX = (
    "move the file away and start again: with its guard the node signs nothing until the height that the "
    "guard names is decided, and then goes on as before"
)


class Wal:
    """The log of one chain. Calls may come from several threads."""

    def __init__(self, path: Path, group_id: Digest) -> None:
        """Open or create. Raises UserError for a damaged file, with the offset and the way out."""
        self.path = path
        self.height: int | None = None  # The height that the entries belong to.
        self.epoch = 0
        self._first: int | None = None  # The first height in the file.
        self._group_id = group_id
        self._entries: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()
        if path.exists():
            self._journal = Journal.open(path, self._take, identity=identity(group_id), fix=_FIX)
            if self._journal.cut is not None:
                cut = self._journal.cut
                log.warning("cut an interrupted entry off the log", offset=cut.offset, bytes=cut.length)
        else:
            self._journal = Journal.create(path, identity(group_id))

    def _take(self, offset: int, payload: bytes) -> None:
        if payload[:1] == MARK:
            self._belong(*place_of(payload))
        else:
            self._entries.append((offset, payload[1:]))

    def _belong(self, height: int, epoch: int) -> None:
        self.height, self.epoch, self._entries = height, epoch, []
        self._first = height if self._first is None else self._first

    def append(self, event: Event) -> None:
        """Keep this input of the current height; durable when it returns (one fsync)."""
        self.append_many([event])

    def append_many(self, events: list[Event]) -> None:
        """Keep several inputs with one fsync; all or none. Raises DiskFull when there is no room."""
        with self._lock:
            if self.height is None:
                raise ValueError("no height was begun: call replay or reset first")
            entries = [codec.encode(event, Event) for event in events]
            offsets = self._journal.append(*(ENTRY + entry for entry in entries))
            self._entries += zip(offsets, entries, strict=True)

    def replay(self, height: int, epoch: int = 0) -> list[Event]:
        """The kept inputs of this height in their order, none if the log is of another; now it is of this."""
        with self._lock:
            self._begin(height, epoch)
            return [self._event(offset, entry) for offset, entry in self._entries]

    def reset(self, height: int, epoch: int = 0) -> None:
        """What was before is decided and stored: from now on entries belong to `height`.

        The mark needs no fsync of its own: if it is lost, so is everything behind it, and the next start
        finds a log of a height that its chain has decided.
        """
        with self._lock:
            self._begin(height, epoch)

    def _begin(self, height: int, epoch: int) -> None:
        if (self.height, self.epoch) == (height, epoch):
            return
        if self._journal.size_bytes > SEGMENT_BYTES:
            self._set_aside()
        self._journal.append(mark(height, epoch), sync=False)
        if self.height is not None and epoch > self.epoch:
            # All of the epoch that has just ended is kept: if it ended in two ways, that shows only now.
            self._forget_before(epoch - 1)
        self._belong(height, epoch)

    def _event(self, offset: int, entry: bytes) -> Event:
        try:
            return codec.decode(entry, Event, size_max=RECORD_BYTES_MAX)
        except codec.DecodeError as error:
            raise UserError(
                f"{self.path} is damaged at byte {offset}",
                because=f"the entry is no event of this release: {error}",
                fix=_FIX,
            ) from error

    # -- decided heights -----------------------------------------------------

    def kept(self) -> Iterator[tuple[int, int, list[Event]]]:
        """(epoch, height, inputs) of every height that is still here, the oldest first, the open one last.

        Reads the files as it goes; what is damaged in one is left out and told in the log. While heights are
        begun meanwhile, the newest may be missed.
        """
        for path in [*(segment.path for segment in segments(self.path)), self.path]:
            for entries in by_height(self._read(path).entries):
                try:
                    yield entries[0].epoch, entries[0].height, [each.event for each in entries]
                except codec.DecodeError as error:
                    log.warning("a decided height cannot be read", height=entries[0].height, why=str(error))

    def forget_before(self, epoch: int) -> None:
        """Delete the files whose heights all belong to earlier epochs; the open file stays.

        Done without being asked, for all but the last epoch, when a height of a new epoch begins.
        """
        with self._lock:
            self._forget_before(epoch)

    def _forget_before(self, epoch: int) -> None:
        for segment in segments(self.path):
            if segment.epoch < epoch:
                _unlink(segment)

    def _set_aside(self) -> None:
        """The file becomes one of decided heights, and a new one is begun. If there is no room: not now."""
        assert self._first is not None and self.height is not None
        aside = segment_path(self.path, self.epoch, self._first, self.height)
        try:
            self.path.rename(aside)
            try:
                fresh = Journal.create(
                    self.path, identity(self._group_id)
                )  # Syncs the folder for both names.
            except UserError:
                aside.rename(self.path)
                raise
            self._journal.close()
            self._journal, self._first = fresh, None
            self._trim()
        except (UserError, OSError) as error:
            log.warning("the log could not be divided, it grows on", error=str(error))

    def _trim(self) -> None:
        """Keep to KEPT_BYTES_MAX: rounds above 0 are kept longest."""
        kept = segments(self.path)
        sizes = {segment.path: segment.path.stat().st_size for segment in kept}
        for drop in (self._thin, _unlink):
            for segment in kept:
                if sum(sizes.values()) <= KEPT_BYTES_MAX:
                    return
                drop(segment)
                sizes[segment.path] = segment.path.stat().st_size if segment.path.exists() else 0

    def _thin(self, segment: Segment) -> None:
        """Rewrite a file without the proposals of heights that were decided in round 0."""
        reading = self._read(segment.path)
        if reading.thin:
            return
        records: list[bytes] = []
        for entries in by_height(reading.entries):
            try:
                needed = justifying(entries)
            except codec.DecodeError:  # Of another release: nobody here can read it.
                continue
            records.append(mark(entries[0].height, entries[0].epoch))
            records += [ENTRY + entry.data for entry in needed]
        Journal.create(segment.path, identity(self._group_id, thin=True), records).close()

    def _read(self, path: Path) -> Reading:
        reading = read(path)
        if reading.damage is not None:
            log.warning("a file of decided heights is damaged", path=path, offset=reading.damage.offset)
        return reading

    def close(self) -> None:
        """Close and unlock."""
        with self._lock:
            self._journal.close()


def _unlink(segment: Segment) -> None:
    segment.path.unlink(missing_ok=True)
