"""A member's round: request, train, commit, close, reveal, propose, check (docs/protocol.md, A round).

The application of a group's consensus. What is valid is computed in `rules`; who votes when is in
`consensus`; here is who sends what, what waits for what, and how long.
"""

from __future__ import annotations

from typing import Any

import trio

from consensus import codec
from consensus import types as ct
from consensus.signing import block_id, struct_hash
from p2pfl.errors import PeerFault, UserError
from p2pfl.keys import Refused
from p2pfl.learn.worker import TaskFailed, WorkerDied
from p2pfl.net import wire
from p2pfl.params import Update, blob_id, byte_length, delta_of, parse_update, quantize
from p2pfl.records import (
    Close,
    GroupBody,
    ParamTx,
    ShareRequest,
    SignedClose,
    SignedParamTx,
    SignedShareRequest,
    body_root,
    decode_body,
)
from p2pfl.rounds.bases import Bases, Resolved
from p2pfl.rounds.collect import Collected, DoubleSigned, context_of
from p2pfl.rounds.context import Context
from p2pfl.rounds.own import OwnRounds
from p2pfl.rounds.pace import Pace
from p2pfl.rounds.pulse import Pulse
from p2pfl.rules.filters import epoch_salt
from p2pfl.rules.validate import Derived, GroupInputs, check_group_body, derive_group_body, list_root
from p2pfl.telemetry import logger

log = logger("rounds.group")

HEADER_VERSION = 1
# Messages of the next height that wait until it begins: one of each kind a member is enough.
EARLY_MAX = 64


class GroupApp:
    """One member's side of its group."""

    def __init__(self, context: Context, pace: Pace, nursery: trio.Nursery) -> None:
        self.context = context
        self.pace = pace
        self.bases = Bases(context)
        self.own = OwnRounds(context.directory / "own")
        self._nursery = nursery
        self._pulse = Pulse()
        self._early: list[tuple[ct.MemberId, Any]] = []
        self._derived: dict[ct.Digest, Derived] = {}
        self._training = False
        self.heard = self._listen()
        if context.chain.height >= 0:
            self._nursery.start_soon(self._catch_blobs)

    # -- what consensus asks -----------------------------------------------

    def context_digest(self) -> ct.Digest:
        """For ROUND-CHANGE: the request and the close that this member holds."""
        request, close = self.heard.request, self.heard.close
        return context_of(request.request if request else None, close)

    def started(self) -> ct.Started:
        """Where the next height begins."""
        return self.context.chain.started()

    def entered(self, effect: ct.EnteredRound) -> None:
        """A round began: its clock starts at the part that is still to be done."""
        self.pace.enter(effect.height, effect.round)
        if self.heard.close is not None:
            self.pace.step("reveal")
        elif self.heard.request is not None:
            self.pace.step("train")
        else:
            self.pace.step("wait")
        own = self.own.commitment(self.heard.height)
        if own is None and self.heard.request is not None:
            self._start_training(
                self.heard.request.request
            )  # The first try may have failed for want of a blob.
        if own is not None:
            # After a restart, or for a new Ci that has not heard it: the same bytes again.
            self._take_tx(own)
            self.context.network.broadcast(
                self.context.others, wire.ParamTxMessage(self.context.group_id, own)
            )

    async def build(self, effect: ct.Build) -> ct.Block | None:
        """As Ci: open, collect, close, reveal, derive the block. None when this round cannot have one."""
        try:
            close = self.heard.close or await self._gather(effect)
            if close is None:
                return None
            self._send_close(close)
            return await self._block(effect, close)
        except PeerFault as fault:
            log.warning("no block could be built", height=effect.height, round=effect.round, why=str(fault))
        except Refused as refused:
            log.warning("the guard refused to open the round", height=effect.height, why=str(refused))
        return None

    async def validate(self, effect: ct.Validate) -> bool:
        """Recompute everything that the block says, from its body and the blobs."""
        header = effect.block.header
        try:
            body: GroupBody = decode_body(effect.block.body, GroupBody)
            if body_root(body) != header.app_root:
                raise PeerFault("bad_body", "its root is not the header's")
            self.pace.step("propose")
            if effect.fresh:
                await self._judge_fresh(effect, body)
            await self._check(header, body)
        except codec.DecodeError as error:
            log.warning("a proposal was refused", height=header.height, why=f"bad_body: {error}")
            return False
        except PeerFault as fault:
            log.warning("a proposal was refused", height=header.height, round=effect.round, why=str(fault))
            return False
        return True

    async def decided(self, decided: ct.DecidedBlock) -> bool:
        """Keep the block, show its blobs, tell the council, and go on to the next height."""
        context, header = self.context, decided.block.header
        await context.chain.append(decided)
        body: GroupBody = decode_body(decided.block.body, GroupBody)
        derived = self._derived.pop(block_id(header), None)
        self._derived.clear()
        context.shelf.show(body.aggregate_id)
        for signed in body.txs:
            context.shelf.show(signed.tx.blob_id, (*context.committee.members, *context.seats))
        tip = wire.Tip(context.group_id, header.height, block_id(header))
        context.network.broadcast(context.seats, tip)
        context.network.announce(tip)
        self._report(decided, body)
        if derived is None:
            self._nursery.start_soon(self._catch_blobs)
        elif header.proposer == context.me:
            self._nursery.start_soon(self._evaluate, header.height, derived)
        rounds = context.genesis.rounds
        if rounds and header.height + 1 >= rounds:
            self.pace.stop("finished")
            context.observe("finished", {"group": context.name, "height": header.height})
            return False
        self.heard = self._listen()
        early, self._early = self._early, []
        for sender, message in early:
            self.received(sender, message)
        return True

    # -- what the network brings -------------------------------------------

    def received(self, sender: ct.MemberId, message: Any) -> None:
        """A ShareRequest, ParamTx or Close of this group. Raises PeerFault."""
        if not isinstance(message, (wire.ShareRequestMessage, wire.ParamTxMessage, wire.CloseMessage)):
            raise PeerFault("unexpected", type(message).__name__)
        height = _height(message)
        if height == self.heard.height + 1 and len(self._early) < EARLY_MAX:
            self._early.append((sender, message))
        if height != self.heard.height:
            return
        match message:
            case wire.ShareRequestMessage(_, request):
                self._take_request(request)
            case wire.ParamTxMessage(_, tx):
                self._take_tx(tx)
            case wire.CloseMessage(_, close, txs):
                self._take_close(close, txs)

    def _take_request(self, request: SignedShareRequest) -> None:
        if self._is_new(self.heard.add_request(request)):
            if self.heard.close is None:
                self.pace.step("train")
            self._start_training(request.request)

    def _take_tx(self, tx: SignedParamTx) -> None:
        if self._is_new(self.heard.add_tx(tx)):
            self.pace.votes(len(self.heard.txs))

    def _take_close(self, close: SignedClose, txs: tuple[SignedParamTx, ...]) -> None:
        if self._is_new(self.heard.add_close(close, txs)):
            # Forwarded to all before the own blob is served: nobody sees a blob that may still commit.
            self._send_close(close)
            self.pace.step("reveal")
            context = self.context
            for signed in self.heard.closed_txs(close) or ():
                if signed.tx.member == context.me:
                    context.shelf.show(signed.tx.blob_id, (*context.committee.members, *context.seats))
                else:
                    self._nursery.start_soon(self._fetch_early, signed)

    def _is_new(self, outcome: bool | DoubleSigned) -> bool:
        if isinstance(outcome, DoubleSigned):
            self.context.on_double(outcome)
            return False
        if outcome:
            self._pulse.beat()
        return outcome

    # -- the member's part -------------------------------------------------

    def _start_training(self, request: ShareRequest) -> None:
        if not self._training and self.own.commitment(self.heard.height) is None:
            self._training = True
            self._nursery.start_soon(self._commit, self.heard, request)

    async def _commit(self, heard: Collected, request: ShareRequest) -> None:
        """Train from the requested base and commit to the update, once a height."""
        context = self.context
        try:
            resolved = await self.bases.resolve(request.council_block_id, heard.height)
            if resolved.ref.base_id != request.base_id:
                raise PeerFault("bad_request", "it names a base that is not its council block's")
            begun = trio.current_time()
            seed = context.genesis.round_seed(context.group_id, heard.epoch, heard.height)
            result = await context.trainer.train(resolved.base.values, seed, context.me)
            tx = await self._tx(heard, resolved, result)
            signed = SignedParamTx(tx, await context.sign(tx))
            await context.aside(self.own.save, signed, result.states)
        except (PeerFault, Refused, UserError, WorkerDied, TaskFailed) as error:
            log.warning("no commitment in this height", height=heard.height, why=str(error))
            return
        finally:
            self._training = False
        losses = {"loss_before": tx.loss_before_micro / 1e6, "loss_after": tx.loss_after_micro / 1e6}
        seconds = trio.current_time() - begun
        context.observe(
            "trained",
            {"height": heard.height, "member": context.name_of(context.me), "seconds": seconds, **losses},
        )
        if heard is self.heard:
            self._take_tx(signed)
            context.network.broadcast(context.others, wire.ParamTxMessage(context.group_id, signed))

    async def _tx(self, heard: Collected, resolved: Resolved, result: Any) -> ParamTx:
        context = self.context
        layout = context.genesis.task.layout

        def fix() -> tuple[bytes, ct.Digest, int]:
            delta = delta_of(resolved.base, result.parameters)
            update, saturated = quantize(delta, layout, resolved.exponents)
            data = update.to_bytes()
            return data, blob_id(data), saturated

        data, update_id, saturated = await context.aside(fix)
        await context.shelf.put(update_id, data)
        return ParamTx(
            epoch=heard.epoch,
            height=heard.height,
            member=context.me,
            base_id=resolved.ref.base_id,
            blob_id=update_id,
            byte_length=len(data),
            samples=result.samples,
            saturated=saturated,
            data_root=context.trainer.data_root,
            data_leaves=context.trainer.data_leaves,
            trace_root=result.trace_root,
            loss_before_micro=result.loss_before_micro,
            loss_after_micro=result.loss_after_micro,
        )

    async def _fetch_early(self, signed: SignedParamTx) -> None:
        """Bring a revealed blob before anybody asks for a vote on it."""
        try:
            await self._blob(signed)
        except PeerFault as fault:
            log.warning(
                "an update was not revealed", member=self.context.name_of(signed.tx.member), why=str(fault)
            )
        self._pulse.beat()
        close = self.heard.close
        txs = self.heard.closed_txs(close) if close else None
        if txs and signed in txs and all([await self._held(tx) for tx in txs]):
            self.pace.step("propose")

    # -- Ci's part -----------------------------------------------------------

    async def _gather(self, effect: ct.Build) -> SignedClose | None:
        """Open the round if nobody has, wait for the commitments, and close."""
        context, heard = self.context, self.heard
        request = heard.request or await self._request(effect)
        context.network.broadcast(context.others, wire.ShareRequestMessage(context.group_id, request))
        self._take_request(request)
        base_id = request.request.base_id
        limit_s = self.pace.part_s("train")
        await self._pulse.until(
            lambda: heard.close is not None or len(heard.committed(base_id)) == context.committee.size,
            timeout_s=limit_s,
        )
        await self._pulse.until(
            lambda: heard.close is not None or len(heard.committed(base_id)) >= context.committee.quorum
        )
        if heard.close is not None:
            return heard.close
        txs = heard.committed(base_id)
        ids = tuple(struct_hash(signed.tx) for signed in txs)
        close = Close(heard.epoch, heard.height, effect.round, list_root(ids))
        signed = SignedClose(close, ids, await context.sign(close), effect.justification)
        self._take_close(signed, txs)
        return signed

    async def _request(self, effect: ct.Build) -> SignedShareRequest:
        """Choose the base: the newest council block that counts our parent, if it comes in time."""
        context, heard = self.context, self.heard
        view = context.council
        await view.pulse.until(
            lambda: view.tip.counted[context.group_id][0] >= heard.height - 1,
            timeout_s=context.genesis.times.council_ms / 1000 if heard.height else 0,
        )
        resolved = await self.bases.resolve(view.tip.block_id, heard.height)
        request = ShareRequest(
            heard.epoch, heard.height, effect.round, resolved.ref.base_id, resolved.ref.council_block_id
        )
        return SignedShareRequest(request, await context.sign(request), effect.justification)

    def _send_close(self, close: SignedClose) -> None:
        txs = self.heard.closed_txs(close)
        assert txs is not None
        self.context.network.broadcast(
            self.context.others, wire.CloseMessage(self.context.group_id, close, txs)
        )

    async def _block(self, effect: ct.Build, close: SignedClose) -> ct.Block | None:
        context, heard = self.context, self.heard
        txs = heard.closed_txs(close)
        assert txs is not None
        updates_wanted = await self._reveal(txs)
        unrevealed = tuple(tx.tx.member for tx in txs if tx not in updates_wanted)
        if len(unrevealed) > context.committee.faulty_max:
            raise PeerFault("not_revealed", f"{len(unrevealed)} updates are missing")
        request = next(
            each for _, each in sorted(heard.requests.items()) if each.request.base_id == txs[0].tx.base_id
        )
        resolved = await self.bases.resolve(request.request.council_block_id, heard.height)
        inputs = await self._inputs(txs, close, unrevealed, resolved)
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
            next_committee_root=context.committee.root(),
        )
        self._derived[block_id(header)] = derived
        self.pace.step("propose")
        return ct.Block(header, codec.encode(derived.body))

    async def _reveal(self, txs: tuple[SignedParamTx, ...]) -> list[SignedParamTx]:
        """Those whose blob is here, at the latest when the time to reveal is over."""
        patience_s = self.pace.part_s("reveal") * 0.8  # The rest of the part is for the proposal itself.
        with trio.move_on_after(patience_s):
            async with trio.open_nursery() as nursery:
                for signed in txs:
                    nursery.start_soon(self._fetch_early, signed)
        return [signed for signed in txs if await self._held(signed)]

    # -- shared by proposing and checking ------------------------------------

    async def _judge_fresh(self, effect: ct.Validate, body: GroupBody) -> None:
        """Clock, unrevealed list, base and Close: by the own view, in fresh proposals only."""
        context, header, times = self.context, effect.block.header, self.context.genesis.times
        if abs(header.time_ms - context.clock_ms()) > times.clock_skew_ms:
            raise PeerFault("clock", f"its time is {header.time_ms - context.clock_ms()} ms from mine")
        by_member = {signed.tx.member: signed for signed in body.txs}
        for member in body.unrevealed:
            if member in by_member and await self._held(by_member[member]):
                raise PeerFault("revealed", f"{context.name_of(member)} did reveal")
        if body.close is not None:
            self._take_close(body.close, body.txs)  # Whoever has not heard it serves its blob from now on.
        mine = self.heard.close
        if body.close is None or (mine is not None and body.close.close.round > mine.close.round):
            raise PeerFault("late_close", "an earlier close is known")
        parent = context.chain.get(context.chain.height) if context.chain.height >= 0 else None
        if parent is not None:
            before: GroupBody = decode_body(parent.block.body, GroupBody)
            if body.base.council_height < before.base.council_height:
                raise PeerFault("old_base", "an older council block than the parent's")

    async def _check(self, header: ct.Header, body: GroupBody) -> None:
        context = self.context
        revealed = [signed for signed in body.txs if signed.tx.member not in body.unrevealed]
        async with trio.open_nursery() as nursery:
            for signed in revealed:
                nursery.start_soon(self._blob_quietly, signed)
        resolved = await self.bases.resolve(body.base.council_block_id, header.height)
        if body.close is None:
            raise PeerFault("wrong_close", "a round without a Close")
        inputs = await self._inputs(body.txs, body.close, body.unrevealed, resolved)
        derived = await context.aside(check_group_body, body, inputs)
        await self._keep(derived)
        self._derived[block_id(header)] = derived

    async def _inputs(
        self,
        txs: tuple[SignedParamTx, ...],
        close: SignedClose,
        unrevealed: tuple[ct.MemberId, ...],
        resolved: Resolved,
    ) -> GroupInputs:
        context, heard = self.context, self.heard
        updates: dict[ct.MemberId, Update] = {}
        for signed in txs:
            if signed.tx.member not in unrevealed:
                data = await self._blob(signed)
                updates[signed.tx.member] = parse_update(
                    data, context.genesis.task.layout, resolved.exponents
                )
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
            exponents=resolved.exponents,
            previous_aggregate=await self.bases.aggregate(heard.height - 1) if heard.height else None,
            root_update=resolved.root_update,
            standings=resolved.state.standings(context.group_id),
            base=resolved.ref,
            base_values=resolved.base,
            salt=epoch_salt(context.genesis.network_id, heard.epoch, ct.ZERO_DIGEST),
        )

    async def _keep(self, derived: Derived) -> None:
        data = derived.aggregate.to_bytes()
        await self.context.shelf.put(derived.body.aggregate_id, data)
        self.context.shelf.show(derived.body.aggregate_id)

    async def _blob(self, signed: SignedParamTx) -> bytes:
        context, tx = self.context, signed.tx
        # The length is known from the layout; a commitment that claims another is refused by the rules.
        expected = byte_length("update", context.genesis.task.layout, context.council.tip.exponents)
        if tx.byte_length > expected + 4096:
            raise PeerFault("bad_length", f"{tx.byte_length} bytes, an update has about {expected}")
        return await context.shelf.need(tx.blob_id, tx.byte_length, [tx.member], context.others)

    async def _blob_quietly(self, signed: SignedParamTx) -> None:
        try:
            await self._blob(signed)
        except PeerFault as fault:
            log.warning(
                "an update is not to be had", member=self.context.name_of(signed.tx.member), why=str(fault)
            )

    async def _held(self, signed: SignedParamTx) -> bool:
        return await self.context.shelf.has(signed.tx.blob_id)

    # -- around --------------------------------------------------------------

    def _listen(self) -> Collected:
        context = self.context
        return Collected(context.domain, context.committee, context.committee.epoch, context.chain.height + 1)

    async def _catch_blobs(self) -> None:
        """Whoever decides a block fetches its aggregate, so that the next round can start from it."""
        try:
            await self.bases.aggregate(self.context.chain.height)
        except PeerFault as fault:
            log.warning("the aggregate of the last block is not to be had yet", why=str(fault))

    async def _evaluate(self, height: int, derived: Derived) -> None:
        try:
            loss, accuracy = await self.context.trainer.evaluate(derived.next_base.values)
        except (UserError, WorkerDied, TaskFailed) as error:
            log.warning("the new base could not be evaluated", height=height, why=str(error))
            return
        self.context.observe(
            "evaluated", {"group": self.context.name, "height": height, "loss": loss, "accuracy": accuracy}
        )

    def _report(self, decided: ct.DecidedBlock, body: GroupBody) -> None:
        context, header = self.context, decided.block.header
        left_out = [
            context.name_of(signed.tx.member)
            for signed, weight in zip(body.txs, body.weights, strict=True)
            if not weight
        ]
        self.pace.decided(
            header,
            decided.certificate.round,
            members=[context.name_of(signed.tx.member) for signed in body.txs],
            left_out=left_out,
            votes=len(decided.certificate.signatures),
            own_base=list(body.base.own_heights),
            council_height=body.base.council_height,
        )


def _height(message: Any) -> int:
    match message:
        case wire.ShareRequestMessage(_, request):
            return request.request.height
        case wire.ParamTxMessage(_, tx):
            return tx.tx.height
        case _:
            return message.close.close.height
