"""Which parameters a round starts from, and how this node comes by them.

base = the council's base, plus the group's own aggregates that the council has not counted yet
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from consensus.types import ZERO_DIGEST, Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net.stream import one_error
from p2pfl.params import Base, Update, apply_update, blob_id, byte_length, parse_base, parse_update
from p2pfl.records import BaseRef, GroupBody, decode_body
from p2pfl.rounds.context import Context
from p2pfl.rounds.follow import Chain
from p2pfl.rules.state import CouncilState
from p2pfl.rules.taking_back import own_steps, take
from p2pfl.telemetry import logger

# How long a replica waits for a council block that somebody's message names before it gives up on it.
COUNCIL_BLOCK_WAIT_S = 5.0
# How long a delta is waited for before the whole base is fetched: a seat may have named one that nobody
# has, and a line of 2 Mbit/s is slow.
DELTA_S = 5.0
DELTA_BYTES_S = 250_000

log = logger("rounds.bases")


@dataclass(frozen=True)
class Resolved:
    """A base with all that judges updates from it."""

    ref: BaseRef
    base: Base
    exponents: tuple[int, ...]
    root_update: Update | None
    state: CouncilState


class Bases:
    """Resolves bases for the next height of the own group's chain; keeps the last one."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._last: tuple[Digest, int, Resolved] | None = None
        self._turn = trio.Lock()
        self._catching = False

    async def resolve(self, council_block_id: Digest, height: int) -> Resolved:
        """The base for `height` under this council block. Raises PeerFault when a part is missing."""
        context = self._context
        view = context.council
        if await view.recall(council_block_id, least_height=self._parent_council_height()) is None:
            await view.pulse.until(
                lambda: view.at(council_block_id) is not None, timeout_s=COUNCIL_BLOCK_WAIT_S
            )
        state = view.at(council_block_id)
        if state is None:
            raise PeerFault("unknown_council_block", council_block_id.hex())
        if self.too_old(council_block_id):
            raise PeerFault("old_base", "no block of this height can follow on that council block")
        async with self._turn:
            if self._last is not None and self._last[:2] == (council_block_id, height):
                return self._last[2]
            resolved = await self._resolve(state, height)
            self._last = (council_block_id, height, resolved)
            return resolved

    def too_old(self, council_block_id: Digest) -> bool:
        """Whether no block of the open height can follow on this council block, as far as it is known here.

        It is of before this epoch; or older than the one that the last own block is based on; or, for the
        first height of an epoch, it does not count all blocks before it: what the old committee learnt comes
        to the new one by the council only. Who commits to it has no second commitment for another base.
        """
        context = self._context
        state = context.council.at(council_block_id)
        parent = context.chain.get(context.chain.height) if context.chain.height >= 0 else None
        if state is None:
            return False
        if state.roster.epoch < context.committee.epoch:
            return True
        if parent is None:
            return False
        header = parent.block.header
        begins = header.epoch != context.committee.epoch
        if begins and state.counted[context.group_id][0] < header.height:
            return True
        return state.height < self._parent_council_height()

    def _parent_council_height(self) -> int:
        """Of the council block on which the last own block rests; -1: the genesis, or there is none."""
        context = self._context
        parent = context.chain.get(context.chain.height) if context.chain.height >= 0 else None
        if parent is None:
            return -1
        body: GroupBody = decode_body(parent.block.body, GroupBody)
        return body.base.council_height

    async def _resolve(self, state: CouncilState, height: int) -> Resolved:
        context = self._context
        layout = context.genesis.task.layout
        own_heights = tuple(range(state.counted[context.group_id][0] + 1, height))
        with one_error():
            async with trio.open_nursery() as nursery:  # One after the other costs round trips.
                if state.root_update_id != ZERO_DIGEST:
                    nursery.start_soon(self._bring_root, state)
                base, steps = await self._own_base(state, own_heights, height)
        base_id = await context.aside(blob_id, base.to_bytes()) if steps else state.base_id
        root_update = None
        if state.root_update_id != ZERO_DIGEST:
            length = byte_length("update", layout, state.exponents)
            data = await context.shelf.need(state.root_update_id, length, context.seats, context.others)
            root_update = parse_update(data, layout, state.exponents)
        ref = BaseRef(base_id, state.height, state.block_id, own_heights)
        return Resolved(ref, base, state.exponents, root_update, state)

    async def without_last(self, resolved: Resolved, height: int) -> Base:
        """What `resolved`, the base for `height`, would be without the own block before."""
        base, _ = await self._own_base(resolved.state, resolved.ref.own_heights, height, without_last=True)
        return base

    async def _own_base(
        self, state: CouncilState, own_heights: Sequence[int], height: int, *, without_last: bool = False
    ) -> tuple[Base, int]:
        """The own base for `height` on this state, and how many steps it is from the council's."""
        context = self._context
        bodies = {own: _body(context.chain, own) for own in own_heights}
        added = state.added.get(context.group_id)
        steps = own_steps(added, bodies, height, without_last=without_last)
        base = await self._council_base(state)
        for step in steps:
            update = await self._update(step.aggregate_id, step.exponents)
            base = await context.aside(take, base, step, update)
        return base, len(steps)

    async def _bring_root(self, state: CouncilState) -> None:
        """Fetch the root update while the base is fetched."""
        context = self._context
        length = byte_length("update", context.genesis.task.layout, state.exponents)
        context.shelf.show(state.root_update_id)  # Before it is here: those who fetch it share it.
        await context.shelf.need(state.root_update_id, length, context.seats, context.others)

    async def _council_base(self, state: CouncilState) -> Base:
        context = self._context
        layout = context.genesis.task.layout
        data = await context.shelf.get(state.base_id) or await self._grown(state)
        if data is None:
            length = byte_length("base", layout)
            context.shelf.show(state.base_id)  # Before it is here: those who fetch it share it.
            data = await context.shelf.need(state.base_id, length, context.seats, context.others)
        context.shelf.show(state.base_id)
        return await context.aside(parse_base, data, layout)

    async def _grown(self, state: CouncilState) -> bytes | None:
        """The council's base, made of the one before and what a seat says was added; None: fetch it whole.

        It has half as many bytes. What comes out is the base that the block names, or it is not taken.
        """
        context, layout = self._context, self._context.genesis.task.layout
        before, told = context.council.before(state), context.council.delta_of(state.base_id)
        if before is None or told is None:
            return None
        old = await context.shelf.get(before.base_id)
        if old is None:
            return None
        seat, hint = told
        try:
            if len(hint.exponents) != len(layout.tensors):
                raise PeerFault("bad_blob", "a delta of another model")
            length = byte_length("update", layout, hint.exponents)
            timeout_s = DELTA_S + length / DELTA_BYTES_S
            blob = await context.shelf.need(
                hint.delta_id, length, context.seats, context.others, timeout_s=timeout_s
            )
            delta = parse_update(blob, layout, hint.exponents)
            base = await context.aside(apply_update, await context.aside(parse_base, old, layout), delta)
            data = await context.aside(base.to_bytes)
            if await context.aside(blob_id, data) != state.base_id:
                raise PeerFault("bad_blob", "the base before and this delta give another base")
        except PeerFault as fault:
            log.warning("a base is fetched whole", height=state.height, seat=seat.hex(), why=str(fault))
            context.council.no_delta(seat)
            return None
        context.shelf.show(hint.delta_id)
        await context.shelf.put(state.base_id, data, durable=False)
        return data

    async def aggregate(self, height: int) -> Update:
        """The aggregate of the own group's block at this height."""
        body = _body(self._context.chain, height)
        return await self._update(body.aggregate_id, body.exponents)

    async def _update(self, aggregate_id: Digest, exponents: tuple[int, ...]) -> Update:
        context = self._context
        layout = context.genesis.task.layout
        length = byte_length("update", layout, exponents)
        context.shelf.show(aggregate_id)
        data = await context.shelf.need(aggregate_id, length, context.others, context.seats)
        return parse_update(data, layout, exponents)

    async def bring_newest(self) -> None:
        """Whoever decides a block fetches its aggregate, so that the next round can start from it.

        One at a time, and the newest only: nobody may hold any more what came while one was away.
        """
        if self._catching:
            return
        self._catching, height, chain = True, -1, self._context.chain
        try:
            await chain.until_caught_up()
            while height != chain.height:
                height = chain.height
                try:
                    await self.aggregate(height)
                except PeerFault as fault:
                    log.warning("an aggregate is not to be had yet", height=height, why=str(fault))
        finally:
            self._catching = False


def _body(chain: Chain, height: int) -> GroupBody:
    decided = chain.get(height)
    if decided is None:
        raise PeerFault("bad_base", "it names own heights that are not there")
    return decode_body(decided.block.body, GroupBody)


async def base_of_block(context: Context, chain: Chain, ref: BaseRef, members: Sequence[MemberId]) -> Base:
    """The base that a decided block of a group was trained from: the council's, and own aggregates on it.

    members: of the group, who hold its aggregates. Raises PeerFault when a part is not to be had.
    """
    layout = context.genesis.task.layout
    state = await context.council.recall(ref.council_block_id, least_height=-1)
    if state is None:
        raise PeerFault("unknown_council_block", "the council block that the round names is not here")
    data = await context.shelf.need(state.base_id, byte_length("base", layout), context.seats, members)
    base = await context.aside(parse_base, data, layout)
    bodies = {height: _body(chain, height) for height in ref.own_heights}
    for step in own_steps(state.added.get(chain.group_id), bodies, max(ref.own_heights, default=-1) + 1):
        length = byte_length("update", layout, step.exponents)
        blob = await context.shelf.need(step.aggregate_id, length, members, context.seats)
        base = await context.aside(take, base, step, parse_update(blob, layout, step.exponents))
    return base
