"""The blobs of the past, for whoever wants a whole archive: one after the other, slowly, the newest first.

A node needs the newest base and what follows on it; no vote needs anything of this. Knows which blobs a block
names and who held them; who still serves them is their business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import trio

from consensus.types import ZERO_DIGEST, Digest, Header, MemberId
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.params import MODEL_BYTES_MAX, byte_length
from p2pfl.records import CouncilBody, GroupBody, decode_body
from p2pfl.rounds.chain import Chain
from p2pfl.rounds.context import Context
from p2pfl.rounds.retention import Retention
from p2pfl.store import Store
from p2pfl.store.options import StoreOptions
from p2pfl.telemetry import logger

log = logger("rounds.archive")

# A blob that nobody serves is waited for so long; there may be thousands of them.
FETCH_S = 10.0
# How often it is looked whether there are new blocks; what is new comes by itself while it is in use.
AGAIN_S = 60.0


@dataclass(frozen=True)
class _Wanted:
    blob_id: Digest
    length: int
    holders: tuple[MemberId, ...]
    public: bool


class Archive:
    """Fetches what blocks of the past name, as the settings say."""

    def __init__(
        self, context: Context, chains: Callable[[], Iterable[Chain]], options: StoreOptions
    ) -> None:
        self._context, self._chains, self._options = context, chains, options
        self._done: dict[str, int] = {}  # Up to which height each chain was gone through.

    async def run(self) -> None:
        """Until cancelled."""
        while self._options.history != "none":
            for chain in tuple(self._chains()):
                await self._walk(chain)
            await trio.sleep(AGAIN_S)

    async def _walk(self, chain: Chain) -> None:
        await chain.until_caught_up()
        newest, fetched, missing = chain.height, 0, 0
        for height in range(newest, self._done.get(chain.name, -1), -1):
            for wanted in await trio.to_thread.run_sync(self._wanted, chain, height):
                if await self._context.shelf.has(wanted.blob_id):
                    continue
                if await self._fetch(wanted):
                    fetched += 1
                    await trio.sleep(wanted.length / (self._options.history_kib_s * 1024))
                else:
                    missing += 1
                await chain.until_caught_up()
        self._done[chain.name] = newest
        if fetched or missing:
            log.info("blobs of the past", chain=chain.name, height=newest, fetched=fetched, missing=missing)

    async def _fetch(self, wanted: _Wanted) -> bool:
        shelf = self._context.shelf
        try:
            await shelf.need(wanted.blob_id, wanted.length, wanted.holders, timeout_s=FETCH_S)
        except PeerFault as fault:
            log.debug("a blob of the past is not to be had", blob=wanted.blob_id.hex(), why=str(fault))
            return False
        if wanted.public:
            shelf.show_past(wanted.blob_id)
        return True

    def _wanted(self, chain: Chain, height: int) -> list[_Wanted]:
        decided = chain.get(height)
        if decided is None:
            return []
        header = decided.block.header
        roster, keep = self._context.roster, self._options.keep_blobs_epochs
        if keep and header.epoch <= roster.epoch - keep:
            return []  # It would be deleted again.
        kind = CouncilBody if chain.name == COUNCIL else GroupBody
        body = decode_body(decided.block.body, kind)
        found = (
            self._of_council(body) if isinstance(body, CouncilBody) else self._of_group(chain, header, body)
        )
        return [each for each in found if each.blob_id != ZERO_DIGEST]

    def _of_council(self, body: CouncilBody) -> Iterator[_Wanted]:
        seats, layout = self._others(self._context.seats), self._context.genesis.task.layout
        members = tuple(each for each in self._others(self._context.roster.entries) if each not in seats)
        yield _Wanted(body.base_id, byte_length("base", layout), (*seats, *members), public=True)
        length = byte_length("update", layout, body.exponents)
        yield _Wanted(body.root_update_id, length, (*seats, *members), public=True)

    def _of_group(self, chain: Chain, header: Header, body: GroupBody) -> Iterator[_Wanted]:
        context, layout = self._context, self._context.genesis.task.layout
        committee = context.roster.committee(chain.name, header.epoch).members
        seats, members = self._others(context.seats), self._others(committee)
        length = byte_length("update", layout, body.exponents)
        yield _Wanted(body.aggregate_id, length, (*members, *seats), public=True)
        if self._options.history == "all" and context.me in (*committee, *context.seats):
            for tx in (signed.tx for signed in body.txs):
                # What was not revealed nobody has, and its length is whatever the member wrote.
                if tx.member in body.unrevealed or not 0 < tx.byte_length <= MODEL_BYTES_MAX:
                    continue
                yield _Wanted(tx.blob_id, tx.byte_length, (*members, *seats), public=False)

    def _others(self, members: Iterable[MemberId]) -> tuple[MemberId, ...]:
        return tuple(each for each in members if each != self._context.me)


async def keep_house(
    context: Context, chains: Callable[[], Iterable[Chain]], store: Store, options: StoreOptions
) -> None:
    """Delete what is old, fetch what is wanted of the past. Until cancelled."""
    retention = Retention(context, chains, store, keep_epochs=options.keep_blobs_epochs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(retention.run)
        nursery.start_soon(Archive(context, chains, options).run)
