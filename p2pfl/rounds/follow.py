"""Chains on this node: the own one, checked and kept, and copies of others', fetched as they grow.

A member follows the council's chain, a seat follows every group's. Nothing is taken on trust: each block
is checked against its parent and its committee's certificate before it is kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from consensus.chain import BadBlock, History
from consensus.codec import DecodeError
from consensus.types import DecidedBlock, Digest, Header, MemberId, Started
from consensus.votes import BadCertificate
from p2pfl.errors import PeerFault
from p2pfl.genesis import Genesis
from p2pfl.net import wire
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
    """One chain on disk with its verified tip."""

    def __init__(self, genesis: Genesis, name: str, blocks: BlockStore) -> None:
        self.name = name
        self.group_id = genesis.group_id(name)
        self.blocks = blocks
        self.history = History(genesis.domain(name), genesis.network_id, genesis.committee(name))
        self._newest: DecidedBlock | None = None  # Checked, and perhaps still on its way to the disk.
        for decided in blocks:
            self.history.append(decided.block.header, decided.certificate)

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

    def started(self) -> Started:
        """Where the next height begins."""
        return Started(self.history.tip, self.history.tip_id, self.history.log.root())

    def get(self, height: int) -> DecidedBlock | None:
        """The block at this height, if this chain has reached it."""
        newest = self._newest
        if newest is not None and newest.block.header.height == height:
            return newest
        return self.blocks.get(height)

    async def append(self, decided: DecidedBlock) -> None:
        """Check the next block and keep it (durable). Raises BadBlock or BadCertificate and keeps nothing."""
        self.history.append(decided.block.header, decided.certificate)
        self._newest = decided
        await when_there_is_room(partial(self.blocks.append, decided))

    def slice(self, start: int, count: int) -> tuple[DecidedBlock, ...]:
        """At most `count` blocks from `start` on."""
        last = min(self.height, start + min(count, BATCH_BLOCKS) - 1)
        found = (self.get(height) for height in range(max(start, 0), last + 1))
        return tuple(decided for decided in found if decided is not None)


class Follower:
    """Fetches a chain's blocks as soon as somebody says that there are more.

    take: what to do with the next blocks in their order (for a followed chain: check, keep, act; for the own
    chain: hand them to consensus). It raises BadBlock or BadCertificate for a block that does not follow.
    """

    def __init__(
        self,
        chain: Chain,
        network: Any,
        holders: tuple[MemberId, ...],
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
        if peer in self._holders and height > self._ahead.get(peer, -1):
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
        except (BadBlock, BadCertificate, DecodeError) as error:
            self._on_fault(peer, PeerFault("bad_block", f"{self.chain.name}: {error}"))
        except PeerFault as fault:
            self._on_fault(peer, fault)
        if self.chain.height == before:
            # It promised more than it gave: ask somebody else, and this one when it speaks again.
            self._ahead.pop(peer, None)
            await trio.sleep(0.05)

    async def _poll(self) -> None:
        turn = 0
        while self._holders:
            await trio.sleep(POLL_S)
            turn += 1
            peer = self._holders[turn % len(self._holders)]
            if peer not in self._network.connected:
                continue
            try:
                request = wire.GetStatus(self.chain.group_id)
                status = await self._network.request(peer, request, timeout_s=ASK_TIMEOUT_S)
            except PeerFault as fault:
                log.debug("a peer did not say its tip", peer=peer.hex(), why=str(fault))
                continue
            if isinstance(status, wire.Status):
                self.tip_seen(peer, status.height)
