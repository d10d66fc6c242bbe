"""Blobs on their way here: what has come of one lies in a file, and survives the process.

    coming/<id>.part     the blob's bytes, holes where pieces are missing
    coming/<id>.held     magic, id, length, leaves a piece; then a slot for each piece: the proof it came with

A piece counts only if its bytes and its proof lead to the blob's id: that is checked when it comes and once
more at the next start, so a file that is damaged, or of something else, costs only its pieces. Slots are
written after their bytes and no fsync is worth them: a lost one costs a fetch. Knows no peer.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from consensus.types import Digest
from p2pfl import telemetry
from p2pfl.durable import disk_error
from p2pfl.errors import PeerFault
from p2pfl.params import BLOB_BYTES_MAX, LEAF_BYTES
from p2pfl.runs import RUN_LEAVES, Bytes, piece_leaves, proved, run_hashes

log = telemetry.logger("blobs")

# Blobs that may be on their way at once, and their lengths: a round of 16 members with a model of 100 MB.
COMING_MAX = 64
COMING_BYTES_MAX = 2 * 1024 * 1024 * 1024
# What nobody went on fetching for so long is of a round that is over, even if a laptop slept meanwhile.
AGE_S_MAX = 24 * 3600.0

_MAGIC = b"MPSHELD1"
_HASH_BYTES = 32
_NONE = 255  # In the place of a proof's length: the slot is empty. The longest proof has 19.


class Busy(Exception):
    """So much is on its way that this blob must wait for another."""


class Coming:
    """One blob on its way. Calls may come from several threads, each piece from one at a time."""

    def __init__(self, folder: Path, blob_id: Digest, length: int, *, reserve: bool = True) -> None:
        """Open, and check what is there. Takes 2 ms a MiB that has come. Raises UserError.

        reserve: take the room on the disk for all of it now, not as it comes.
        """
        self.blob_id = blob_id
        self.length = length
        self._reserve = _reserve if reserve else os.ftruncate
        self.piece_leaves = piece_leaves(length)
        self._piece_bytes = self.piece_leaves * LEAF_BYTES
        self._count = -(-length // self._piece_bytes)
        self._proofs: dict[int, tuple[Digest, ...]] = {}
        self._runs = bytearray(-(-length // (RUN_LEAVES * LEAF_BYTES)) * _HASH_BYTES)
        # The longest proof of this blob: its slots need no more room.
        self._depth = (self._count - 1).bit_length()
        self._slot_bytes = 1 + self._depth * _HASH_BYTES
        self._head = _MAGIC + blob_id + length.to_bytes(8, "big") + self.piece_leaves.to_bytes(4, "big")
        self._part, self._held = part_path(folder, blob_id), held_path(folder, blob_id)
        self._files: tuple[int, int] | None = None
        self._reading = (
            threading.Lock()
        )  # Nobody may read while the file is closed: its number is used again.
        try:
            folder.mkdir(exist_ok=True)
            self._files = (_open(self._part), _open(self._held))
            self._resume(*self._files)
        except OSError as error:
            self.close()
            raise disk_error(self._part, error) from error

    def _resume(self, part: int, held: int) -> None:
        table = os.pread(held, len(self._head) + self._count * self._slot_bytes, 0)
        if table[: len(self._head)] != self._head or os.fstat(part).st_size != self.length:
            os.ftruncate(part, 0)
            self._reserve(part, self.length)
            os.ftruncate(held, 0)
            os.pwrite(held, self._head + (bytes((_NONE,)) + bytes(self._slot_bytes - 1)) * self._count, 0)
            return
        wrong = 0
        for number in range(self._count):
            place = len(self._head) + number * self._slot_bytes
            slot = table[place : place + self._slot_bytes]
            if not slot or slot[0] == _NONE:
                continue
            proof = tuple(Digest(slot[n : n + 32]) for n in range(1, 1 + slot[0] * 32, 32))
            runs = run_hashes(self._read(number))
            if proved(runs, number * self.piece_leaves, self.piece_leaves, self.length, proof, self.blob_id):
                self._note(number, proof, runs)
            else:
                wrong += 1
        if wrong:
            log.warning("pieces of a blob on its way are not what they were", path=self._part, pieces=wrong)
        if self._proofs:
            log.info(
                "a blob on its way goes on", blob=self.blob_id.hex(), pieces=len(self._proofs), of=self._count
            )

    # -- coming ------------------------------------------------------------

    def missing(self) -> list[int]:
        """The numbers of the pieces that have not come."""
        return [number for number in range(self._count) if number not in self._proofs]

    def come_bytes(self) -> int:
        """How much of it has come."""
        return min(len(self._proofs) * self._piece_bytes, self.length)

    def keep(
        self,
        number: int,
        data: Bytes,
        proof: tuple[Digest, ...],
        runs: bytes,
    ) -> None:
        """Write a piece that was checked; runs: the nodes above its runs of 64 leaves.

        Raises UserError when the disk is full; then the piece has not come, and all others are as they were.
        """
        part, held = self._open_files()
        slot = (bytes((len(proof),)) + b"".join(proof)).ljust(self._slot_bytes, b"\0")
        try:
            _write_at(part, data, number * self._piece_bytes)
            _write_at(held, slot, len(self._head) + number * self._slot_bytes)
        except OSError as error:
            raise disk_error(self._part, error) from error
        self._note(number, proof, runs)

    def _note(self, number: int, proof: tuple[Digest, ...], runs: bytes) -> None:
        place = number * (self.piece_leaves // RUN_LEAVES) * _HASH_BYTES
        self._runs[place : place + len(runs)] = runs
        self._proofs[number] = proof

    # -- serving -----------------------------------------------------------

    def held(self) -> bytes:
        """A bit for each piece, the first one the highest of its byte."""
        bits = bytearray(-(-self._count // 8))
        for number in tuple(self._proofs):
            bits[number // 8] |= 128 >> number % 8
        return bytes(bits)

    def piece(self, number: int) -> tuple[tuple[Digest, ...], bytes] | None:
        """A piece with its proof, if it has come."""
        proof = self._proofs.get(number)
        if proof is None or self._files is None:
            return None
        return proof, self._read(number)

    def run_hashes(self) -> bytes:
        """The nodes above its runs of 64 leaves, once all of it has come."""
        assert len(self._proofs) == self._count, "a blob that has not come whole"
        return bytes(self._runs)

    def _read(self, number: int) -> bytes:
        offset = number * self._piece_bytes
        with self._reading:
            return os.pread(self._open_files()[0], min(self._piece_bytes, self.length - offset), offset)

    # -- the end -----------------------------------------------------------

    def move_to(self, path: Path) -> None:
        """Give the file its name among the blobs. Raises OSError."""
        os.utime(self._part)  # Its last piece may have come long before a crash; it is in use now.
        self._part.rename(path)
        with contextlib.suppress(OSError):
            self._held.unlink()
        self.close()

    def close(self) -> None:
        """Nobody fetches it any more, for now; what has come stays."""
        with self._reading:
            files, self._files = self._files, None
            for handle in files or ():
                os.close(handle)

    def _open_files(self) -> tuple[int, int]:
        if self._files is None:
            raise FileNotFoundError("closed")
        return self._files


class Arriving:
    """The folder of the blobs on their way: how many, how large together, and for how long.

    reserve: False where a peer says how long a blob is, and nobody can tell before it is here. Then only what
    has come counts and takes room, or a few words would keep everybody else's blobs waiting.
    """

    def __init__(
        self,
        folder: Path,
        *,
        count_max: int = COMING_MAX,
        bytes_max: int = COMING_BYTES_MAX,
        reserve: bool = True,
    ) -> None:
        self._folder, self._reserve = folder, reserve
        self._count_max, self._bytes_max = count_max, bytes_max
        self._lock = threading.Lock()
        self._open: dict[Digest, Coming | int] = {}  # The length of one that is being opened.

    def find(self, blob_id: Digest) -> Coming | None:
        """The blob, if it is being fetched now."""
        found = self._open.get(blob_id)
        return found if isinstance(found, Coming) else None

    def open(self, blob_id: Digest, length: int) -> Coming:
        """Begin to fetch, or go on. For threads: what has come is checked.

        Raises Busy when too much is on its way, UserError when the disk does not play along, PeerFault for
        a length that no blob has: somebody else said how long it is.
        """
        if not 0 < length <= BLOB_BYTES_MAX:
            raise PeerFault("bad_length", f"a blob of {length} bytes")
        with self._lock:
            if blob_id in self._open or len(self._open) >= self._count_max:
                raise Busy
            size = length if self._reserve else 0
            if self._open and sum(map(self._counted, self._open.values())) + size > self._bytes_max:
                raise Busy
            self._make_room(blob_id, self._count_max - 1, self._bytes_max - size)
            self._open[blob_id] = length
        try:
            coming = Coming(self._folder, blob_id, length, reserve=self._reserve)
        except BaseException:
            with self._lock:
                del self._open[blob_id]
            raise
        with self._lock:
            self._open[blob_id] = coming
        return coming

    def _counted(self, opened: Coming | int) -> int:
        """The bytes that one of those that are open counts for."""
        if self._reserve:
            return opened if isinstance(opened, int) else opened.length
        return 0 if isinstance(opened, int) else opened.come_bytes()

    def close(self, coming: Coming) -> None:
        """Nobody fetches it any more; what has come of it stays."""
        with self._lock:
            self._open.pop(coming.blob_id, None)
        coming.close()

    def _make_room(self, wanted: Digest, count_max: int, bytes_max: int) -> None:
        """Delete what is too old, and the oldest until the rest fits. What is being fetched stays."""
        oldest_s = time.time() - AGE_S_MAX
        with contextlib.suppress(OSError):
            for held in self._folder.glob("*.held"):
                if not held.with_suffix(".part").exists():
                    held.unlink()
        lying = sorted(self._lying(), reverse=True)
        count = size = 0
        for changed_s, length, path in lying:
            blob_id = bytes.fromhex(path.stem)
            count, size = count + 1, size + length
            if blob_id == wanted or blob_id in self._open:
                continue
            if changed_s < oldest_s or count > count_max or size > bytes_max:
                count, size = count - 1, size - length
                for each in (path, path.with_suffix(".held")):
                    with contextlib.suppress(OSError):
                        each.unlink()

    def _lying(self) -> list[tuple[float, int, Path]]:
        found: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("*.part"):
            with contextlib.suppress(OSError, ValueError):
                bytes.fromhex(path.stem)
                of = path.stat()
                size = (
                    of.st_size if self._reserve else of.st_blocks * 512
                )  # POSIX's unit, whatever the disk's.
                found.append((of.st_mtime, size, path))
        return found


def part_path(folder: Path, blob_id: Digest) -> Path:
    """Where the bytes of a blob on its way lie."""
    return folder / f"{blob_id.hex()}.part"


def held_path(folder: Path, blob_id: Digest) -> Path:
    """Where is said which pieces of it have come."""
    return folder / f"{blob_id.hex()}.held"


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _reserve(handle: int, length: int) -> None:
    """Take the room now: a full disk is told before anything is fetched, and writing costs a third."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, length)
    else:
        os.ftruncate(handle, length)


def _write_at(handle: int, data: Bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written
