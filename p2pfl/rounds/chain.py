"""One chain on this node: checked block by block, kept, and told to whoever works with it.

Nothing is taken on trust: each block is checked against its parent and its committee's certificate before it
is kept. Many at once are looked at in a thread, and kept with one wait for the disk. Knows no peer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from consensus.chain import FIRST_PARENT_ID, BadBlock, History
from consensus.types import Block, DecidedBlock, Digest, Header, Started
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.records import CouncilBody, GroupBody, body_root, decode_body
from p2pfl.roster import Roster, UnknownEpoch
from p2pfl.rounds.patience import when_there_is_room
from p2pfl.rounds.pulse import Pulse
from p2pfl.store.blocks import BlockStore
from p2pfl.telemetry import logger

log = logger("rounds.chain")

# How many blocks one answer holds at most; it is bounded in bytes by the wire as well.
BATCH_BLOCKS = 64

# Tries the next blocks on what was there before: raises ValueError or KeyError for one that cannot follow.
Trial = Callable[[DecidedBlock, Any], None]


@dataclass(frozen=True)
class Checked:
    """Blocks of one epoch that follow a chain's tip: headers, certificates and bodies hold.

    bodies: theirs, parsed. parent_id: what the first follows. history: with them. bad: what is wrong with the
    block that was to come after them.
    """

    blocks: tuple[DecidedBlock, ...]
    bodies: tuple[Any, ...]
    parent_id: Digest
    history: History
    roster: Roster
    bad: Exception | None = None

    @property
    def height(self) -> int:
        """Of the last."""
        return self.blocks[-1].block.header.height


class Chain:
    """One chain on disk with its verified tip.

    roster: the epochs as far as the council's chain is known here. kept: told of each block, those on disk
    too. trial: begins to try whether blocks can follow what they say, or what the council says. sought: how
    often the next blocks were wanted of whoever has them.

    catching_up: certified blocks come many at once, and more are on their way: what is done now for the tip
    that is known is in vain. `grown` beats when that changes, and with each block.
    """

    def __init__(
        self,
        genesis: Genesis,
        name: str,
        blocks: BlockStore,
        roster: Callable[[], Roster],
        kept: Callable[[DecidedBlock], None] = lambda _: None,
        trial: Callable[[], Trial] = lambda: lambda _, __: None,
    ) -> None:
        self.name = name
        self.group_id = genesis.group_id(name)
        self.blocks = blocks
        self.catching_up = False
        self.sought = 0
        self.grown = Pulse()
        self._genesis, self._roster, self._kept, self._trial = genesis, roster, kept, trial
        self._kind = CouncilBody if name == COUNCIL else GroupBody
        self.fits = partial(fits_header, kind=self._kind)
        self._turn = trio.Lock()
        # Checked, and perhaps still on their way to the disk.
        self._newest: dict[int, DecidedBlock] = {}
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
        """Forget the blocks above this height: the council closed the epoch there, or counted others."""
        async with self._turn:
            await trio.to_thread.run_sync(self.blocks.cut, height)
            self._newest = {}
            self._read()
            self.seek()

    def seek(self) -> None:
        """Somebody waits for blocks that are not here: not only the next in turn is asked for its tip."""
        self.sought += 1
        self.grown.beat()

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
        return self._newest.get(height) or self.blocks.get(height)

    async def append(self, decided: DecidedBlock) -> None:
        """Check the next block and keep it (durable).

        Raises UnknownEpoch, BadBlock or BadCertificate, and keeps nothing.
        """
        if not self.fits(decided.block):
            raise BadBlock("the body is not the header's")
        async with self._turn:  # An epoch's end is the moment in which two rooms may bring blocks.
            await trio.lowlevel.checkpoint_if_cancelled()  # From here on memory is ahead of the disk.
            was = self.history.fork(), dict(self._before)
            self._check(decided)
            await self._keep((decided,), *was)

    async def look(self, blocks: Sequence[DecidedBlock]) -> Checked:
        """Check blocks that are to come next, and keep nothing. Ends with an epoch.

        Raises UnknownEpoch (never for the council's chain, which tells of its epochs itself), or BadBlock or
        BadCertificate for the first of them.
        """
        async with self._turn:  # A block on its way to the disk is in the history, and not folded yet.
            # Here and now: the thread sees no later blocks.
            start, roster, trial = self.history.fork(), self._roster(), self._trial()
        return await trio.to_thread.run_sync(self._look, blocks, start, roster, trial)

    def _look(
        self, blocks: Sequence[DecidedBlock], history: History, roster: Roster, trial: Trial
    ) -> Checked:
        parent_id = history.tip_id
        bodies: list[Any] = []
        bad: Exception | None = None
        for decided in blocks:
            header = decided.block.header
            if bodies and header.epoch != history.committee.epoch:
                break
            try:
                tip, tip_id = history.tip, history.tip_id
                committee, closed = roster.decides(self.name, header, tip=tip, tip_id=tip_id)
                following = history.fork()  # A history has no way back.
                following.append(header, decided.certificate, committee=committee, closed=closed)
                body = decode_body(decided.block.body, self._kind)
                if body_root(body) != header.app_root:
                    raise BadBlock("the body is not the header's")
                trial(decided, body)  # Last: folding costs, and a quorum has signed it.
                history = following
            except (ValueError, KeyError) as error:
                if not bodies:
                    early = isinstance(error, UnknownEpoch) and self.name != COUNCIL
                    if early or isinstance(error, ValueError):
                        raise
                    raise BadBlock(f"it cannot follow: {error!r}") from error
                bad = error
                break
            bodies.append(body)
        return Checked(tuple(blocks[: len(bodies)]), tuple(bodies), parent_id, history, roster, bad)

    async def extend(self, checked: Checked) -> bool:
        """Keep blocks that were looked at (durable). False, and nothing is kept: the chain has moved."""
        async with self._turn:
            await trio.lowlevel.checkpoint_if_cancelled()
            same = checked.roster.closings == self._roster().closings
            if not same or checked.parent_id != self.history.tip_id:
                return False
            was = self.history, dict(self._before)
            self._before.setdefault(checked.blocks[0].block.header.epoch, checked.parent_id)
            self.history = checked.history
            await self._keep(checked.blocks, *was)
        return True

    async def _keep(
        self, blocks: Sequence[DecidedBlock], history: History, before: dict[int, Digest]
    ) -> None:
        """To the disk, what is in memory already. history, before: without them."""
        self._newest = {decided.block.header.height: decided for decided in blocks}
        store = self.blocks
        one = len(blocks) == 1
        work = partial(store.append, blocks[0]) if one else partial(store.extend, blocks)
        try:
            await when_there_is_room(work)
        except trio.Cancelled:  # The disk is full: others give these blocks again when there is room.
            self.history, self._before = history, before
            raise
        finally:
            self._newest = {}
        for decided in blocks:
            self._kept(decided)
        self.grown.beat()

    def catch_up(self, now: bool) -> None:
        """Blocks come many at once, or no more."""
        self.catching_up = now
        self.grown.beat()

    async def until_caught_up(self) -> None:
        """While blocks come many at once, wait."""
        await self.grown.until(lambda: not self.catching_up)

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
