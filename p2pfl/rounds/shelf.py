"""The blobs of a node: kept, fetched once however many ask, and shown only to whom they may be shown."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import trio

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net.interface import Fetched
from p2pfl.rounds.patience import when_there_is_room
from p2pfl.store.blobs import BlobStore

# How many blobs a node remembers to whom it may show them; a round of 16 needs about 20.
SHOWN_MAX = 4096
# A fetch that fails is tried again, less and less often, while somebody still waits for it.
RETRY_S = (0.1, 0.3, 1.0, 2.0)
# From then on others than the first holder are asked too.
OTHERS_AFTER_S = 1.0


class Shelf:
    """What this node holds by id, and who may have it.

    `fetch(blob_id, length, holders)` is the network's; it verifies what it returns.
    """

    def __init__(self, blobs: BlobStore, network: Any) -> None:
        self._blobs = blobs
        self._network = network
        self._shown: OrderedDict[Digest, frozenset[MemberId] | None] = OrderedDict()
        self._revealed: OrderedDict[Digest, None] = OrderedDict()
        self._coming: dict[Digest, trio.Event] = {}
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

    def show(self, blob_id: Digest, to: Iterable[MemberId] | None = None) -> None:
        """From now on these members may fetch it too (None: everybody, observers too)."""
        shown = self._shown.get(blob_id, frozenset())
        self._shown[blob_id] = None if to is None or shown is None else shown | frozenset(to)
        self._shown.move_to_end(blob_id)
        while len(self._shown) > SHOWN_MAX:
            self._shown.popitem(last=False)

    def reveal(self, blob_ids: Iterable[Digest]) -> None:
        """From now on observers may have these too, beside those to whom they are shown."""
        for blob_id in blob_ids:
            self._revealed[blob_id] = None
            self._revealed.move_to_end(blob_id)
        while len(self._revealed) > SHOWN_MAX:
            self._revealed.popitem(last=False)

    def may_have(self, sender: MemberId | None, blob_id: Digest) -> bool:
        """Whether this peer may fetch this blob. sender None: an observer."""
        if sender is None and blob_id in self._revealed:
            return True
        if blob_id not in self._shown:
            return False
        audience = self._shown[blob_id]
        return audience is None or sender in audience

    def source(self, sender: MemberId | None, blob_id: Digest) -> Any | None:
        """What the network serves to this peer, or None."""
        return self._blobs.source(blob_id) if self.may_have(sender, blob_id) else None

    async def need(
        self,
        blob_id: Digest,
        length: int,
        first: Sequence[MemberId],
        others: Sequence[MemberId] = (),
        *,
        timeout_s: float = 60.0,
    ) -> bytes:
        """The blob's bytes: from the shelf, or fetched, verified and kept. Raises PeerFault: nobody has it.

        first: who should hold it; others: who may, asked once the first did not answer for a while.
        """
        with trio.move_on_after(timeout_s):
            while True:
                found = await trio.to_thread.run_sync(self._blobs.get, blob_id)
                if found is not None:
                    return found
                if (coming := self._coming.get(blob_id)) is not None:
                    # Whoever fetches it may be cancelled; then one of those who wait goes on.
                    await coming.wait()
                    continue
                return await self._bring(blob_id, length, _holders(first, others))
        raise PeerFault("blob_missing", f"nobody served {blob_id.hex()} within {timeout_s:g} s")

    async def _bring(self, blob_id: Digest, length: int, holders: Callable[[], Sequence[MemberId]]) -> bytes:
        self._coming[blob_id] = trio.Event()
        try:
            fetched = await self._fetch(blob_id, length, holders)
            await self._keep(fetched.data, blob_id, leaves=fetched.leaves, durable=False)
            self.fetched += 1
            return fetched.data
        finally:
            self._coming.pop(blob_id).set()

    async def _fetch(
        self, blob_id: Digest, length: int, holders: Callable[[], Sequence[MemberId]]
    ) -> Fetched:
        tries = 0
        while True:
            try:
                return await self._network.fetch_blob(blob_id, length, holders, timeout_s=30.0)
            except PeerFault:
                await trio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
                tries += 1


def _holders(first: Sequence[MemberId], others: Sequence[MemberId]) -> Callable[[], Sequence[MemberId]]:
    begun = trio.current_time()
    everybody = (*first, *(member for member in others if member not in first))
    return lambda: everybody if trio.current_time() - begun > OTHERS_AFTER_S or not first else first
