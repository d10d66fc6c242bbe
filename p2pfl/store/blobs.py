"""Parameters by their id, beside the blocks that name them.

A blob is here whole and right, or not here: it is checked against its id when it is put, unless it comes with
the hashes that show it was, and whenever it is read from the disk. Knows nothing of what the numbers mean,
nor who may have them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from consensus.types import Digest
from p2pfl import telemetry
from p2pfl.durable import TEMPORARY, disk_error, fsync_folder, write_whole
from p2pfl.errors import PeerFault, UserError
from p2pfl.params import BLOB_BYTES_MAX
from p2pfl.runs import leaves_of, root_of, runs_of
from p2pfl.store.coming import Arriving, Coming

log = telemetry.logger("blobs")

# One round of the mlp: an aggregate, a base and a few updates. Sixteen nodes share a laptop.
CACHE_BYTES_MAX = 32 * 1024 * 1024
# Blobs of which the runs are known without reading them: a few rounds of sixteen, 50 KB for each 100 MB.
RUNS_KNOWN_MAX = 128
# Linux reads without waiting for a disk, or says that it would have to.
_NO_WAIT: int = getattr(os, "RWF_NOWAIT", 0)


@dataclass(frozen=True)
class StoredBlob:
    """A blob in memory with the nodes above its runs of 64 leaves: what is needed to serve pieces of it."""

    blob_id: Digest
    data: bytes
    runs: bytes

    @property
    def length(self) -> int:
        """Bytes."""
        return len(self.data)

    def run_hashes(self) -> bytes:
        """Known since the blob was checked."""
        return self.runs

    def read_now(self, offset: int, size: int) -> bytes:
        """A piece of it."""
        return self.data[offset : offset + size]

    read = read_now

    @property
    def size_bytes(self) -> int:
        """What it costs to keep, hashes included."""
        return len(self.data) + len(self.runs)


class FileBlob:
    """A large blob that is served from its file: nobody holds it in memory."""

    def __init__(self, store: BlobStore, blob_id: Digest, length: int, changed_ns: int) -> None:
        self.blob_id = blob_id
        self.length = length
        self._store = store
        self._changed_ns = changed_ns

    def run_hashes(self) -> bytes:
        """Of all its runs, checked against its id. Raises FileNotFoundError when it is another file."""
        if (known := self._store.known_runs(self.blob_id, self._changed_ns)) is not None:
            return known
        found = runs_of(self.read, self.length)
        if root_of(found) != self.blob_id:
            self._store.set_aside(self.blob_id, "its bytes have changed")
            raise FileNotFoundError("damaged")
        self._store.know_runs(self.blob_id, found)
        return found

    def read(self, offset: int, size: int) -> bytes:
        """A piece of it. Raises FileNotFoundError when the file is another one than was checked."""
        with self._opened() as handle:
            return os.pread(handle, size, offset)

    def read_now(self, offset: int, size: int) -> bytes | None:
        """The same if all of it is in the kernel's memory, as it is when others fetch it too."""
        if not _NO_WAIT:
            return None
        data = bytearray(size)
        with self._opened() as handle:
            try:
                got = os.preadv(handle, [data], offset, _NO_WAIT)
            except OSError:  # It would wait, or this kind of file system does not know the question.
                return None
        # As it is: a copy would cost as much again.
        return cast(bytes, data) if got == size else None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        handle = os.open(self._store.path(self.blob_id), os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.fstat(handle)
            same = found.st_mtime_ns == self._changed_ns or self._was_renewed(found.st_mtime_ns)
            if found.st_size != self.length or not same:
                raise FileNotFoundError("changed")
            yield handle
        finally:
            os.close(handle)

    def _was_renewed(self, changed_ns: int) -> bool:
        """Whether the store itself put this time on the file, whose bytes it knows."""
        if self._store.known_runs(self.blob_id, changed_ns) is None:
            return False
        self._changed_ns = changed_ns
        return True


class BlobStore:
    """A folder of blobs: `ab/abcdef...` in hex. Calls may come from several threads."""

    def __init__(self, folder: Path, *, cache_bytes_max: int = CACHE_BYTES_MAX) -> None:
        """Open or create. What a crash left half written is deleted."""
        self.folder = folder
        self.arriving = Arriving(folder / "coming")
        # Openings of cases, as long as an accused says: in nobody's way.
        self.claimed = Arriving(folder / "claimed", reserve=False)
        self._lock = threading.Lock()
        self._cache: OrderedDict[Digest, StoredBlob] = OrderedDict()
        self._cache_bytes = 0
        # The runs of blobs that this process has checked, and when their files were changed.
        self._runs: OrderedDict[Digest, tuple[int, bytes]] = OrderedDict()
        self._cache_bytes_max = cache_bytes_max
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f"??/.*{TEMPORARY}"):
                left.unlink()
        except OSError as error:
            raise disk_error(folder, error) from error

    def path(self, blob_id: Digest) -> Path:
        """Where this blob lies or would lie."""
        name = blob_id.hex()
        return self.folder / name[:2] / name

    def put(
        self,
        data: bytes,
        blob_id: Digest | None = None,
        *,
        runs: bytes | None = None,
        durable: bool = True,
    ) -> Digest:
        """Keep these bytes; returns their id. Durable when it returns, unless `durable` is False.

        Bytes that are here already count as written now, so that a blob of the open height is never old.
        runs: the nodes by which whoever brought them has verified them under `blob_id`, so that they are not
        hashed once more.

        Raises PeerFault when they are not the bytes of `blob_id` or too many, UserError when the disk is
        full (nothing half written stays). Hashes the whole blob: keep it off the event loop.
        """
        if len(data) > BLOB_BYTES_MAX:
            raise PeerFault("blob_too_large", f"{len(data)} bytes, the limit is {BLOB_BYTES_MAX}")
        if blob_id is not None and runs is not None:
            stored = StoredBlob(blob_id, bytes(data), runs)
        else:
            stored = _hashed(bytes(data))
        if blob_id is not None and stored.blob_id != blob_id:
            raise PeerFault("bad_blob", f"these are not the bytes of {blob_id.hex()}")
        path = self.path(stored.blob_id)
        if not self._renew(stored.blob_id, stored.length, durable=durable):
            self._make_folder(path)
            write_whole(path, stored.data, durable=durable)
            telemetry.counters.count("blobs_stored")
            self.know_runs(stored.blob_id, stored.runs)
        self._remember(stored)
        return stored.blob_id

    def adopt(self, coming: Coming) -> None:
        """Keep a blob that has come, every piece of it verified. What is read soon stays in memory.

        Raises UserError as `put` does, and then it is still on its way, whole.
        """
        runs, path = coming.run_hashes(), self.path(coming.blob_id)
        self._make_folder(path)
        try:
            coming.move_to(path)
        except OSError as error:
            raise disk_error(path, error) from error
        telemetry.counters.count("blobs_stored")
        self.know_runs(coming.blob_id, runs)
        if coming.length <= self._cache_bytes_max:
            with contextlib.suppress(OSError):
                self._remember(StoredBlob(coming.blob_id, path.read_bytes(), runs))

    def _renew(self, blob_id: Digest, length: int, *, durable: bool = False) -> bool:
        """A blob whose file is here is as young as one that comes now. Returns whether it is here."""
        path = self.path(blob_id)
        try:
            with self._lock:  # `prune` looks and deletes under it too.
                before = path.stat()
                if before.st_size != length:
                    return False
                os.utime(path)
                when_ns, runs = self._runs.get(blob_id, (0, b""))
                if when_ns == before.st_mtime_ns:
                    self._runs[blob_id] = (path.stat().st_mtime_ns, runs)
            if durable:  # It may have been written without.
                _fsync(path)
                fsync_folder(path.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise disk_error(path, error) from error
        return True

    def get_for_use(self, blob_id: Digest) -> bytes | None:
        """The same as `get`, and what is here counts as written now: somebody works with it."""
        found = self.get(blob_id)
        if found is not None:
            with contextlib.suppress(UserError):  # A disk that takes no time stamp still gives bytes.
                self._renew(blob_id, len(found))
        return found

    def get(self, blob_id: Digest) -> bytes | None:
        """The blob's bytes, checked (2 ms a MiB) unless they were used lately; None when it is not here."""
        found = self._cached(blob_id)
        if found is not None:
            return found.data
        path = self.path(blob_id)
        try:
            if path.stat().st_size > BLOB_BYTES_MAX:
                raise ValueError("it is longer than any blob")
            stored = _hashed(path.read_bytes())
            if stored.blob_id != blob_id:
                raise ValueError("its bytes have changed")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self.set_aside(blob_id, str(error))
            return None
        self._remember(stored)
        return stored.data

    def source(self, blob_id: Digest) -> StoredBlob | FileBlob | Coming | None:
        """What pieces of it are served from, at once: memory, its file, or what has come of it. Or None."""
        if (found := self._cached(blob_id)) is not None:
            return found
        try:
            of_file = self.path(blob_id).stat()
        except OSError:
            return self.arriving.find(blob_id) or self.claimed.find(blob_id)
        if not 0 < of_file.st_size <= BLOB_BYTES_MAX:
            return None
        return FileBlob(self, blob_id, of_file.st_size, of_file.st_mtime_ns)

    def known_runs(self, blob_id: Digest, changed_ns: int) -> bytes | None:
        """The runs of a blob's file, if this process has checked it and nobody has touched it since."""
        with self._lock:
            when_ns, runs = self._runs.get(blob_id, (0, b""))
            return runs if when_ns == changed_ns else None

    def leaves(self, blob_id: Digest) -> bytes:
        """The hashes of a blob's leaves, one after another, if they are still known; or nothing."""
        with self._lock:
            stored = self._cache.get(blob_id)
            runs = stored.runs if stored is not None else self._runs.get(blob_id, (0, b""))[1]
        return leaves_of(runs) if runs else b""

    def know_runs(self, blob_id: Digest, runs: bytes) -> None:
        """Remember what was checked just now."""
        with contextlib.suppress(OSError):
            changed_ns = self.path(blob_id).stat().st_mtime_ns
            with self._lock:
                self._runs[blob_id] = (changed_ns, runs)
                while len(self._runs) > RUNS_KNOWN_MAX:
                    self._runs.popitem(last=False)

    def _cached(self, blob_id: Digest) -> StoredBlob | None:
        with self._lock:
            found = self._cache.get(blob_id)
            if found is not None:
                self._cache.move_to_end(blob_id)
            return found

    def has(self, blob_id: Digest) -> bool:
        """Whether it is here (its bytes are checked when they are read)."""
        with self._lock:
            if blob_id in self._cache:
                return True
        return self.path(blob_id).exists()

    def ids(self) -> Iterator[Digest]:
        """The ids of all blobs, in no order."""
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            for path in folder.iterdir():
                if len(path.name) == 64:
                    yield Digest(bytes.fromhex(path.name))

    def prune(self, keep: Collection[Digest], *, older_than_ms: int) -> int:
        """Delete blobs that are not in `keep` and were written before this Unix time. Returns how many."""
        dropped = 0
        for blob_id in list(self.ids()):
            path = self.path(blob_id)
            if blob_id in keep:
                continue
            with contextlib.suppress(FileNotFoundError), self._lock:  # Not in the middle of a `_renew`.
                if path.stat().st_mtime_ns < older_than_ms * 1_000_000:
                    self._forget(blob_id)
                    path.unlink()
                    dropped += 1
        telemetry.counters.count("blobs_dropped", dropped)
        return dropped

    def _remember(self, stored: StoredBlob) -> None:
        with self._lock:
            if stored.blob_id in self._cache or stored.size_bytes > self._cache_bytes_max:
                return
            self._cache[stored.blob_id] = stored
            self._cache_bytes += stored.size_bytes
            while self._cache_bytes > self._cache_bytes_max:
                self._cache_bytes -= self._cache.popitem(last=False)[1].size_bytes

    def _forget(self, blob_id: Digest) -> None:
        """Out of memory; under the lock."""
        stored = self._cache.pop(blob_id, None)
        if stored is not None:
            self._cache_bytes -= stored.size_bytes

    def set_aside(self, blob_id: Digest, because: str) -> None:
        """A blob that rotted on the disk is fetched again; its bytes stay for whoever looks for the cause."""
        path = self.path(blob_id)
        log.error("a stored blob is damaged and was set aside", path=path, because=because)
        with contextlib.suppress(OSError):
            path.rename(path.with_suffix(".damaged"))

    def _make_folder(self, path: Path) -> None:
        try:
            path.parent.mkdir()
            fsync_folder(self.folder)
        except FileExistsError:
            pass
        except OSError as error:
            raise disk_error(path, error) from error


def _hashed(data: bytes) -> StoredBlob:
    view = memoryview(data)
    runs = runs_of(lambda offset, size: view[offset : offset + size], len(data))
    return StoredBlob(root_of(runs), data, runs)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
