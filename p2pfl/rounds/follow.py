"""Blocks that others decided: fetched as chains grow, many at once by whoever was away.

A member follows the council's chain and its own, a seat follows every group's. Who is asked is in `incoming`,
what makes a block right in `chain`; here is that one after the other is looked at and handed on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from consensus.types import MemberId
from p2pfl.errors import PeerFault
from p2pfl.net import wire
from p2pfl.roster import UnknownEpoch
from p2pfl.rounds.chain import Chain, Checked
from p2pfl.rounds.incoming import ASK_TIMEOUT_S, Incoming
from p2pfl.telemetry import logger

log = logger("rounds.follow")

# Peers are asked for their tip this often, in case an announcement was lost.
POLL_S = 5.0
# Whoever keeps so many blocks at once, and knows of more, catches up; a group decides no two at once.
MANY_BLOCKS = 8
# One who catches up and gets nothing for so long is as well off at the tip that it knows.
STALL_S = 3.0
LOOK_AGAIN_S = 1.0
INF = float("inf")
# How often the log says how far it has come.
PROGRESS_S = 10.0


class Follower:
    """Fetches a chain's blocks as soon as somebody says that there are more.

    take: what to do with the next blocks, which were looked at (for a followed chain: keep, act; for the own
    chain: hand them to consensus). What does not take them is asked again.
    """

    def __init__(
        self,
        chain: Chain,
        network: Any,
        holders: Callable[[], tuple[MemberId, ...]],
        take: Callable[[Checked], Awaitable[None]],
        on_fault: Callable[[MemberId, PeerFault], None],
    ) -> None:
        self.chain = chain
        self._network = network
        self._holders = holders
        self._take = take
        self._incoming = Incoming(chain, network, holders, on_fault)
        self._since: tuple[float, int] | None = None  # When and at which height it began to catch up.
        self._told_s = 0.0
        self._sought = chain.sought
        self._came_s = 0.0  # When certified blocks came last.

    def tip_seen(self, peer: MemberId, height: int) -> None:
        """A peer says that its chain has this height."""
        if peer in self._holders():
            self._incoming.claims(peer, height)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._poll)
            nursery.start_soon(self._incoming.run)
            while True:
                # The chain may grow without us: what came for later may be next.
                wait_s = (
                    STALL_S if self.chain.catching_up else LOOK_AGAIN_S if self._incoming.has_any else INF
                )
                if await self._incoming.pulse.until(self._incoming.is_next_here, timeout_s=wait_s):
                    await self._look()
                if self.chain.catching_up and trio.current_time() - self._came_s >= STALL_S:
                    self._caught_up("nobody gives more")  # Or what does not hold, again and again.

    async def _look(self) -> None:
        """Look at what came, and hand on what is good."""
        came, before = self._incoming.next_blocks(), self.chain.height
        try:
            checked = await self.chain.look([each.block for each in came])
        except UnknownEpoch:  # The council's chain has to come first; or there is no such epoch.
            self._incoming.put_off(came[0].holder)
            return
        except ValueError as error:  # BadBlock, BadCertificate, DecodeError, or a field no header can have.
            self._refuse(came[0].holder, before, error)
            return
        self._incoming.held_good(came[: len(checked.blocks)])
        self._begin(len(checked.blocks))
        await self._take(checked)
        self._came_s = trio.current_time()  # The disk may have taken its time.
        self._incoming.pulse.beat()  # There is room for more.
        if checked.bad is not None:
            self._refuse(came[len(checked.blocks)].holder, before, checked.bad)
        if self.chain.height <= before:
            await trio.sleep(0.05)  # Consensus is busy, or the chain was cut.
        self._tell(len(came))

    def _refuse(self, holder: MemberId, before: int, error: Exception) -> None:
        if (
            self.chain.height >= before
        ):  # A chain that was cut meanwhile says nothing against who gave the blocks.
            self._incoming.refuse(holder, PeerFault("bad_block", f"{self.chain.name}: {error}"))

    # -- how far it has come -----------------------------------------------------

    def _begin(self, count: int) -> None:
        """So many certified blocks are here: that cannot be made up."""
        self._came_s = trio.current_time()
        if count >= MANY_BLOCKS and self._incoming.behind > count and not self.chain.catching_up:
            self._since = (trio.current_time(), self.chain.height)
            self._told_s = trio.current_time()
            self.chain.catch_up(True)
            log.info(
                "catching up", chain=self.chain.name, height=self.chain.height, behind=self._incoming.behind
            )

    def _tell(self, count: int) -> None:
        if not self.chain.catching_up:
            return
        last = count < MANY_BLOCKS and not self._incoming.is_next_here()
        if last or not self._incoming.behind:
            self._caught_up()
        elif trio.current_time() - self._told_s >= PROGRESS_S:
            self._told_s = trio.current_time()
            behind = self._incoming.behind
            log.info("still catching up", chain=self.chain.name, height=self.chain.height, behind=behind)

    def _caught_up(self, why: str = "") -> None:
        assert self._since is not None
        (since_s, height), self._since = self._since, None
        self.chain.catch_up(False)
        fields = {"blocks": self.chain.height - height, "seconds": round(trio.current_time() - since_s, 1)}
        told = {"why": why} if why else {}
        log.info("caught up", chain=self.chain.name, height=self.chain.height, **fields, **told)

    async def _poll(self) -> None:
        """One after the other in turn; all of them when somebody waits for blocks."""
        turn = 0
        async with trio.open_nursery() as nursery:
            while True:
                is_sought = await self.chain.grown.until(self._is_sought, timeout_s=POLL_S)
                self._sought = self.chain.sought
                turn += 1
                holders = self._holders()
                asked = holders if is_sought else holders[turn % max(1, len(holders)) :][:1]
                for peer in asked:
                    if peer in self._network.connected:
                        nursery.start_soon(self._ask_tip, peer)

    def _is_sought(self) -> bool:
        return self.chain.sought > self._sought

    async def _ask_tip(self, peer: MemberId) -> None:
        try:
            request = wire.GetStatus(self.chain.group_id)
            status = await self._network.request(peer, request, timeout_s=ASK_TIMEOUT_S)
        except PeerFault as fault:
            log.debug("a peer did not say its tip", peer=peer.hex(), why=str(fault))
            return
        if isinstance(status, wire.Status):
            self.tip_seen(peer, status.height)
