"""What a node keeps, kept in memory: chains, blobs and notes of one process that will never be started again.

The same interfaces as `p2pfl.store`. Nodes of one process share the bytes of a blob and what was computed
from them; each has its own list of what it holds. Nothing is durable here, on purpose: a cell that is
interrupted is run again from its beginning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from consensus.chain import FIRST_HEIGHT, FIRST_PARENT_ID
from consensus.signing import block_id
from consensus.types import DecidedBlock, Digest
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.net.interface import BytesBlob
from p2pfl.params import blob_id as id_of
from p2pfl.runs import leaves_of
from p2pfl.store import Folder
from p2pfl.store.blocks import follow
from p2pfl.store.coming import Arriving


class Pool:
    """The bytes of all blobs of one process, by id: verified once."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}
        self._sources: dict[Digest, BytesBlob] = {}

    def put(self, data: bytes, blob_id: Digest | None) -> Digest:
        """Keep it; its id. Raises PeerFault when these are not the bytes of that id."""
        if blob_id is not None and (known := self._blobs.get(blob_id)) is not None and known == data:
            return blob_id
        made = id_of(data)
        if blob_id is not None and made != blob_id:
            raise PeerFault("bad_blob", f"these are not the bytes of {blob_id.hex()}")
        self._blobs.setdefault(made, bytes(data))
        return made

    def source(self, blob_id: Digest) -> BytesBlob:
        """What pieces and hashes of it are had from: made once."""
        if blob_id not in self._sources:
            self._sources[blob_id] = BytesBlob(self._blobs[blob_id])
        return self._sources[blob_id]

    def __getitem__(self, blob_id: Digest) -> bytes:
        return self._blobs[blob_id]


class MemoryBlobs:
    """What one node holds of a pool (`store.BlobStore`)."""

    def __init__(self, pool: Pool, folder: Path) -> None:
        self._pool = pool
        self._held: set[Digest] = set()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # Blobs of a MiB and more come piece by piece through files, here too.
        self.arriving, self.claimed = Arriving(folder / "coming"), Arriving(folder / "claimed", reserve=False)

    def put(
        self, data: bytes, blob_id: Digest | None = None, *, runs: bytes | None = None, durable: bool = True
    ) -> Digest:
        """Keep these bytes; returns their id."""
        made = self._pool.put(data, blob_id)
        self._held.add(made)
        return made

    def adopt(self, coming: Any) -> None:
        """Keep a blob that has come, every piece of it verified."""
        path = self._folder / coming.blob_id.hex()
        coming.move_to(path)
        self.put(path.read_bytes(), coming.blob_id)
        path.unlink()

    def get(self, blob_id: Digest) -> bytes | None:
        """Its bytes, if this node holds it."""
        return self._pool[blob_id] if blob_id in self._held else None

    get_for_use = get

    def has(self, blob_id: Digest) -> bool:
        """Whether this node holds it."""
        return blob_id in self._held

    def source(self, blob_id: Digest) -> Any | None:
        """What pieces of it are served from."""
        if blob_id not in self._held:
            return None
        return self._pool.source(blob_id)

    def leaves(self, blob_id: Digest) -> bytes:
        """The hashes of a blob's leaves, one after another, if this node holds it; or nothing."""
        return leaves_of(self._pool.source(blob_id).run_hashes()) if blob_id in self._held else b""

    def ids(self) -> Iterator[Digest]:
        """The ids of all that are held."""
        return iter(self._held)

    def prune(self, keep: Collection[Digest], *, older_than_ms: int) -> int:
        """Nothing is deleted: a cell is short."""
        return 0


class MemoryChain:
    """The blocks of one chain (`store.BlockStore`)."""

    def __init__(self) -> None:
        self._blocks: list[DecidedBlock] = []
        self._ids: list[Digest] = []

    def append(self, decided: DecidedBlock) -> None:
        """Keep the next block. ValueError if it does not follow the tip."""
        self.extend((decided,))

    def extend(self, blocks: Sequence[DecidedBlock]) -> None:
        """Keep the next blocks. ValueError as above, and nothing is kept."""
        newest = self.tip_height, self._ids[-1] if self._ids else FIRST_PARENT_ID
        for decided in blocks:
            newest = follow(newest, decided.block.header)
        self._blocks += blocks
        self._ids += [block_id(decided.block.header) for decided in blocks]

    def cut(self, height: int) -> None:
        """Keep the blocks up to this height only."""
        kept = max(0, height - FIRST_HEIGHT + 1)
        del self._blocks[kept:], self._ids[kept:]

    def get(self, height: int) -> DecidedBlock | None:
        """The block at this height, None if there is none yet."""
        index = height - FIRST_HEIGHT
        return self._blocks[index] if 0 <= index < len(self._blocks) else None

    @property
    def tip(self) -> DecidedBlock | None:
        """The newest block."""
        return self._blocks[-1] if self._blocks else None

    @property
    def tip_height(self) -> int:
        """Height of the newest block, -1 when there is none."""
        return FIRST_HEIGHT + len(self._blocks) - 1

    @property
    def ids(self) -> tuple[Digest, ...]:
        """The block ids in order."""
        return tuple(self._ids)

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[DecidedBlock]:
        return self.iterate()

    def iterate(self, start: int = FIRST_HEIGHT) -> Iterator[DecidedBlock]:
        """The blocks from height `start` on."""
        height = start
        while (decided := self.get(height)) is not None:
            yield decided
            height += 1

    def close(self) -> None:
        """Nothing is open."""


class MemoryLog:
    """The log of a core that is never restored (`store.wal.Wal`): it keeps nothing."""

    def append(self, event: Any) -> None:
        """An input of the current height."""

    def append_many(self, events: list[Any]) -> None:
        """Several."""

    def replay(self, height: int, epoch: int = 0) -> list[Any]:
        """A height always begins from nothing."""
        return []

    def reset(self, height: int, epoch: int = 0) -> None:
        """A height begins."""

    def forget_before(self, epoch: int) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""


class MemoryNotes:
    """Notes for pages that nobody opens (`store.Notes`)."""

    def add(self, name: str, record: Any, *, durable: bool = False) -> None:
        """Forget it."""

    def read(self, name: str) -> list[dict[str, Any]]:
        """None were kept."""
        return []


class MemoryStore:
    """Everything that one node keeps (`store.Store`). folder: an empty one, for large blobs on their way."""

    def __init__(self, folder: Path, genesis: Genesis, pool: Pool) -> None:
        self.folder = Folder(folder)
        self.genesis = genesis
        self.blobs = MemoryBlobs(pool, folder / "blobs")
        self.notes = MemoryNotes()
        self._chains: dict[str, MemoryChain] = {}

    def chain(self, name: str) -> MemoryChain:
        """The blocks of a group, or of the council."""
        return self._chains.setdefault(name, MemoryChain())

    @property
    def council(self) -> MemoryChain:
        """The council's chain."""
        return self.chain(COUNCIL)

    def wal(self, name: str) -> MemoryLog:
        """The log of the core of this group."""
        return MemoryLog()

    def close(self) -> None:
        """Nothing is open."""
