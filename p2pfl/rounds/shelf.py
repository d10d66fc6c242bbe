"""The blobs of a node: kept, fetched once however many ask, and shown only to whom they may be shown."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from random import Random
from typing import Any, TypeAlias

import trio

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net.interface import Fetched
from p2pfl.net.wire import Piece
from p2pfl.rounds.patience import when_there_is_room
from p2pfl.store.blobs import BlobStore
from p2pfl.store.coming import Arriving, Busy, Coming

# How many blobs a node remembers to whom it may show them; a round of 16 needs about 20.
SHOWN_MAX = 4096
# And of the past: some four thousand rounds of 16 members, in ten megabytes.
PAST_MAX = 65_536
# A fetch that fails is tried again, less and less often, while somebody still waits for it.
RETRY_S = (0.1, 0.3, 1.0, 2.0)
# From then on others than the first holder are asked too.
OTHERS_AFTER_S = 1.0
# From this length on a blob comes into a file: what has come of it survives a crash and can be served on. A
# smaller one is here sooner than a file is open.
FILE_BYTES_MIN = 1024 * 1024
# The slowest link on which a large blob is waited for: 8 Mbit/s, shared by a group of eight.
SLOWEST_BYTES_S = 125_000
# A fetch is begun anew after so long, in case something in it hangs.
FETCH_S = 30.0
# While as much is on its way as the disk may hold, look so often whether something has come.
BUSY_S = 0.1

Holders = Callable[[], Sequence[MemberId]]
# A blob, its length, whether that is only claimed: one peer's claim keeps nobody waiting who knows better.
_Coming: TypeAlias = tuple[Digest, int, bool]


class Shelf:
    """What this node holds by id, and who may have it.

    `fetch(blob_id, length, holders)` is the network's; it verifies what it returns.
    """

    def __init__(self, blobs: BlobStore, network: Any, *, chance: Random | None = None) -> None:
        self._blobs = blobs
        self._network = network
        self._chance = chance or Random()
        self._shown: OrderedDict[Digest, frozenset[MemberId] | None] = OrderedDict()
        self._revealed: OrderedDict[Digest, None] = OrderedDict()
        self._past: OrderedDict[Digest, frozenset[MemberId] | None] = OrderedDict()
        self._held: dict[Digest, dict[MemberId, Digest]] = {}
        self._coming: dict[_Coming, trio.Event] = {}
        self.fetched = 0

    async def put(self, blob_id: Digest, data: bytes, *, durable: bool = True) -> None:
        """Keep it. durable False: others have it too, so a crash costs a fetch and no fsync is worth it."""
        await self._keep(data, blob_id, durable=durable)

    async def _keep(self, data: bytes, blob_id: Digest, **how: Any) -> None:
        await when_there_is_room(partial(self._blobs.put, data, blob_id, **how))

    async def has(self, blob_id: Digest) -> bool:
        """Whether it is here."""
        return await trio.to_thread.run_sync(self._blobs.has, blob_id)

    async def get(self, blob_id: Digest) -> bytes | None:
        """Its bytes, if it is here."""
        return await trio.to_thread.run_sync(self._blobs.get, blob_id)

    def leaves(self, blob_id: Digest) -> bytes:
        """The hashes of its leaves, one after another, if somebody has just made them; or nothing."""
        return self._blobs.leaves(blob_id)

    def hold(self, case_id: Digest, by: MemberId, opening_id: Digest) -> None:
        """While this case is open, what this member brought to it last is not old, however old it is.

        No block names an opening before it was measured, and that may be epochs later.
        """
        self._held.setdefault(case_id, {})[by] = opening_id

    def hold_only(self, open_cases: Collection[Digest]) -> None:
        """Of all other cases nothing has to be held any more."""
        for case_id in self._held.keys() - set(open_cases):
            del self._held[case_id]

    def held(self) -> set[Digest]:
        """The openings of open cases."""
        return {opening_id for each in self._held.values() for opening_id in each.values()}

    def show(self, blob_id: Digest, to: Iterable[MemberId] | None = None) -> None:
        """From now on these members may fetch it too (None: everybody, observers too)."""
        shown = self._shown[blob_id] if blob_id in self._shown else self._past.get(blob_id, frozenset())
        self._shown[blob_id] = None if to is None or shown is None else shown | frozenset(to)
        self._shown.move_to_end(blob_id)
        while len(self._shown) > SHOWN_MAX:
            self.show_past(*self._shown.popitem(last=False))

    def reveal(self, blob_ids: Iterable[Digest]) -> None:
        """From now on observers may have these too, beside those to whom they are shown."""
        for blob_id in blob_ids:
            self._revealed[blob_id] = None
            self._revealed.move_to_end(blob_id)
        while len(self._revealed) > SHOWN_MAX:
            self._revealed.popitem(last=False)

    def show_past(self, blob_id: Digest, to: frozenset[MemberId] | None = None) -> None:
        """These members may fetch this one, which a decided block of the past names (None: everybody)."""
        shown = self._past.get(blob_id, frozenset())
        self._past[blob_id] = None if to is None or shown is None else shown | to if shown else to
        while len(self._past) > PAST_MAX:
            self._past.popitem(last=False)

    def may_have(self, sender: MemberId | None, blob_id: Digest) -> bool:
        """Whether this peer may fetch this blob. sender None: an observer."""
        if sender is None and blob_id in self._revealed:
            return True
        shown = self._shown if blob_id in self._shown else self._past
        audience = shown.get(blob_id, frozenset())
        return audience is None or sender in audience

    def source(self, sender: MemberId | None, blob_id: Digest) -> Any | None:
        """What the network serves to this peer, or None. What is shown is served while it still comes."""
        return self._blobs.source(blob_id) if self.may_have(sender, blob_id) else None

    async def need(
        self,
        blob_id: Digest,
        length: int,
        first: Sequence[MemberId],
        others: Sequence[MemberId] = (),
        *,
        timeout_s: float = 60.0,
        claimed: bool = False,
    ) -> bytes:
        """The blob's bytes: from the shelf, or fetched, verified and kept. Raises PeerFault: nobody has it.

        first: who should hold it; others: who may, asked once the first did not answer for a while. A large
        blob is asked of all at once: who fetches it too has some of it. timeout_s: of a small one; a large
        one has as much longer as it takes on the slowest link that is served. claimed: only a peer says that
        it is so long.
        """
        this: _Coming = (blob_id, length, claimed)
        timeout_s += length / SLOWEST_BYTES_S
        with trio.move_on_after(timeout_s):
            while True:
                found = await trio.to_thread.run_sync(self._blobs.get_for_use, blob_id)
                if found is not None:
                    return found
                if (coming := self._coming.get(this)) is not None:
                    # Whoever fetches it may be cancelled; then one of those who wait goes on.
                    await coming.wait()
                    continue
                if length < FILE_BYTES_MIN:
                    small = partial(self._to_memory, blob_id, length, _holders(first, others))
                    return await self._bring(this, small)
                large = partial(
                    self._to_disk, blob_id, length, self._everybody(first, others), claimed=claimed
                )
                return await self._bring(this, large)
        raise PeerFault("blob_missing", f"nobody served {blob_id.hex()} within {timeout_s:g} s")

    def _everybody(self, first: Sequence[MemberId], others: Sequence[MemberId]) -> Holders:
        more = [member for member in others if member not in first]
        self._chance.shuffle(more)  # Or all who fetch it would ask the same few others.
        everybody = (*first, *more)
        return lambda: everybody

    async def _bring(self, this: _Coming, work: Callable[[], Awaitable[bytes]]) -> bytes:
        self._coming[this] = trio.Event()
        try:
            data = await work()
            self.fetched += 1
            return data
        finally:
            self._coming.pop(this).set()

    async def _to_memory(self, blob_id: Digest, length: int, holders: Holders) -> bytes:
        fetched = await self._fetch(blob_id, length, holders)
        await self._keep(fetched.data, blob_id, runs=fetched.runs, durable=False)
        return fetched.data

    async def _to_disk(self, blob_id: Digest, length: int, holders: Holders, *, claimed: bool) -> bytes:
        await self.bring_to_disk(blob_id, length, holders, claimed=claimed)
        data = await trio.to_thread.run_sync(self._blobs.get, blob_id)
        if data is None:
            raise PeerFault("blob_missing", "it was lost as soon as it was here")
        return data

    async def bring_to_disk(
        self, blob_id: Digest, length: int, holders: Holders, *, claimed: bool = False
    ) -> None:
        """Fetch a blob piece by piece into its file, without ever holding it in memory.

        Whoever is cancelled or killed in the middle leaves what has come to whoever asks next.
        """
        arriving = self._blobs.claimed if claimed else self._blobs.arriving
        coming = await self._room_for(arriving, blob_id, length)
        try:
            await self._fetch(blob_id, length, holders, into=_ToDisk(coming))
            await when_there_is_room(partial(self._blobs.adopt, coming))
        finally:
            arriving.close(coming)

    async def _room_for(self, arriving: Arriving, blob_id: Digest, length: int) -> Coming:
        while True:
            try:
                return await when_there_is_room(partial(arriving.open, blob_id, length))
            except Busy:
                await trio.sleep(BUSY_S)

    async def _fetch(self, blob_id: Digest, length: int, holders: Holders, **into: Any) -> Fetched:
        timeout_s = FETCH_S + length / SLOWEST_BYTES_S
        tries = 0
        while True:
            try:
                return await self._network.fetch_blob(blob_id, length, holders, timeout_s=timeout_s, **into)
            except PeerFault:
                await trio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
                tries += 1


class _ToDisk:
    """Where the network puts the pieces of a large blob (`net.interface.Sink`): at most one a holder waits.

    They are written in a thread; while the disk is full or slow, the holder's next piece is not read.
    """

    def __init__(self, coming: Coming) -> None:
        self._coming = coming

    def missing(self) -> list[int]:
        """The pieces that have not come."""
        return self._coming.missing()

    async def keep(self, number: int, piece: Piece, runs: bytes) -> None:
        """Write it."""
        await when_there_is_room(partial(self._coming.keep, number, piece.data, piece.proof, runs))


def _holders(first: Sequence[MemberId], others: Sequence[MemberId]) -> Holders:
    begun = trio.current_time()
    everybody = (*first, *(member for member in others if member not in first))
    return lambda: everybody if trio.current_time() - begun > OTHERS_AFTER_S or not first else first
