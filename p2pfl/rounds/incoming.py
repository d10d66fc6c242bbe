"""Blocks of one chain on their way here: which holder is asked for which heights, and what has come.

    kept .. | came | asked of one | came | asked of another | not asked yet .. | what somebody claims to have

Several holders are asked at once, the next batch while the last is looked at. Who is slow, silent or promises
more than it has is left for another. Knows neither what a block says nor whether it follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from consensus.types import DecidedBlock, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net import wire
from p2pfl.net.interface import Unreachable
from p2pfl.rounds.chain import BATCH_BLOCKS, Chain
from p2pfl.rounds.pulse import Pulse

# Blocks that are here and not kept yet: enough that looking never waits for a round trip of half a second.
AHEAD_BLOCKS = 8 * BATCH_BLOCKS
# And in bytes: a holder's answer has 4 MiB at most, so catching up costs 24 MiB of memory at the worst.
AHEAD_BYTES = 8 * 1024 * 1024
# Holders that are asked at the same time; more do not help against our own link and processor.
HOLDERS_AT_ONCE = 4
# An answer of 64 blocks of 16 KiB takes a second at 8 Mbit/s; who needs longer is asked for fewer next time.
ASK_TIMEOUT_S = 5.0
# What all the others wait for is asked of a second holder after so long.
TWICE_AFTER_S = 1.0
# Who gives few large blocks at a time is asked no more often than the wire allows: 20 times a second.
SHORT_AGAIN_S = 0.06
# Who failed is asked again after so long, then less often.
AGAIN_S, AGAIN_MAX_S = 0.5, 30.0
# Who gives blocks of an epoch that is not known here is asked again after so long, then less often: it may be
# ahead of the council's chain as it is here, or lie. Soon, since the council's block is on its way as a rule.
EARLY_S, EARLY_MAX_S = 0.25, 2.0


@dataclass(frozen=True, slots=True)
class Came:
    """A block, and who gave it. size: its bytes, about."""

    block: DecidedBlock
    holder: MemberId
    size: int


@dataclass
class _Asked:
    """Heights that are asked of somebody."""

    heights: range
    holders: set[MemberId]
    since_s: float


@dataclass
class _Standing:
    """What is remembered of a holder. batch: how many blocks it is asked for.

    early: how often its next block was of an epoch that is not known here, since the chain has grown.
    """

    claimed: int = -1
    batch: int = BATCH_BLOCKS
    failed: int = 0
    early: int = 0
    not_before_s: float = 0.0


@dataclass
class Incoming:
    """What is asked and what came, of one chain. `pulse` beats when something came."""

    chain: Chain
    network: Any
    holders: Callable[[], Sequence[MemberId]]
    on_fault: Callable[[MemberId, PeerFault], None]
    pulse: Pulse = field(default_factory=Pulse)
    _standings: dict[MemberId, _Standing] = field(default_factory=dict[MemberId, _Standing])
    _came: dict[int, Came] = field(default_factory=dict[int, Came])
    _bytes: int = 0
    _kept: int = -1
    _asked: list[_Asked] = field(default_factory=list[_Asked])
    _busy: set[MemberId] = field(default_factory=set[MemberId])

    def claims(self, peer: MemberId, height: int) -> None:
        """A holder says that its chain has this height."""
        standing = self._standings.setdefault(peer, _Standing())
        if height > max(standing.claimed, self.chain.height):
            standing.claimed = height
            self.pulse.beat()

    @property
    def behind(self) -> int:
        """By how many blocks, if what the holders claim is true."""
        best = max((each.claimed for each in self._standings.values()), default=-1)
        return max(0, best - self.chain.height)

    @property
    def has_any(self) -> bool:
        """Whether something has come that is not kept yet."""
        return bool(self._came)

    def is_next_here(self) -> bool:
        """Whether the next block has come."""
        return self.chain.height + 1 in self._came

    def next_blocks(self) -> list[Came]:
        """What has come and is next, at most a batch."""
        first = self.chain.height + 1
        heights = range(first, first + BATCH_BLOCKS)
        here = next((height for height in heights if height not in self._came), heights.stop)
        return [self._came[height] for height in range(first, here)]

    def held_good(self, came: Sequence[Came]) -> None:
        """These were looked at and hold: who gave them has answered well, and only that is forgiven for."""
        for each in came:
            self._standings[each.holder].failed = 0

    def refuse(self, holder: MemberId, fault: PeerFault) -> None:
        """A block that it gave is not right: nothing that it gave is looked at, and it waits."""
        self._drop_all_of(holder)
        self._failed(holder, fault)
        self.pulse.beat()

    def put_off(self, holder: MemberId) -> None:
        """The next block is of an epoch that is not known here, which says nothing against who gave it.

        It was not checked, so others are asked for it, and this one later; nobody for more than that block.
        """
        self._drop_all_of(holder)
        standing = self._standings[holder]
        wait_s = min(EARLY_MAX_S, EARLY_S * 2.0 ** min(standing.early, 10))
        standing.not_before_s = trio.current_time() + wait_s
        standing.early += 1
        self.pulse.beat()

    async def run(self) -> None:
        """Ask until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                wait_s = self._start(nursery)
                await self.pulse.sleep_or_beat(wait_s)

    # -- whom to ask for what ---------------------------------------------------

    def _start(self, nursery: trio.Nursery) -> float:
        """Ask whoever is free for something that is missing. Returns when to look again."""
        if self.chain.height > self._kept:
            for standing in self._standings.values():
                standing.early = 0
        was_cut, self._kept = self.chain.height < self._kept, self.chain.height
        for height in [height for height in self._came if height <= self.chain.height or was_cut]:
            self._drop(height)  # Kept by now; or void, perhaps, since the council closed an epoch.
        now, wait_s = trio.current_time(), float("inf")
        known = set(self.holders())
        for holder, standing in self._standings.items():
            if standing.claimed <= self.chain.height or holder not in known or holder in self._busy:
                continue
            if len(self._busy) >= HOLDERS_AT_ONCE:
                break
            if standing.not_before_s > now:
                wait_s = min(wait_s, standing.not_before_s - now)
                continue
            asked = self._missing(holder, standing) or self._late(holder, standing)
            if asked is not None:
                self._busy.add(holder)
                nursery.start_soon(self._ask, holder, asked)
        return min(wait_s, TWICE_AFTER_S / 2) if self._asked else wait_s

    def _missing(self, holder: MemberId, standing: _Standing) -> _Asked | None:
        """The lowest heights that nobody is asked for, as far as there is room for them."""
        first = self.chain.height + 1
        waits = self._came.keys() | {height for each in self._asked for height in each.heights}
        is_early = any(each.early for each in self._standings.values())
        end = first + 1 if is_early else 1 + min(standing.claimed, self.chain.height + AHEAD_BLOCKS)
        start = next((height for height in range(first, end) if height not in waits), end)
        end = min(end, start + standing.batch)
        end = next((height for height in range(start, end) if height in waits), end)
        full = self._bytes >= AHEAD_BYTES and start > first
        if start >= end or full:
            return None
        asked = _Asked(range(start, end), {holder}, trio.current_time())
        self._asked.append(asked)
        return asked

    def _late(self, holder: MemberId, standing: _Standing) -> _Asked | None:
        """What is next and another has owed for too long."""
        first = self.chain.height + 1
        while first in self._came:
            first += 1
        for asked in self._asked:
            late = asked.since_s + TWICE_AFTER_S <= trio.current_time() and len(asked.holders) == 1
            if first in asked.heights and late and holder not in asked.holders and standing.claimed >= first:
                asked.holders.add(holder)
                return asked
        return None

    # -- asking -----------------------------------------------------------------

    async def _ask(self, holder: MemberId, asked: _Asked) -> None:
        standing, heights = self._standings[holder], asked.heights
        begun_s = trio.current_time()
        request = wire.GetBlocks(self.chain.group_id, heights.start, len(heights))
        try:
            answer = await self.network.request(holder, request, timeout_s=ASK_TIMEOUT_S)
            if not isinstance(answer, wire.Blocks):
                raise PeerFault("bad_answer", f"{type(answer).__name__} to GetBlocks")
            self._take(holder, standing, heights, answer.blocks)
        except Unreachable as error:
            slow = trio.current_time() - begun_s >= ASK_TIMEOUT_S
            standing.batch = max(1, standing.batch // 4)
            late = PeerFault("slow", f"{len(heights)} blocks took more than {ASK_TIMEOUT_S:g} s")
            self._failed(holder, late if slow else error)
        except PeerFault as fault:
            self._failed(holder, fault)
        finally:
            asked.holders.discard(holder)
            if not asked.holders or all(h in self._came or h <= self.chain.height for h in heights):
                self._asked = [each for each in self._asked if each is not asked]
            self._busy.discard(holder)
            self.pulse.beat()

    def _take(
        self, holder: MemberId, standing: _Standing, heights: range, blocks: Sequence[DecidedBlock]
    ) -> None:
        """Blocks came: fewer than were asked for if more would not fit an answer."""
        if not blocks:
            told, standing.claimed = standing.claimed, -1  # It is believed when it speaks again.
            raise PeerFault("false_tip", f"it told of block {told} and has no block {heights.start}")
        if [each.block.header.height for each in blocks] != list(heights[: len(blocks)]):
            raise PeerFault("bad_block", "other heights than were asked for")
        for decided in blocks:
            height = decided.block.header.height
            if height > self.chain.height and height not in self._came:
                size = len(decided.block.body) + 512 + 80 * len(decided.certificate.signatures)
                self._came[height] = Came(decided, holder, size)
                self._bytes += size
        standing.batch = min(BATCH_BLOCKS, 2 * standing.batch)
        if len(blocks) < len(heights):
            standing.not_before_s = trio.current_time() + SHORT_AGAIN_S

    def _drop_all_of(self, holder: MemberId) -> None:
        for height in [height for height, each in self._came.items() if each.holder == holder]:
            self._drop(height)

    def _drop(self, height: int) -> None:
        self._bytes -= self._came.pop(height).size

    def _failed(self, holder: MemberId, fault: PeerFault) -> None:
        standing = self._standings[holder]
        standing.not_before_s = trio.current_time() + min(
            AGAIN_MAX_S, AGAIN_S * 2.0 ** min(standing.failed, 10)
        )
        standing.failed += 1
        self.on_fault(holder, fault)
