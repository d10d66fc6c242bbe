"""A copy of a running network's history, brought from whoever answers and believed as far as it is proved.

Every header is checked against its parent, every certificate against the committee to which the chain leads
from the genesis, every body against its header, before a block is kept. What the bodies say is judged by
`verify`. Trusts no source: one that gives a block which does not follow is named and left. Knows no sockets:
a source is something that answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from consensus.chain import History
from consensus.signing import block_id
from consensus.types import ZERO_DIGEST, DecidedBlock, Digest
from consensus.votes import BadCertificate
from p2pfl import genesis as genesis_file
from p2pfl.audit.history import certificate_objection, told
from p2pfl.durable import disk_error
from p2pfl.errors import PeerFault, UserError
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.params import BLOB_BYTES_MAX, byte_length
from p2pfl.records import CouncilBody, GroupBody, body_root, decode_body
from p2pfl.roster import Roster, UnknownEpoch
from p2pfl.store import BlobStore, BlockStore, Folder

# Blocks that are asked for at once; one answer holds at most 4 MiB of them.
BATCH_BLOCKS = 64
# Faults of a source that say where it is or what it may tell, and nothing about its truthfulness.
EXCUSED = ("unreachable", "refused", "slow")


class Source(Protocol):
    """A node that is asked. All methods raise PeerFault."""

    name: str

    async def status(self, group_id: Digest) -> tuple[int, Digest]: ...
    async def blocks(self, group_id: Digest, start: int, count: int) -> Sequence[DecidedBlock]: ...
    async def blob(self, blob_id: Digest, length: int) -> bytes: ...
    def leave(self) -> None: ...


class Lie(Exception):
    """What a source gave cannot be of this network. reason: as in the report of `audit verify`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass
class Outcome:
    """What came of it. lies, forks: for people and programs. hidden: blobs that nobody showed."""

    heights: dict[str, int] = field(default_factory=dict[str, int])
    blocks: int = 0
    blobs: int = 0
    hidden: int = 0
    lies: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    forks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    silent: dict[str, str] = field(default_factory=dict[str, str])


class _Chain:
    """One chain of the copy: what is on the disk, and the history that it adds up to."""

    def __init__(self, genesis: Genesis, name: str, folder: Folder) -> None:
        self.name = name
        self.group_id = genesis.group_id(name)
        self.store = BlockStore(folder.chain(name), genesis.network_id, self.group_id)
        self._genesis = genesis
        self.begin()

    def begin(self) -> None:
        """Forget what was checked."""
        genesis = self._genesis
        self.history = History(genesis.domain(self.name), genesis.network_id, genesis.committee(self.name))

    @property
    def height(self) -> int:
        return -1 if self.history.tip is None else self.history.tip.height

    def check(self, decided: DecidedBlock, roster: Roster) -> None:
        """Take the next block into the history. Raises Lie, UnknownEpoch."""
        header = decided.block.header
        try:
            committee, closed = roster.decides(
                self.name, header, tip=self.history.tip, tip_id=self.history.tip_id
            )
            kind = CouncilBody if self.name == COUNCIL else GroupBody
            if body_root(decode_body(decided.block.body, kind)) != header.app_root:
                raise Lie("bad_body", f"block {header.height} of {self.name}: another body than its header's")
            self.history.append(header, decided.certificate, committee=committee, closed=closed)
        except UnknownEpoch:
            raise
        except (ValueError, PeerFault) as error:
            reason = "bad_certificate" if isinstance(error, BadCertificate) else "bad_block"
            raise Lie(reason, f"block {header.height} of {self.name}: {error}") from error


class Copy:
    """The folder in which the copy grows; `p2pfl audit verify` reads it."""

    def __init__(self, path: Path, genesis: Genesis) -> None:
        """Open or create, and check again what is there. Raises UserError. Blocking."""
        self.genesis = genesis
        self.roster = Roster.of(genesis)
        folder = Folder(path)
        try:
            for each in (folder.path / "chain", folder.blobs):
                each.mkdir(parents=True, exist_ok=True)
            if folder.genesis.exists():
                self._same_network(folder)
            else:
                genesis_file.save(genesis, folder.genesis)
        except OSError as error:
            raise disk_error(path, error) from error
        self.blobs = BlobStore(folder.blobs)
        names = (COUNCIL, *(group.name for group in genesis.groups))
        self.chains = {name: _Chain(genesis, name, folder) for name in names}
        for chain in self.chains.values():
            self._read(chain)

    def _same_network(self, folder: Folder) -> None:
        found = genesis_file.load(folder.genesis)
        if found.network_id != self.genesis.network_id:
            raise UserError(
                f"{folder.path} holds another network's history",
                because=f"its genesis file has the id 0x{found.network_id.hex()}",
                fix="name another folder with --out",
            )

    def _read(self, chain: _Chain) -> None:
        chain.begin()
        for decided in chain.store:
            if self.is_void(chain.name, decided):
                chain.store.cut(decided.block.header.height - 1)
                break
            try:
                chain.check(decided, self.roster)
            except (Lie, UnknownEpoch) as error:
                raise UserError(
                    f"{chain.store.path} is not what was fetched",
                    because=str(error),
                    fix="move the folder away and fetch again",
                ) from error
            self._fold(chain, decided)

    def _fold(self, chain: _Chain, decided: DecidedBlock) -> None:
        if chain.name == COUNCIL:
            self.roster = told(self.roster, decided)

    def is_void(self, name: str, decided: DecidedBlock) -> bool:
        """Whether the council closed the epoch below this block. Who still holds it has not heard of that."""
        header = decided.block.header
        closing = self.roster.closings.get((name, header.epoch))
        return closing is not None and header.height > closing.height

    def take(self, name: str, blocks: Sequence[DecidedBlock]) -> int:
        """Keep the next blocks as far as they hold; how many. Raises Lie for one that does not. Blocking."""
        chain = self.chains[name]
        good: list[DecidedBlock] = []
        try:
            for decided in blocks:
                if decided.block.header.height != chain.height + 1:
                    raise Lie("bad_block", f"block {decided.block.header.height} where another was asked for")
                if self.is_void(name, decided):
                    break
                chain.check(decided, self.roster)
                self._fold(chain, decided)
                good.append(decided)
        except UnknownEpoch:
            pass  # The council's chain comes first; it may have grown meanwhile.
        finally:
            if good:
                chain.store.extend(good)
        return len(good)

    def cut_what_is_void(self) -> None:
        """The council may have closed an epoch below what was fetched of a group. Blocking."""
        for (name, epoch), closing in self.roster.closings.items():
            above = self.chains[name].store.get(closing.height + 1)
            if above is not None and above.block.header.epoch == epoch:
                self.chains[name].store.cut(closing.height)
                self._read(self.chains[name])

    def wanted_blobs(self, name: str, start: int) -> Iterator[tuple[Digest, int]]:
        """Ids and lengths of the blobs that blocks from this height on name and that are not here."""
        layout = self.genesis.task.layout
        first = self.genesis.initial_base_id
        if (name, start) == (COUNCIL, 0) and not self.blobs.has(first):
            yield first, byte_length("base", layout)
        for decided in self.chains[name].store.iterate(start):
            kind = CouncilBody if name == COUNCIL else GroupBody
            body = decode_body(decided.block.body, kind)
            length = byte_length("update", layout, body.exponents)
            if isinstance(body, CouncilBody):
                named = [(body.base_id, byte_length("base", layout)), (body.root_update_id, length)]
            else:
                named = [(body.aggregate_id, length)]
                named += [(each.tx.blob_id, each.tx.byte_length) for each in body.txs]
            for blob_id, size in named:
                if blob_id != ZERO_DIGEST and 0 < size <= BLOB_BYTES_MAX and not self.blobs.has(blob_id):
                    yield blob_id, size

    def close(self) -> None:
        """Close the files."""
        for chain in self.chains.values():
            chain.store.close()


class Fetcher:
    """Brings a copy up to what the sources have. tell: a line for the operator.

    sources: those that have not lied.
    """

    def __init__(
        self, copy: Copy, sources: Sequence[Source], *, blobs: bool, tell: Callable[[str], None]
    ) -> None:
        self.copy = copy
        self.outcome = Outcome()
        self.sources = list(sources)
        self._blobs = blobs
        self._tell = tell
        self._looked = dict.fromkeys(copy.chains, 0)  # From which height on blobs have not been asked for.

    async def once(self) -> None:
        """All chains, the council's first, once. Raises UserError when nobody is left to ask."""
        self.outcome.silent.clear()
        for name in self.copy.chains:
            await self._bring(name)
            if name == COUNCIL:
                await _aside(self.copy.cut_what_is_void)
            if self._blobs:
                await self._bring_blobs(name)
        self.outcome.heights = {name: chain.height for name, chain in self.copy.chains.items()}
        if len(self.outcome.silent) >= len(self.sources):
            named = (
                *self.outcome.silent.items(),
                *((each["source"], each["reason"]) for each in self.outcome.lies),
            )
            raise UserError(
                "nobody is left to fetch from",
                because="; ".join(f"{name}: {why}" for name, why in named),
                fix="name other nodes with --from; what was fetched is kept, the next fetch goes on there",
            )

    async def _bring(self, name: str) -> None:
        chain = self.copy.chains[name]
        tips = await self._tips(chain.group_id)
        ahead = [source for source, (height, _) in tips.items() if height > chain.height]
        while ahead:
            # The one that has most first; one that gives nothing is not asked again in this turn.
            source = max(ahead, key=lambda each: tips[each][0])
            taken = await self._blamed(source, partial(self._batch, source, name))
            if not taken:
                ahead.remove(source)
            ahead = [each for each in ahead if each in self.sources and tips[each][0] > chain.height]
        for source, (height, tip_id) in tips.items():
            ours = self.copy.chains[name].store.get(height) if source in self.sources else None
            if ours is not None and block_id(ours.block.header) != tip_id:
                await self._blamed(source, partial(self._compare, source, name, height, tip_id))

    async def _tips(self, group_id: Digest) -> dict[Source, tuple[int, Digest]]:
        found: dict[Source, tuple[int, Digest]] = {}

        async def look(source: Source) -> None:
            tip = await self._blamed(source, partial(source.status, group_id))
            if tip is not None:
                found[source] = tip

        async with trio.open_nursery() as nursery:
            for source in self.sources:
                nursery.start_soon(look, source)
        return {source: found[source] for source in self.sources if source in found}

    async def _batch(self, source: Source, name: str) -> int:
        chain = self.copy.chains[name]
        blocks = await source.blocks(chain.group_id, chain.height + 1, BATCH_BLOCKS)
        before = chain.height
        try:
            return await _aside(partial(self.copy.take, name, blocks))
        except Lie as lie:
            bad = blocks[chain.height - before]
            right = bad.block.header.height == chain.height + 1 and self._objection(name, bad) is None
            if lie.reason == "bad_block" and right:
                self._fork(source, name, bad)  # It does not follow, and yet a quorum signed it.
            raise
        finally:
            self.outcome.blocks += chain.height - before

    async def _compare(self, source: Source, name: str, height: int, tip_id: Digest) -> None:
        """A source's tip is not the block that we have at its height; perhaps it is certified too."""
        (theirs, *_) = await source.blocks(self.copy.chains[name].group_id, height, 1) or (None,)
        if theirs is None or (theirs.block.header.height, _id_of(theirs)) != (height, tip_id):
            raise Lie("bad_block", f"it does not have the tip of {name} that it tells of")
        if self.copy.is_void(name, theirs):
            return
        why = self._objection(name, theirs)
        if why is not None:
            raise Lie("bad_certificate", f"block {height} of {name}: {why}")
        self._fork(source, name, theirs)

    def _objection(self, name: str, decided: DecidedBlock) -> str | None:
        return certificate_objection(self.copy.roster, name, decided.block.header, decided.certificate)

    def _fork(self, source: Source, name: str, decided: DecidedBlock) -> None:
        """A certified block that does not belong to the history that we hold: more than f signed both."""
        height, its_id = decided.block.header.height, "0x" + block_id(decided.block.header).hex()
        fork = {"chain": name, "height": height, "source": source.name, "block_id": its_id}
        if fork not in self.outcome.forks:
            self.outcome.forks.append(fork)
            self._tell(f"FORK: {source.name} has another certified block {height} of {name}, {its_id}")

    async def _bring_blobs(self, name: str) -> None:
        for blob_id, length in self.copy.wanted_blobs(name, self._looked[name]):
            for source in list(self.sources):
                data = await self._blamed(source, partial(source.blob, blob_id, length), hidden=True)
                if data is not None:
                    await _aside(partial(self.copy.blobs.put, data, blob_id, durable=False))
                    self.outcome.blobs += 1
                    break
            else:
                self.outcome.hidden += 1
        self._looked[name] = self.copy.chains[name].height + 1

    async def _blamed(
        self, source: Source, work: Callable[[], Awaitable[Any]], *, hidden: bool = False
    ) -> Any | None:
        """What came of asking a source; None if nothing did. Whoever lied is named and left."""
        try:
            return await work()
        except Lie as lie:
            self._leave(source, lie.reason, lie.detail)
        except PeerFault as fault:
            if fault.reason not in EXCUSED:
                self._leave(source, fault.reason, fault.detail)
            elif not (hidden and fault.reason == "refused"):
                self.outcome.silent.setdefault(source.name, str(fault))
        return None

    def _leave(self, source: Source, reason: str, detail: str) -> None:
        self.outcome.lies.append({"source": source.name, "reason": reason, "detail": detail})
        self._tell(f"LIED: {source.name}: {reason}: {detail}")
        if source in self.sources:
            self.sources.remove(source)
        source.leave()


def _id_of(decided: DecidedBlock) -> Digest | None:
    """A block's id; None for a header with a field that no header can have."""
    try:
        return block_id(decided.block.header)
    except ValueError:
        return None


async def _aside(work: Callable[[], Any]) -> Any:
    """Signatures and disks would keep the sockets waiting."""
    return await trio.to_thread.run_sync(work)
