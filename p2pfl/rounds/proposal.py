"""The block of a round: derived by Ci from the revealed updates, and derived again by everybody who votes.

Fetches what the derivation needs. An update that nobody serves, or that is not the bytes of an update, counts
as not revealed: one member must not be able to halt its group.
"""

from __future__ import annotations

import trio

from consensus import types as ct
from consensus.signing import block_id
from p2pfl import codec
from p2pfl.errors import PeerFault
from p2pfl.params import MODEL_BYTES_MAX, Update, parse_update
from p2pfl.records import GroupBody, body_root, decode_body
from p2pfl.rounds.bases import Bases, Resolved
from p2pfl.rounds.collect import Collected
from p2pfl.rounds.context import Context
from p2pfl.rules.ballots import are_due, rejected_by
from p2pfl.rules.repeats import Sent, counted_in
from p2pfl.rules.validate import (
    Derived,
    GroupInputs,
    check_close,
    check_group_body,
    derive_group_body,
    first_idle_round,
)
from p2pfl.signed import SignedBallot, SignedClose, SignedParamTx
from p2pfl.telemetry import logger

log = logger("rounds.proposal")

HEADER_VERSION = 1


class Proposals:
    """Blocks of the own group, made and checked. `derived`: what the last ones led to, by block id."""

    def __init__(self, context: Context, bases: Bases) -> None:
        self._context = context
        self._bases = bases
        self.derived: dict[ct.Digest, Derived] = {}

    async def make(
        self,
        effect: ct.Build,
        heard: Collected,
        close: SignedClose,
        ballots: tuple[SignedBallot, ...] | None,
        *,
        until_s: float,
    ) -> ct.Block | None:
        """The block that follows from this Close; None when none can, or more than f did not reveal.

        ballots: on the block before (None: too few came). until_s: until when updates may come.
        Raises PeerFault.
        """
        context, txs = self._context, heard.closed_txs(close)
        assert txs is not None
        if ballots is None or (resolved := await self._followed(heard, close, txs)) is None:
            return None
        with trio.move_on_at(until_s):
            await self.fetch(txs)
        updates = {signed.tx.member: await self._update(signed, resolved) for signed in txs}
        unrevealed = tuple(member for member, update in updates.items() if update is None)
        if len(unrevealed) > context.committee.faulty_max:
            log.warning("updates are missing", height=heard.height, members=len(unrevealed))
            return None
        return await self._block(effect, heard, txs, close, unrevealed, resolved, ballots)

    async def make_idle(self, effect: ct.Build, heard: Collected, council_block_id: ct.Digest) -> ct.Block:
        """The block that ends a height in which no quorum can commit to one base. Raises PeerFault."""
        resolved = await self._bases.resolve(council_block_id, heard.height)
        return await self._block(effect, heard, (), None, (), resolved)

    async def _block(
        self,
        effect: ct.Build,
        heard: Collected,
        txs: tuple[SignedParamTx, ...],
        close: SignedClose | None,
        unrevealed: tuple[ct.MemberId, ...],
        resolved: Resolved,
        ballots: tuple[SignedBallot, ...] = (),
    ) -> ct.Block:
        context = self._context
        inputs = await self._inputs(heard, txs, close, unrevealed, resolved, ballots)
        derived = await context.aside(derive_group_body, inputs)
        await self._keep(derived)
        header = ct.Header(
            version=HEADER_VERSION,
            network_id=context.genesis.network_id,
            group_id=context.group_id,
            epoch=heard.epoch,
            height=effect.height,
            parent_id=effect.parent_id,
            proposer=context.me,
            time_ms=max(context.clock_ms(), effect.parent.time_ms + 1 if effect.parent else 0),
            app_root=body_root(derived.body),
            log_root=effect.log_root,
            next_committee_root=self._next_root(resolved),
        )
        self.derived[block_id(header)] = derived
        return ct.Block(header, codec.encode(derived.body))

    async def judge_fresh(self, header: ct.Header, body: GroupBody, heard: Collected, round_: int) -> None:
        """Clock, unrevealed list, base and Close, by the own view: of fresh proposals. Raises PeerFault."""
        context = self._context
        context.clocks.judge(header)
        if body.close is None and round_ < first_idle_round(context.committee):
            raise PeerFault("early_idle", f"no idle block before round {first_idle_round(context.committee)}")
        if heard.close is not None and (
            await self._can_follow(heard, heard.close)
            if body.close is None
            else body.close.close.round > heard.close.close.round
        ):
            raise PeerFault("late_close", "an earlier close is known")
        resolved = await self._bases.resolve(body.base.council_block_id, header.height)
        for signed in body.txs:
            if signed.tx.member in body.unrevealed and await self._update(signed, resolved) is not None:
                raise PeerFault("revealed", f"{context.name_of(signed.tx.member)} did reveal")
        parent = context.chain.get(context.chain.height) if context.chain.height >= 0 else None
        if parent is not None:
            before: GroupBody = decode_body(parent.block.body, GroupBody)
            if body.base.council_height < before.base.council_height:
                raise PeerFault("old_base", "an older council block than the parent's")
        due = body.close is not None and are_due(self._parent(), context.genesis.rules)
        if due and not body.ballots and round_ < first_idle_round(context.committee):
            raise PeerFault("few_ballots", "none on the block before")

    async def _can_follow(self, heard: Collected, close: SignedClose) -> bool:
        """Whether updates enough are here for a block with this Close."""
        txs = heard.closed_txs(close)
        assert txs is not None
        if (resolved := await self._followed(heard, close, txs)) is None:
            return False
        hidden = [signed for signed in txs if await self._update(signed, resolved) is None]
        return len(hidden) <= self._context.committee.faulty_max

    async def _followed(
        self, heard: Collected, close: SignedClose, txs: tuple[SignedParamTx, ...]
    ) -> Resolved | None:
        """The base on which a block with this Close can follow; None if there is none, or it is no Close."""
        context = self._context
        try:
            resolved = await self._base_of(heard, txs[0].tx.base_id)
            check_close(close, context.domain, context.committee, epoch=heard.epoch, height=heard.height)
        except PeerFault as fault:
            log.warning("a close cannot be followed", height=heard.height, why=str(fault))
            return None
        return resolved

    async def check(self, header: ct.Header, body: GroupBody, heard: Collected) -> None:
        """Derive the body again from the own blobs. Raises PeerFault for the first field that differs."""
        context = self._context
        await self.fetch([signed for signed in body.txs if signed.tx.member not in body.unrevealed])
        resolved = await self._bases.resolve(body.base.council_block_id, header.height)
        if header.next_committee_root != self._next_root(resolved):
            raise PeerFault("wrong_committee", "its council block says who decides the next height")
        inputs = await self._inputs(heard, body.txs, body.close, body.unrevealed, resolved, body.ballots)
        derived = await context.aside(check_group_body, body, inputs)
        await self._keep(derived)
        self.derived[block_id(header)] = derived

    async def fetch(self, txs: tuple[SignedParamTx, ...] | list[SignedParamTx]) -> None:
        """Bring these updates, all at once; those that cannot be had stay away."""
        async with trio.open_nursery() as nursery:
            for signed in txs:
                nursery.start_soon(self.bring, signed)

    async def bring(self, signed: SignedParamTx) -> None:
        """Bring one update, if it can be had, and serve it: its author may serve nobody else any more.

        Who holds it refuses blocks that call it unrevealed, so the others must be able to have it from here.
        """
        context = self._context
        try:
            # The round is closed, so its updates may be shown; before they are here, so that they are shared.
            context.shelf.show(signed.tx.blob_id, (*context.committee.members, *context.seats))
            await self._blob(signed)
        except PeerFault as fault:
            name = self._context.name_of(signed.tx.member)
            log.warning("an update is not to be had", member=name, why=str(fault))

    async def all_here(self, txs: tuple[SignedParamTx, ...]) -> bool:
        """Whether the bytes of all these are on the shelf."""
        return all([await self._context.shelf.has(signed.tx.blob_id) for signed in txs])

    # -- what both need --------------------------------------------------------

    def _next_root(self, resolved: Resolved) -> ct.Digest:
        """A block on a council block that has begun a later epoch is the last of its own."""
        committee, roster = self._context.committee, resolved.state.roster
        if roster.epoch == committee.epoch:
            return committee.root()
        return roster.next_root(self._context.name, committee.epoch)

    def _parent(self) -> GroupBody | None:
        """The block before, if it is of this epoch."""
        chain = self._context.chain
        if chain.tip is None or chain.tip.epoch != self._context.committee.epoch:
            return None
        decided = chain.get(chain.height)
        assert decided is not None
        return decode_body(decided.block.body, GroupBody)

    async def _previous_aggregate(self, height: int) -> Update | None:
        """Of the block before, in this epoch: other members' directions say nothing about these."""
        return None if self._parent() is None else await self._bases.aggregate(height - 1)

    def _earlier(self, heard: Collected) -> tuple[Sent, ...]:
        """What counted in the last heights of this epoch: sent again, it is nothing new."""
        context = self._context
        first = max(0, heard.height - context.genesis.rules.look_back)
        before = [context.chain.get(height) for height in range(first, heard.height)]
        bodies = [
            decode_body(d.block.body, GroupBody) for d in before if d and d.block.header.epoch == heard.epoch
        ]
        return counted_in(bodies)

    async def _base_of(self, heard: Collected, base_id: ct.Digest) -> Resolved:
        """The base that the commitments name: by a request for it, else by a council block that gives it."""
        named = [signed.request.council_block_id for _, signed in sorted(heard.requests.items())]
        # What is not here may come; a liar may as well have made it up.
        here = [each for each in named if self._context.council.at(each) is not None]
        missing = [each for each in named if each not in here]
        for council_block_id in (*here, *self._context.council.newest_ids(), *missing):
            if self._bases.too_old(council_block_id):
                continue  # Nobody commits to it; a liar may have asked for it.
            try:
                resolved = await self._bases.resolve(council_block_id, heard.height)
            except PeerFault:
                continue
            if resolved.ref.base_id == base_id:
                return resolved
        raise PeerFault("unknown_base", base_id.hex())

    async def _inputs(
        self,
        heard: Collected,
        txs: tuple[SignedParamTx, ...],
        close: SignedClose | None,
        unrevealed: tuple[ct.MemberId, ...],
        resolved: Resolved,
        ballots: tuple[SignedBallot, ...],
    ) -> GroupInputs:
        context = self._context
        updates: dict[ct.MemberId, Update] = {}
        leaves: dict[ct.MemberId, bytes] = {}
        for signed in txs:
            if signed.tx.member not in unrevealed:
                update = await self._update(signed, resolved)
                if update is None:
                    raise PeerFault("not_revealed", context.name_of(signed.tx.member))
                updates[signed.tx.member] = update
                leaves[signed.tx.member] = context.shelf.leaves(signed.tx.blob_id)
        return GroupInputs(
            genesis=context.genesis,
            group=context.name,
            committee=context.committee,
            epoch=heard.epoch,
            height=heard.height,
            txs=txs,
            close=close,
            unrevealed=unrevealed,
            updates=updates,
            leaves=leaves,
            exponents=resolved.exponents,
            previous_aggregate=await self._previous_aggregate(heard.height),
            root_update=resolved.root_update,
            standings=resolved.state.standings(context.group_id, heard.epoch),
            base=resolved.ref,
            base_values=resolved.base,
            salt=context.salt,
            ballots=ballots,
            parent=self._parent(),
            parent_id=context.chain.tip_id,
            old_base=await self._bases.without_last(resolved, heard.height) if rejected_by(ballots) else None,
            pool=resolved.state.pool,
            earlier=self._earlier(heard),
        )

    async def _update(self, signed: SignedParamTx, resolved: Resolved) -> Update | None:
        """The update if its bytes are here and are one; None if it counts as not revealed."""
        context = self._context
        data = await context.shelf.get(signed.tx.blob_id)
        if data is None or len(data) != signed.tx.byte_length:
            return None
        try:
            return parse_update(data, context.genesis.task.layout, resolved.exponents)
        except PeerFault:
            return None

    async def _blob(self, signed: SignedParamTx) -> bytes:
        tx = signed.tx
        if not 0 < tx.byte_length <= MODEL_BYTES_MAX:
            raise PeerFault("bad_length", f"{tx.byte_length} bytes")
        return await self._context.shelf.need(tx.blob_id, tx.byte_length, [tx.member], self._context.others)

    async def _keep(self, derived: Derived) -> None:
        shelf = self._context.shelf
        data = await self._context.aside(derived.aggregate.to_bytes)
        await shelf.put(derived.body.aggregate_id, data)
        shelf.show(derived.body.aggregate_id)
