"""Decided blocks, one append-only file a chain. Blocks are the truth; everything else is a view of them.

Strict at the start: an append that a crash interrupted is cut off with a warning, anything else that is not
as it was written stops the node with the offset. Knows the order of blocks; whether a block and its
certificate are valid is judged before they come here (`consensus.chain`, `rules`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

from consensus.chain import FIRST_HEIGHT, FIRST_PARENT_ID
from consensus.signing import block_id
from consensus.types import DecidedBlock, Digest, Header
from p2pfl import codec, telemetry
from p2pfl.durable import RECORD_BYTES_MAX, Cut, Damage, Journal, scan
from p2pfl.errors import UserError

log = telemetry.logger("blocks")

SUFFIX = ".mps"
# Blocks of the last heights are asked for again and again: by peers that are behind, by pages.
_CACHE_BLOCKS = 32
_FIX = (
    "check the disk, then restore the file from a copy of this chain (any member's will do), or move it "
    "away: the node fetches the blocks again from its peers"
)


def identity(network_id: Digest, group_id: Digest) -> bytes:
    """The first record of a chain's file: which chain of which network it is."""
    return b"MPS chain 1" + network_id + group_id


class _Chain:
    """Offsets, ids and headers of the blocks that were read or appended, each following the one before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets: list[int] = []
        self.ids: list[Digest] = []
        self.tip: DecidedBlock | None = None

    def take(self, offset: int, payload: bytes) -> None:
        """The next record of the file. Raises UserError if it is no block or does not come next."""
        try:
            decided: DecidedBlock = codec.decode(payload, DecidedBlock, size_max=RECORD_BYTES_MAX)
            follow(self.newest(), decided.block.header)
        except ValueError as error:  # DecodeError is one.
            raise UserError(
                f"{self.path} is damaged at byte {offset}", because=str(error), fix=_FIX
            ) from error
        self.add(offset, decided)

    def newest(self) -> tuple[int, Digest]:
        """Height and id of the last block."""
        return FIRST_HEIGHT + len(self.ids) - 1, self.ids[-1] if self.ids else FIRST_PARENT_ID

    def add(self, offset: int, decided: DecidedBlock) -> None:
        self.ids.append(block_id(decided.block.header))
        self.offsets.append(offset)
        self.tip = decided


def follow(newest: tuple[int, Digest], header: Header) -> tuple[int, Digest]:
    """Height and id of this header, which comes after `newest`. Raises ValueError unless it does."""
    height, parent_id = newest
    if header.height != height + 1 or header.parent_id != parent_id:
        raise ValueError(f"block {header.height} does not follow block {height} of this file")
    return header.height, block_id(header)


class BlockStore:
    """The blocks of one chain, open for appending. Reads and appends may come from several threads."""

    def __init__(self, path: Path, network_id: Digest, group_id: Digest) -> None:
        """Open or create. Raises UserError for damage, another chain's file, or one in use."""
        self.path = path
        self.group_id = group_id
        self._chain = _Chain(path)
        self._lock = threading.Lock()
        self._cache: OrderedDict[int, DecidedBlock] = OrderedDict()
        own = self._identity = identity(network_id, group_id)
        if path.exists():
            self._journal = Journal.open(path, self._chain.take, identity=own, fix=_FIX)
        else:
            self._journal = Journal.create(path, own)
        if self._journal.cut is not None:
            cut = self._journal.cut
            log.warning(
                "cut an interrupted block off the file; every block before it is whole",
                path=path,
                offset=cut.offset,
                bytes=cut.length,
                blocks=len(self),
            )

    def append(self, decided: DecidedBlock) -> None:
        """Keep the next block; durable when it returns. ValueError if it does not follow the tip."""
        self.extend((decided,))

    def extend(self, blocks: Sequence[DecidedBlock]) -> None:
        """Keep the next blocks, with one fsync for all; durable when it returns. ValueError as above.

        A crash before that leaves as many of them as were written whole, from the first on.
        """
        with self._lock:
            follows = self._chain.newest()
            for decided in blocks:
                follows = follow(follows, decided.block.header)
            packed = [codec.encode(decided) for decided in blocks]
            offsets = self._journal.append(*packed, replaceable=True)
            for offset, decided in zip(offsets, blocks, strict=True):
                self._chain.add(offset, decided)
                self._remember(decided)
            telemetry.counters.gauge("height", self.tip_height, chain=self.path.stem)

    def cut(self, height: int) -> None:
        """Keep the blocks up to this height only: the council has declared those above it void. Durable."""
        with self._lock:
            kept = max(0, height - FIRST_HEIGHT + 1)
            payloads = [self._journal.read(offset) for offset in self._chain.offsets[:kept]]
            self._journal = self._journal.replace(self._identity, payloads)
            self._chain = _Chain(self.path)
            scan(self.path, lambda offset, payload: self._chain.take(offset, payload) if offset else None)
            self._cache.clear()

    def get(self, height: int) -> DecidedBlock | None:
        """The block at this height, None if there is none yet."""
        with self._lock:
            index = height - FIRST_HEIGHT
            if not 0 <= index < len(self._chain.offsets):
                return None
            if height in self._cache:
                self._cache.move_to_end(height)
                return self._cache[height]
            payload = self._journal.read(self._chain.offsets[index])
            decided: DecidedBlock = codec.decode(payload, DecidedBlock, size_max=RECORD_BYTES_MAX)
            self._remember(decided)
            return decided

    def _remember(self, decided: DecidedBlock) -> None:
        self._cache[decided.block.header.height] = decided
        while len(self._cache) > _CACHE_BLOCKS:
            self._cache.popitem(last=False)

    @property
    def tip(self) -> DecidedBlock | None:
        """The newest block."""
        return self._chain.tip

    @property
    def tip_height(self) -> int:
        """Height of the newest block, -1 when there is none."""
        return FIRST_HEIGHT + len(self._chain.ids) - 1

    @property
    def ids(self) -> tuple[Digest, ...]:
        """The block ids in order: the leaves under the next log root."""
        return tuple(self._chain.ids)

    def __len__(self) -> int:
        return len(self._chain.ids)

    def __iter__(self) -> Iterator[DecidedBlock]:
        return self.iterate()

    def iterate(self, start: int = FIRST_HEIGHT) -> Iterator[DecidedBlock]:
        """The blocks from height `start` on, those that are appended meanwhile too."""
        height = start
        while (decided := self.get(height)) is not None:
            yield decided
            height += 1

    def close(self) -> None:
        """Close and unlock."""
        with self._lock:
            self._journal.close()


class BlockFile:
    """A chain's file read without changing or locking it, for auditors: what is good, and what is not."""

    def __init__(self, path: Path) -> None:
        """Raises UserError when the file cannot be read at all; damage is kept in `damage`."""
        self.path = path
        self.blocks: list[DecidedBlock] = []
        self.offsets: list[int] = []
        self.cut: Cut | None = None
        self.damage: Damage | None = None
        try:
            found = scan(path, self._take)
        except OSError as error:
            raise UserError(f"{path} cannot be read", because=str(error), fix="check the path") from error
        self.identity = found.identity
        self.cut = found.cut
        self.damage = self.damage or found.damage

    def _take(self, offset: int, payload: bytes) -> None:
        if self.damage is not None:
            return
        try:
            self.blocks.append(codec.decode(payload, DecidedBlock, size_max=RECORD_BYTES_MAX))
            self.offsets.append(offset)
        except codec.DecodeError as error:
            self.damage = Damage(offset, f"the record is no block: {error}")

    @property
    def tip_height(self) -> int:
        """Height of the newest block, -1 when there is none."""
        return self.blocks[-1].block.header.height if self.blocks else -1

    def get(self, height: int) -> DecidedBlock | None:
        """The block at this height."""
        index = height - FIRST_HEIGHT
        return self.blocks[index] if 0 <= index < len(self.blocks) else None

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[DecidedBlock]:
        return iter(self.blocks)

    def iterate(self, start: int = FIRST_HEIGHT) -> Iterator[DecidedBlock]:
        """The blocks from height `start` on."""
        return iter(self.blocks[max(0, start - FIRST_HEIGHT) :])
