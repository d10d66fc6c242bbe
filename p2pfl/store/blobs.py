"""Parameters by their id, beside the blocks that name them.

A blob is here whole and right, or not here: it is checked against its id when it is put, unless it comes with
the hashes that show it was, and whenever it is read from the disk. Knows nothing of what the numbers mean,
nor who may have them.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from consensus import merkle
from consensus.types import Digest
from p2pfl import telemetry
from p2pfl.durable import TEMPORARY, disk_error, fsync_folder, write_whole
from p2pfl.errors import PeerFault
from p2pfl.params import BLOB_BYTES_MAX, leaf_hashes

log = telemetry.logger("blobs")

# One round of the mlp: an aggregate, a base and a few updates. Sixteen nodes share a laptop.
CACHE_BYTES_MAX = 32 * 1024 * 1024


@dataclass(frozen=True)
class StoredBlob:
    """A blob in memory with the hashes of its 1,024-byte leaves: what is needed to serve pieces of it."""

    blob_id: Digest
    data: bytes
    leaves: tuple[bytes, ...]

    @property
    def length(self) -> int:
        """Bytes."""
        return len(self.data)

    def leaf_hashes(self) -> tuple[bytes, ...]:
        """RFC 9162 hashes of the leaves: known since the blob was checked."""
        return self.leaves

    def read(self, offset: int, size: int) -> bytes:
        """A piece of it."""
        return self.data[offset : offset + size]

    @cached_property
    def size_bytes(self) -> int:
        """What it costs to keep, leaf hashes included."""
        return len(self.data) + 32 * len(self.leaves)


class BlobStore:
    """A folder of blobs: `ab/abcdef...` in hex. Calls may come from several threads."""

    def __init__(self, folder: Path, *, cache_bytes_max: int = CACHE_BYTES_MAX) -> None:
        """Open or create. What a crash left half written is deleted."""
        self.folder = folder
        self._lock = threading.Lock()
        self._cache: OrderedDict[Digest, StoredBlob] = OrderedDict()
        self._cache_bytes = 0
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
        leaves: tuple[bytes, ...] | None = None,
        durable: bool = True,
    ) -> Digest:
        """Keep these bytes; returns their id. Durable when it returns, unless `durable` is False.

        leaves: the hashes by which whoever brought them has verified them under `blob_id`, so that they are
        not hashed once more.

        Raises PeerFault when they are not the bytes of `blob_id` or too many, UserError when the disk is
        full (nothing half written stays). Hashes the whole blob: keep it off the event loop.
        """
        if len(data) > BLOB_BYTES_MAX:
            raise PeerFault("blob_too_large", f"{len(data)} bytes, the limit is {BLOB_BYTES_MAX}")
        if blob_id is not None and leaves is not None:
            stored = StoredBlob(blob_id, bytes(data), leaves)
        else:
            stored = _hashed(bytes(data))
        if blob_id is not None and stored.blob_id != blob_id:
            raise PeerFault("bad_blob", f"these are not the bytes of {blob_id.hex()}")
        path = self.path(stored.blob_id)
        if not path.exists():
            try:
                path.parent.mkdir()
                fsync_folder(self.folder)
            except FileExistsError:
                pass
            except OSError as error:
                raise disk_error(path, error) from error
            write_whole(path, stored.data, durable=durable)
            telemetry.counters.count("blobs_stored")
        self._remember(stored)
        return stored.blob_id

    def get(self, blob_id: Digest) -> bytes | None:
        """The blob's bytes, checked; None when it is not here."""
        found = self.source(blob_id)
        return None if found is None else found.data

    def source(self, blob_id: Digest) -> StoredBlob | None:
        """The blob with its leaf hashes; None when it is not here. At once if it was put or read lately."""
        with self._lock:
            found = self._cache.get(blob_id)
            if found is not None:
                self._cache.move_to_end(blob_id)
                return found
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
            self._set_aside(path, str(error))
            return None
        self._remember(stored)
        return stored

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
            with contextlib.suppress(FileNotFoundError):
                if blob_id not in keep and path.stat().st_mtime_ns < older_than_ms * 1_000_000:
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
        with self._lock:
            stored = self._cache.pop(blob_id, None)
            if stored is not None:
                self._cache_bytes -= stored.size_bytes

    def _set_aside(self, path: Path, because: str) -> None:
        """A blob that rotted on the disk is fetched again; its bytes stay for whoever looks for the cause."""
        log.error("a stored blob is damaged and was set aside", path=path, because=because)
        with contextlib.suppress(OSError):
            path.rename(path.with_suffix(".damaged"))


def _hashed(data: bytes) -> StoredBlob:
    leaves = tuple(leaf_hashes(data))
    return StoredBlob(merkle.root_of_hashes(leaves), data, leaves)
