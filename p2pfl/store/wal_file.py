"""What lies in the files of a log: marks of heights, entries, and files of decided heights set aside.

    DIR/wal/g0.wal               the open height, and decided ones before it
    DIR/wal/g0.e0.17-42.kept     decided heights 17 to 42; the last of them in epoch 0

    record = 0x00 height(8) epoch(8)     what follows belongs to this height
           | 0x01 event                  one input of the core

Reads without changing or locking. Who writes is `wal`; what is told of it, `wal_story`.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from consensus.types import Digest, Elapsed, Event, Proposal, Received
from consensus.votes import signed_vote
from p2pfl import codec
from p2pfl.durable import RECORD_BYTES_MAX, Cut, Damage, scan
from p2pfl.errors import UserError

MARK, ENTRY = b"\x00", b"\x01"
KEPT = ".kept"
_THIN = b"thin"


@dataclass(frozen=True, slots=True)
class Entry:
    """One input of the core, and where it lies. data: the event's bytes."""

    path: Path
    offset: int
    epoch: int
    height: int
    data: bytes

    @property
    def event(self) -> Event:
        """Raises DecodeError for what is no event of this release."""
        return codec.decode(self.data, Event, size_max=RECORD_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class Reading:
    """One file: its entries in order, and what is wrong with it."""

    path: Path
    identity: bytes
    entries: tuple[Entry, ...]
    cut: Cut | None
    damage: Damage | None

    @property
    def thin(self) -> bool:
        """Whether the proposals of heights that were decided in round 0 were taken out."""
        return self.identity.endswith(_THIN)


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of decided heights. epoch: of its last height."""

    path: Path
    epoch: int
    first: int
    last: int


def identity(group_id: Digest, *, thin: bool = False) -> bytes:
    """The first record of a log: which chain it is of."""
    return b"wal" + group_id + (_THIN if thin else b"")


def belongs_to(found: bytes, group_id: Digest) -> bool:
    """Whether a file's first record says that it is of this chain."""
    return found in (identity(group_id), identity(group_id, thin=True))


def mark(height: int, epoch: int) -> bytes:
    """The record before the first entry of a height."""
    return MARK + height.to_bytes(8, "big") + epoch.to_bytes(8, "big")


def place_of(payload: bytes) -> tuple[int, int]:
    """(height, epoch) of a mark."""
    return int.from_bytes(payload[1:9], "big"), int.from_bytes(payload[9:17], "big")


def read(path: Path) -> Reading:
    """A file as it is. Raises UserError when it cannot be read at all."""
    entries: list[Entry] = []
    height, epoch = -1, 0

    def take(offset: int, payload: bytes) -> None:
        nonlocal height, epoch
        if payload[:1] == MARK:
            height, epoch = place_of(payload)
        else:
            entries.append(Entry(path, offset, epoch, height, payload[1:]))

    try:
        found = scan(path, take)
    except OSError as error:
        raise UserError(f"{path} cannot be read", because=str(error), fix="check the path") from error
    return Reading(path, found.identity, tuple(entries), found.cut, found.damage)


def segments(path: Path) -> list[Segment]:
    """The files of decided heights beside this log, the oldest first."""
    pattern = re.compile(rf"{re.escape(path.stem)}\.e(\d+)\.(\d+)-(\d+)(?:\.\d+)?{re.escape(KEPT)}")
    found: list[Segment] = []
    for each in path.parent.glob(f"*{KEPT}"):
        named = pattern.fullmatch(each.name)
        if named is not None:
            found.append(Segment(each, int(named[1]), int(named[2]), int(named[3])))
    return sorted(found, key=lambda segment: (segment.first, segment.last, segment.path.name))


def segment_path(path: Path, epoch: int, first: int, last: int) -> Path:
    """A name that is free for a file of these heights."""
    stem = f"{path.stem}.e{epoch}.{first}-{last}"
    made, again = path.with_name(stem + KEPT), 2
    while made.exists():  # Its log was lost once, and these heights were written a second time.
        made, again = path.with_name(f"{stem}.{again}{KEPT}"), again + 1
    return made


@contextlib.contextmanager
def held_still(path: Path) -> Iterator[None]:
    """While nobody writes to this log: no node runs, and none can start. Raises UserError if one does."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"{path} cannot be read", because=str(error), fix="check the path") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                "the node is running",
                because=f"it has {path} open, and what is read now may change under the reader",
                fix="stop the node first, or copy its folder and read the copy",
            ) from error
        yield
    finally:
        os.close(handle)


def by_height(entries: tuple[Entry, ...]) -> Iterator[tuple[Entry, ...]]:
    """The entries of one height after the other, as they were written."""
    for _, group in itertools.groupby(entries, key=lambda entry: (entry.epoch, entry.height)):
        yield tuple(group)


def justifying(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """What may prove a liar guilty later: all of a height that saw a round above 0, else its votes."""
    votes: list[Entry] = []
    for entry in entries:
        event = entry.event
        if isinstance(event, Elapsed):
            return entries
        if isinstance(event, Received):
            signed = signed_vote(event.message)
            if signed is not None and signed.vote.round > 0:
                return entries
            if not isinstance(event.message, Proposal):
                votes.append(entry)
    return tuple(votes)
