r"""Files that survive a crash: whole or not there at all, and journals that know their own damage.

A journal is a file of checksummed records that only grows. What a crash can do to its end (a record that
is cut short, or a hole of zeros) is cut off at the next start; anything else is damage, and is reported
with its offset instead of being guessed at. Knows bytes only: what a record means is known to the guard,
the WAL and the block files.

    file    = magic(8) salt(16) record*        the first record is the identity of the file
    record  = marker(4) length(4) check(8) digest(16) payload(length)
    marker  = "\xb5MPS"; "\xb5MPT" for a record that one write brought with the one before it
    check   = SHA-256(salt || offset || length)[:8]
    digest  = SHA-256(salt || offset || length || payload)[:16]
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from p2pfl.errors import UserError

TEMPORARY = ".tmp"  # What a crash leaves behind ends like this, and may be deleted at the next start.
_CALLS = itertools.count()

_MAGIC = b"MPSJRNL1"
_MARKER, _MARKER_MORE = b"\xb5MPS", b"\xb5MPT"
_SALT_BYTES = 16
_HEAD_BYTES = 32
_START = len(_MAGIC) + _SALT_BYTES
# Disks write sectors whole or not at all, but not always in order.
_SECTOR_BYTES = 512
# A shorter run of zeros may be a struct's own zero words.
_HOLE_BYTES_MIN = 128
# A decided block with the largest body stays below; a length above it is damage, not data.
RECORD_BYTES_MAX = 16 * 1024 * 1024


def fsync_folder(folder: Path) -> None:
    """Make creations and renames in this folder durable: the fsync of a file does not (CometBFT #6031)."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Write a file that is either whole or not there: temporary file, fsync, rename, fsync of the folder.

    durable False skips both fsyncs, for what can be fetched or computed again. Raises UserError when the
    disk is full or the folder cannot be written; nothing half written stays.
    """
    temporary = _beside(path)
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            _write_all(handle, data)
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)
        temporary.rename(path)
        if durable:
            fsync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise disk_error(path, error) from error


def _beside(path: Path) -> Path:
    """A temporary name in the same folder, of this process and call alone: two threads may write one file."""
    return path.with_name(f".{path.name}.{os.getpid()}.{next(_CALLS)}{TEMPORARY}")


class DiskFull(UserError):
    """A write found no room. What was there before is as it was; the same may be tried again."""


def disk_error(path: Path, error: OSError) -> UserError:
    """The operator's form of a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(
            f"{path} cannot be written: the disk is full",
            because=str(error),
            fix=f"make room on the disk of {path.parent}: a node that still runs goes on by itself, one that "
            "stopped can be started again; nothing that was stored is lost",
        )
    return UserError(
        f"{path} cannot be written",
        because=str(error),
        fix=f"check the folder {path.parent} and its permissions",
    )


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


@dataclass(frozen=True, slots=True)
class Cut:
    """What a start cut off the end of a journal: an append that a crash had interrupted."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Where a journal is not what was written, and how one sees it."""

    offset: int
    because: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What a journal file holds. end: where the last good record ends. cut: bytes behind it."""

    identity: bytes
    salt: bytes
    end: int
    cut: Cut | None
    damage: Damage | None


def scan(path: Path, on_record: Callable[[int, bytes], None]) -> Scan:
    """Read a journal without changing it; `on_record(offset, payload)` for each good record, in order.

    Stops at the first bad one. Raises OSError when the file cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _START + _HEAD_BYTES:
            return Scan(b"", b"", 0, None, Damage(0, "the file is shorter than its own head"))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[: len(_MAGIC)] != _MAGIC:
                return Scan(b"", b"", 0, None, Damage(0, "the file does not begin like a journal"))
            return _scan(data, data[len(_MAGIC) : _START], size, on_record)


def _scan(data: mmap.mmap, salt: bytes, size: int, on_record: Callable[[int, bytes], None]) -> Scan:
    offset, identity = _START, b""
    while offset < size:
        payload = _record_at(data, salt, offset, size)
        if payload is None:
            if offset == _START:
                return Scan(
                    b"", salt, offset, None, Damage(offset, "the file's identity does not match its checksum")
                )
            because = _damage_at(data, salt, offset, size)
            if because is None:
                return Scan(identity, salt, offset, Cut(offset, size - offset), None)
            return Scan(identity, salt, offset, None, Damage(offset, because))
        if offset == _START:
            identity = payload
        else:
            on_record(offset, payload)
        offset += _HEAD_BYTES + len(payload)
    return Scan(identity, salt, offset, None, None)


def _head(salt: bytes, offset: int, payload: bytes, marker: bytes = _MARKER) -> bytes:
    place = salt + offset.to_bytes(8, "big") + len(payload).to_bytes(4, "big")
    digest = sha256(place + payload).digest()[:16]
    return marker + len(payload).to_bytes(4, "big") + sha256(place).digest()[:8] + digest


def _length_at(data: mmap.mmap, salt: bytes, offset: int, size: int) -> int | None:
    """The length that a record's head claims, if the head's own check agrees."""
    if size - offset < 16 or data[offset : offset + 4] not in (_MARKER, _MARKER_MORE):
        return None
    length = int.from_bytes(data[offset + 4 : offset + 8], "big")
    place = salt + offset.to_bytes(8, "big") + length.to_bytes(4, "big")
    if length > RECORD_BYTES_MAX or data[offset + 8 : offset + 16] != sha256(place).digest()[:8]:
        return None
    return length


def _record_at(data: mmap.mmap, salt: bytes, offset: int, size: int) -> bytes | None:
    length = _length_at(data, salt, offset, size)
    if length is None or offset + _HEAD_BYTES + length > size:
        return None
    payload = data[offset + _HEAD_BYTES : offset + _HEAD_BYTES + length]
    return payload if _is_head(data[offset : offset + _HEAD_BYTES], salt, offset, payload) else None


def _is_head(head: bytes, salt: bytes, offset: int, payload: bytes) -> bool:
    """Whether this is the head of this record, whichever of the two markers it has."""
    return head[:4] in (_MARKER, _MARKER_MORE) and head == _head(salt, offset, payload, head[:4])


def _damage_at(data: mmap.mmap, salt: bytes, offset: int, size: int) -> str | None:
    """Why the bytes from `offset` on cannot be an interrupted append; None if they can.

    A good record behind a bad one shows that the bad one had been written whole, unless one write brought
    both. The salt keeps a peer, whose bytes lie inside a payload, from forging such a record.
    """
    later = data.find(_MARKER, offset + 1)
    while later != -1:
        if _record_at(data, salt, later, size) is not None:
            return f"a record is damaged, and a good one follows at byte {later}"
        later = data.find(_MARKER, later + 1)
    length = _length_at(data, salt, offset, size)
    if size - offset < 16 or (length is not None and offset + _HEAD_BYTES + length > size):
        return None
    return None if _has_hole(data, offset, size) else "the last record was whole once and has changed"


def _has_hole(data: mmap.mmap, start: int, end: int) -> bool:
    """Whether a sector's share of [start, end) is all zero: the file grew, that sector was not written."""
    if not any(data[start:end]):
        return True
    place = start
    while place < end:
        upto = min(end, (place // _SECTOR_BYTES + 1) * _SECTOR_BYTES)
        if upto - place >= _HOLE_BYTES_MIN and not any(data[place:upto]):
            return True
        place = upto
    return False


class Journal:
    """An append-only file of checksummed records, open in this process and locked against all others."""

    def __init__(
        self, path: Path, handle: int, salt: bytes, end: int, *, identity: bytes, cut: Cut | None = None
    ) -> None:
        self.path = path
        self.identity = identity
        self.cut = cut
        self._handle = handle
        self._salt = salt
        self._end = end
        self._broken: str | None = None

    @classmethod
    def create(cls, path: Path, identity: bytes, records: Sequence[bytes] = ()) -> Journal:
        """A new journal, or one that takes the place of the old one at `path` as a whole."""
        salt = os.urandom(_SALT_BYTES)
        parts = [_MAGIC, salt]
        end = _START
        for payload in (identity, *records):
            parts += [_head(salt, end, payload), payload]
            end += _HEAD_BYTES + len(payload)
        temporary = _beside(path)
        handle = -1
        try:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_all(handle, b"".join(parts))
            os.fsync(handle)
            temporary.rename(path)
            fsync_folder(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if handle != -1:
                os.close(handle)
            raise disk_error(path, error) from error
        return cls(path, handle, salt, end, identity=identity)

    @classmethod
    def open(
        cls, path: Path, on_record: Callable[[int, bytes], None], *, identity: bytes | None, fix: str
    ) -> Journal:
        """Open for appending: read every record, cut an interrupted append off the end.

        identity: what the file must have been created with (None: anything). fix: what the operator can do
        about damage. Raises UserError for damage, another identity, or a file that another process holds.
        """
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"{path} cannot be opened", because=str(error), fix=fix) from error
        try:
            cls._lock(path, handle)
            found = scan(path, on_record)
            if found.damage is not None:
                raise UserError(
                    f"{path} is damaged at byte {found.damage.offset}", because=found.damage.because, fix=fix
                )
            if identity is not None and found.identity != identity:
                raise UserError(
                    f"{path} belongs to something else",
                    because="it was made for another key or chain",
                    fix=fix,
                )
            if found.cut is not None:
                os.ftruncate(handle, found.end)
                os.fsync(handle)
            return cls(path, handle, found.salt, found.end, identity=found.identity, cut=found.cut)
        except BaseException:
            os.close(handle)
            raise

    @staticmethod
    def _lock(path: Path, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{path} is in use",
                because="another process has it open",
                fix="stop the other node; two nodes with one key would contradict each other",
            ) from error
        if os.fstat(handle).st_ino != path.stat().st_ino:
            raise UserError(
                f"{path} is in use", because="it was replaced while it was opened", fix="start again"
            )

    @property
    def size_bytes(self) -> int:
        """How long the file is."""
        return self._end

    def append(self, *payloads: bytes, sync: bool = True, replaceable: bool = False) -> list[int]:
        """Write records behind the last, durable on return (one fsync for all). Returns their offsets.

        replaceable: can be fetched again, so after a power cut a hole in one of them may cut off the rest.
        When the write fails (disk full), the file is as before and UserError is raised. When the fsync
        fails, nobody knows what is on the disk: the journal refuses every later append.
        """
        if self._broken is not None:
            raise UserError(
                f"{self.path} takes no more records", because=self._broken, fix="start the node again"
            )
        parts: list[bytes] = []
        offsets: list[int] = []
        end = self._end
        for payload in payloads:
            if len(payload) > RECORD_BYTES_MAX:
                raise ValueError(f"a record of {len(payload)} bytes, the limit is {RECORD_BYTES_MAX}")
            marker = _MARKER_MORE if offsets and replaceable else _MARKER
            offsets.append(end)
            parts += [_head(self._salt, end, payload, marker), payload]
            end += _HEAD_BYTES + len(payload)
        try:
            os.lseek(self._handle, self._end, os.SEEK_SET)
            _write_all(self._handle, b"".join(parts))
        except OSError as error:
            try:
                os.ftruncate(self._handle, self._end)
            except OSError:
                self._broken = "an earlier write failed and could not be undone"
            raise disk_error(self.path, error) from error
        self._end = end
        if sync:
            self.sync()
        return offsets

    def sync(self) -> None:
        """Make everything appended so far durable."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            # Trying again would lie: the kernel may have dropped the pages and call the next fsync good.
            self._broken = f"an earlier fsync failed: {error}"
            raise UserError(
                f"nobody knows what of {self.path} is on the disk",
                because=self._broken,
                fix="make sure that the disk is well and has room, then start the node again",
            ) from error

    def read(self, offset: int) -> bytes:
        """The record at this offset, checked again. Raises UserError for other bytes than were written."""
        head = os.pread(self._handle, _HEAD_BYTES, offset)
        length = int.from_bytes(head[4:8], "big")
        payload = os.pread(self._handle, min(length, RECORD_BYTES_MAX), offset + _HEAD_BYTES)
        if not _is_head(head, self._salt, offset, payload):
            raise UserError(
                f"{self.path} is damaged at byte {offset}",
                because="a record that was good at the start no longer matches its checksum",
                fix="check the disk; then restore the file, or remove it and let the node fetch it again",
            )
        return payload

    def replace(self, identity: bytes, records: Sequence[bytes]) -> Journal:
        """Compact: a new journal with these records in the place of this one, which is closed."""
        fresh = Journal.create(self.path, identity, records)
        self.close()
        return fresh

    def close(self) -> None:
        """Close and unlock."""
        if self._handle != -1:
            os.close(self._handle)
            self._handle = -1
