"""Chains on this node: the own one, checked and kept, and copies of others', fetched as they grow.

A member follows the council's chain, a seat follows every group's. Nothing is taken on trust: each block
is checked against its parent and its committee's certificate before it is kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from consensus.chain import FIRST_PARENT_ID, BadBlock, History
from consensus.types import Block, DecidedBlock, Digest, Header, MemberId, Started
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.net import wire
from p2pfl.records import CouncilBody, GroupBody, body_root, decode_body
from p2pfl.roster import Roster, UnknownEpoch
from p2pfl.rounds.patience import when_there_is_room
from p2pfl.rounds.pulse import Pulse
from p2pfl.store.blocks import BlockStore
from p2pfl.telemetry import logger

log = logger("rounds.follow")

# How many blocks are asked for at once; the answer is bounded in bytes by the wire as well.
BATCH_BLOCKS = 64
ASK_TIMEOUT_S = 5.0
# Peers are asked for their tip this often, in case an announcement was lost.
POLL_S = 5.0


class Chain:
    """One chain on disk with its verified tip.

    roster: the epochs as far as the council's chain is known here. kept: told of each block, those on disk
    too.
    """

    def __init__(
        self,
        genesis: Genesis,
        name: str,
        blocks: BlockStore,
        roster: Callable[[], Roster],
        kept: Callable[[DecidedBlock], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.group_id = genesis.group_id(name)
        self.blocks = blocks
        self._genesis, self._roster, self._kept = genesis, roster, kept
        self.fits = partial(fits_header, kind=CouncilBody if name == COUNCIL else GroupBody)
        self._turn = trio.Lock()
        self._newest: DecidedBlock | None = None  # Checked, and perhaps still on its way to the disk.
        self._read()

    def _read(self) -> None:
        genesis = self._genesis
        self.history = History(genesis.domain(self.name), genesis.network_id, genesis.committee(self.name))
        self._before: dict[int, Digest] = {0: FIRST_PARENT_ID}
        for decided in self.blocks:
            closing = self._roster().closings.get((self.name, decided.block.header.epoch))
            if closing is not None and decided.block.header.height > closing.height:
                self.blocks.cut(closing.height)  # A crash came between the closing and the cut.
                break
            try:
                self._check(decided)
            except UnknownEpoch:
                # The council's file was moved away: what it does not vouch for is fetched again after it.
                log.warning("a chain is cut: the council's chain here is shorter", group=self.name)
                self.blocks.cut(decided.block.header.height - 1)
                break
            self._kept(decided)

    def _check(self, decided: DecidedBlock) -> None:
        """Raises UnknownEpoch, BadBlock or BadCertificate."""
        header, history = decided.block.header, self.history
        tip, tip_id = history.tip, history.tip_id
        committee, closed = self._roster().decides(self.name, header, tip=tip, tip_id=tip_id)
        history.append(header, decided.certificate, committee=committee, closed=closed)
        self._before.setdefault(header.epoch, tip_id)

    def before(self, epoch: int) -> Digest:
        """The id of the last block before this epoch, zero if there is none: the salt of its filters."""
        return self._before.get(epoch, self.tip_id)

    def last_of_epochs(self, newest: int) -> list[DecidedBlock]:
        """The last block of each epoch up to this one, the oldest first. Reads the whole chain."""
        lasts = {each.block.header.epoch: each for each in self.blocks if each.block.header.epoch <= newest}
        return [lasts[epoch] for epoch in sorted(lasts)]

    async def cut(self, height: int) -> None:
        """Forget the blocks above this height: the council closed the epoch there."""
        async with self._turn:
            await trio.to_thread.run_sync(self.blocks.cut, height)
            self._newest = None
            self._read()

    @property
    def height(self) -> int:
        """Height of the last block, -1 when there is none."""
        return -1 if self.history.tip is None else self.history.tip.height

    @property
    def tip(self) -> Header | None:
        """The last block's header."""
        return self.history.tip

    @property
    def tip_id(self) -> Digest:
        """The last block's id, zero when there is none."""
        return self.history.tip_id

    def started(self, epoch: int) -> Started:
        """Where the next height begins, under the committee of this epoch."""
        tip, tip_id = self.history.tip, self.history.tip_id
        closed = self._roster().closed_at(self.name, epoch, tip, tip_id)
        return Started(tip, tip_id, self.history.log.root(), closed)

    def opens(self, epoch: int) -> bool:
        """Whether the next block is one of this epoch: the epoch before has ended, this one has not."""
        tip, roster = self.history.tip, self._roster()
        if tip is not None and tip.epoch == epoch:
            own = roster.committee(self.name, epoch).root()
            return tip.next_committee_root == own and (self.name, epoch) not in roster.closings
        if (self.name, epoch) in roster.closings or not roster.goes_on(self.name, epoch):
            return False
        if tip is None and epoch == 0:
            return True
        ended = tip is not None and tip.next_committee_root == roster.committee(self.name, epoch).root()
        return ended or roster.closed_at(self.name, epoch, tip, self.history.tip_id)

    def get(self, height: int) -> DecidedBlock | None:
        """The block at this height, if this chain has reached it."""
        newest = self._newest
        if newest is not None and newest.block.header.height == height:
            return newest
        return self.blocks.get(height)

    async def append(self, decided: DecidedBlock) -> None:
        """Check the next block and keep it (durable).

        Raises UnknownEpoch, BadBlock or BadCertificate, and keeps nothing.
        """
        if not self.fits(decided.block):
            raise BadBlock("the body is not the header's")
        async with self._turn:  # An epoch's end is the moment in which two rooms may bring blocks.
            await trio.lowlevel.checkpoint_if_cancelled()  # From here on memory is ahead of the disk.
            self._check(decided)
            self._newest = decided
            await when_there_is_room(partial(self.blocks.append, decided))
            self._kept(decided)

    def slice(self, start: int, count: int) -> tuple[DecidedBlock, ...]:
        """At most `count` blocks from `start` on."""
        last = min(self.height, start + min(count, BATCH_BLOCKS) - 1)
        found = (self.get(height) for height in range(max(start, 0), last + 1))
        return tuple(decided for decided in found if decided is not None)


def fits_header(block: Block, kind: type[Any]) -> bool:
    """Whether a block's body is the one under its header's app root, of this kind."""
    try:
        return body_root(decode_body(block.body, kind)) == block.header.app_root
    except ValueError:
        return False


class Follower:
    """Fetches a chain's blocks as soon as somebody says that there are more.

    take: what to do with the next blocks in their order (for a followed chain: check, keep, act; for the own
    chain: hand them to consensus). It raises BadBlock or BadCertificate for a block that does not follow.
    """

    def __init__(
        self,
        chain: Chain,
        network: Any,
        holders: Callable[[], tuple[MemberId, ...]],
        take: Callable[[DecidedBlock], Awaitable[None]],
        on_fault: Callable[[MemberId, PeerFault], None],
    ) -> None:
        self.chain = chain
        self._network = network
        self._holders = holders
        self._take = take
        self._on_fault = on_fault
        self._ahead: dict[MemberId, int] = {}
        self._pulse = Pulse()

    def tip_seen(self, peer: MemberId, height: int) -> None:
        """A peer says that its chain has this height."""
        if peer in self._holders() and height > self._ahead.get(peer, -1):
            self._ahead[peer] = height
            self._pulse.beat()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._poll)
            while True:
                await self._pulse.until(lambda: self._behind() is not None)
                peer = self._behind()
                if peer is not None:
                    await self._pull(peer)

    def _behind(self) -> MemberId | None:
        """Somebody who is ahead of us."""
        return next((peer for peer, height in self._ahead.items() if height > self.chain.height), None)

    async def _pull(self, peer: MemberId) -> None:
        before = self.chain.height
        request = wire.GetBlocks(self.chain.group_id, before + 1, BATCH_BLOCKS)
        try:
            answer = await self._network.request(peer, request, timeout_s=ASK_TIMEOUT_S)
            if not isinstance(answer, wire.Blocks):
                raise PeerFault("bad_answer", f"{type(answer).__name__} to GetBlocks")
            for decided in answer.blocks:
                if decided.block.header.height == self.chain.height + 1:
                    await self._take(decided)
        except (
            ValueError
        ) as error:  # BadBlock, BadCertificate, DecodeError, or a field that no header can have.
            self._on_fault(peer, PeerFault("bad_block", f"{self.chain.name}: {error}"))
        except UnknownEpoch:
            pass  # The council's chain has to come first; this peer may be asked again.
        except PeerFault as fault:
            self._on_fault(peer, fault)
        if self.chain.height == before:
            # It promised more than it gave: ask somebody else, and this one when it speaks again.
            self._ahead.pop(peer, None)
            await trio.sleep(0.05)

    async def _poll(self) -> None:
        turn = 0
        while True:
            await trio.sleep(POLL_S)
            turn += 1
            holders = self._holders()
            peer = holders[turn % len(holders)] if holders else None
            if peer is None or peer not in self._network.connected:
                continue
            try:
                request = wire.GetStatus(self.chain.group_id)
                status = await self._network.request(peer, request, timeout_s=ASK_TIMEOUT_S)
            except PeerFault as fault:
                log.debug("a peer did not say its tip", peer=peer.hex(), why=str(fault))
                continue
            if isinstance(status, wire.Status):
                self.tip_seen(peer, status.height)
