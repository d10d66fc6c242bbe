"""Which blobs of the past a node keeps: in the background, what is old and needed by nobody goes.

    keep_blobs_epochs = 2:      epoch 0 .. 3           4          5, the newest
    blobs                       go, but for those      stay       stay
                                still needed
    blocks                      stay                   stay       stay

Knows which blobs a block names and what a case, a replay or an audit of a kept block has to look at. A crash
in the middle leaves some of the old ones: the next start goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import trio

from consensus.types import ZERO_DIGEST, DecidedBlock, Digest, MemberId
from p2pfl.genesis import COUNCIL
from p2pfl.records import CouncilBody, GroupBody, decode_body
from p2pfl.rounds.chain import Chain
from p2pfl.rounds.context import Context
from p2pfl.rounds.served import BLOCKS
from p2pfl.rules.state import CaseState, CouncilState
from p2pfl.store import BlobStore, Store
from p2pfl.telemetry import counters, logger

log = logger("rounds.retention")

# Blocks that are looked through before others may have the interpreter; a body takes 0.2 ms.
AT_ONCE_BLOCKS, REST_S = 8, 0.002
# How often the size of the folder is looked at; a file takes some microseconds.
DISK_S = 60.0


class Retention:
    """Deletes what is old whenever a new epoch begins; tells how much the disk holds.

    chains: those that lie here, the council's too.
    """

    def __init__(
        self, context: Context, chains: Callable[[], Iterable[Chain]], store: Store, *, keep_epochs: int
    ) -> None:
        self._council, self._chains, self._shelf = context.council, chains, context.shelf
        self._blobs, self._notes, self._observe = store.blobs, store.notes, context.observe
        self._keep_epochs = keep_epochs

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_disk)
            for chain in tuple(self._chains()):
                await trio.to_thread.run_sync(self._show, chain)
            done = -1
            while self._keep_epochs:
                await self._council.chain.until_caught_up()
                epoch = self._council.tip.roster.epoch
                if epoch >= self._keep_epochs:
                    await self.prune()
                done = epoch
                await self._council.pulse.until(lambda done=done: self._council.tip.roster.epoch != done)

    def _show(self, chain: Chain) -> None:
        """What may be seen stays in sight after a restart, as far back as it is kept: see `served`."""
        roster = self._council.tip.roster
        seats, audiences = roster.newest(COUNCIL).members, dict[int, frozenset[MemberId]]()
        for decided, body in _blocks(chain, chain.height):
            for blob_id in public(body):
                if blob_id != ZERO_DIGEST and self._blobs.has(blob_id):
                    self._shelf.show_past(blob_id)
            if isinstance(body, GroupBody):
                epoch = decided.block.header.epoch
                if epoch not in audiences:
                    members = roster.committee(chain.name, epoch).members
                    audiences[epoch] = frozenset((*members, *seats))
                for signed in body.txs:
                    if self._blobs.has(signed.tx.blob_id):
                        self._shelf.show_past(signed.tx.blob_id, audiences[epoch])

    async def prune(self) -> int:
        """Delete what is old and not needed. Returns how many blobs went."""
        state, chains = self._council.tip, {chain.name: chain for chain in self._chains()}
        oldest = state.roster.epoch - self._keep_epochs + 1
        self._shelf.hold_only({entry.case.case_id for entry in state.open_cases()})
        keep = await trio.to_thread.run_sync(needed, state, chains, oldest)
        keep |= self._shelf.held()  # Now, not before: a case may have been opened meanwhile.
        before_ms = written_before_ms(state, chains.values(), oldest)
        dropped = await trio.to_thread.run_sync(lambda: self._blobs.prune(keep, older_than_ms=before_ms))
        if dropped:
            self._notes.add("retention", {"epochs_before": oldest, "blobs": dropped})
            log.info("old blobs were deleted", epochs_before=oldest, blobs=dropped, needed=len(keep))
        self._observe("pruned", {"epochs_before": oldest, "blobs": dropped})
        return dropped

    async def _watch_disk(self) -> None:
        while True:
            size = await trio.to_thread.run_sync(bytes_of, self._blobs)
            counters.gauge("blobs_bytes", size)
            self._observe("disk", {"blobs_bytes": size})
            await trio.sleep(DISK_S)


# ---------------------------------------------------------------------------
# What is needed.


def needed(state: CouncilState, chains: Mapping[str, Chain], oldest: int) -> set[Digest]:
    """The blobs that the blocks of epoch `oldest` and later name or were made from, and those still in use.

    In use: the newest base, blocks that the council has not counted, the newest of each chain, which others
    may be fetching, blocks about which a case is open or was opened or ended since, and what was measured of
    it. What a case's opening is before somebody measured it only the shelf knows (`Shelf.held`).
    """
    genesis = state.network
    keep = {genesis.initial_base_id, state.base_id, state.root_update_id}
    about: set[tuple[Digest, int]] = set()
    for entry in _cases_that_matter(state, chains[COUNCIL], oldest):
        about.add((entry.case.group_id, entry.case.height))
        keep |= {each.measurement.opening_id for each in entry.measured}
    for chain in chains.values():
        counted = state.counted[chain.group_id][0] if chain.group_id in state.counted else chain.height
        for decided, body in _blocks(chain, chain.height):
            header = decided.block.header
            recent = header.height > min(counted, chain.height - BLOCKS)
            if header.epoch < oldest and not recent:
                break
            keep |= _with_what_it_was_made_from(chain, body, header.height, chains[COUNCIL])
        for group_id, height in about:
            if group_id == chain.group_id and (decided := chain.get(height)) is not None:
                body = decode_body(decided.block.body, GroupBody)
                keep |= _with_what_it_was_made_from(chain, body, height, chains[COUNCIL])
    return keep


def written_before_ms(state: CouncilState, chains: Iterable[Chain], oldest: int) -> int:
    """What was written before is of a block, if it is of any: nothing of an open height is as old as that."""
    roster = state.roster
    times = [roster.seatings[oldest].began_ms]
    for chain in chains:
        if chain.tip is not None and chain.name in roster.now.committees:
            times.append(chain.tip.time_ms)
    return min(times) - 2 * state.network.times.clock_skew_ms


def public(body: GroupBody | CouncilBody) -> tuple[Digest, ...]:
    """The blobs of a block that everybody may have."""
    if isinstance(body, CouncilBody):
        return (body.base_id, body.root_update_id)
    return (body.aggregate_id,)


def _named(body: GroupBody | CouncilBody) -> set[Digest]:
    if isinstance(body, GroupBody):
        return {*public(body), *(signed.tx.blob_id for signed in body.txs)}
    opened = {signed.measurement.opening_id for signed in body.measurements}
    reasoned = {each.blob_id for case in body.cases for each in case.candidates}
    return {*public(body), *opened, *reasoned, *(each.aggregate_id for each in body.counted)}


def _with_what_it_was_made_from(
    chain: Chain, body: GroupBody | CouncilBody, height: int, council: Chain
) -> set[Digest]:
    """What a replay or an auditor needs to derive this block again."""
    found = _named(body)
    before = [(chain, height - 1)]
    if isinstance(body, GroupBody):
        # The first own block may take back the one before, which the council has counted.
        own = body.base.own_heights
        before += [(council, body.base.council_height), *((chain, each) for each in own)]
        before += [(chain, own[0] - 1)] if own else []
    for other, at in before:
        decided = other.get(at) if at >= 0 else None
        if decided is not None:
            kind = CouncilBody if other.name == COUNCIL else GroupBody
            found |= set(public(decode_body(decided.block.body, kind)))
    return found


def _cases_that_matter(state: CouncilState, council: Chain, oldest: int) -> Iterator[CaseState]:
    for entry in state.cases.values():
        if entry.awaits_measurements or entry.due_verdict() is not None or _since(entry, council, oldest):
            yield entry


def _since(entry: CaseState, council: Chain, oldest: int) -> bool:
    ended = council.get(entry.outcome_height) if entry.outcome_height >= 0 else None
    return entry.opened_epoch >= oldest or (ended is not None and ended.block.header.epoch >= oldest)


def _blocks(chain: Chain, height: int) -> Iterator[tuple[DecidedBlock, GroupBody | CouncilBody]]:
    """The blocks from this height down, and their bodies; not so fast that the event loop would notice."""
    kind = CouncilBody if chain.name == COUNCIL else GroupBody
    for at in range(height, -1, -1):
        decided = chain.get(at)
        if decided is None:
            return
        yield decided, decode_body(decided.block.body, kind)
        if at % AT_ONCE_BLOCKS == 0:
            time.sleep(REST_S)  # Of a thread.


def bytes_of(blobs: BlobStore) -> int:
    """How many bytes the blobs have on the disk."""
    total = 0
    for blob_id in list(blobs.ids()):
        try:
            total += blobs.path(blob_id).stat().st_size
        except FileNotFoundError:
            continue
    return total
