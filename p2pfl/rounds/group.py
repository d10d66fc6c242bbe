"""A member's round: request, train, commit, close, reveal, propose, check (docs/protocol.md, A round).

The application of a group's consensus. What is valid is computed in `rules`; who votes when is in
`consensus`; here is who sends what, what waits for what, and how long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import trio

from consensus import types as ct
from consensus.chain import BadBlock
from consensus.signing import block_id, struct_hash
from p2pfl import codec
from p2pfl.errors import PeerFault
from p2pfl.keys import Refused
from p2pfl.net import wire
from p2pfl.records import GroupBody, body_root, decode_body
from p2pfl.rounds.ballots import Ballots
from p2pfl.rounds.bases import Bases
from p2pfl.rounds.chain import Checked
from p2pfl.rounds.collect import ROUNDS_MAX, Collected, DoubleSigned, context_of
from p2pfl.rounds.commit import Committer
from p2pfl.rounds.context import Context
from p2pfl.rounds.home import Home
from p2pfl.rounds.own import OwnRounds
from p2pfl.rounds.pace import Pace
from p2pfl.rounds.proposal import Proposals
from p2pfl.rounds.pulse import Pulse
from p2pfl.rounds.requests import Requests
from p2pfl.rounds.served import BLOCKS, serve
from p2pfl.rounds.tell import evaluate, tell_group_block
from p2pfl.rules.validate import Derived, first_idle_round, list_root
from p2pfl.signed import Close, ShareRequest, SignedClose, SignedParamTx, SignedShareRequest
from p2pfl.telemetry import logger

log = logger("rounds.group")

# The part of the time to reveal in which Ci still waits for updates.
REVEAL_SHARE = 0.8
# The part of the time to collect in which Ci waits for more commitments than a quorum.
COLLECT_SHARE = 0.8
# Messages of the next height that wait until it begins, of each sender: one of each kind, and one forwarded.
EARLY_MAX = 4


class GroupApp:
    """One member's side of its group."""

    def __init__(self, context: Context, pace: Pace, home: Home) -> None:
        self.context = context
        self.pace = pace
        self.bases = Bases(context)
        self.own = OwnRounds.begin(context)
        self.proposals = Proposals(context, self.bases)
        self._committer = Committer(context, self.bases, self.own)
        self._home = home
        self._pulse = Pulse()
        self.ballots = Ballots(context, self.own, home)
        self._early: dict[ct.MemberId, deque[Any]] = {}
        self._listen()
        if context.chain.tip is not None:
            self._home.start_soon(self.bases.bring_newest)
            self.ballots.resume()

    # -- what consensus asks -----------------------------------------------

    def context_digest(self) -> ct.Digest:
        """For ROUND-CHANGE: the request and the close that this member holds."""
        request, close = self.heard.request, self.heard.close
        return context_of(request.request if request else None, close)

    def started(self) -> ct.Started:
        """Where the next height begins."""
        return self.context.chain.started(self.context.committee.epoch)

    def entered(self, effect: ct.EnteredRound) -> None:
        """A round began: its clock starts at the part that is still to be done."""
        self.pace.enter(effect.height, effect.round)
        request = self._requests.to_follow()
        if self.heard.close is not None:
            self.pace.step("reveal")
        elif request is not None:
            self.pace.step("train")
            if effect.round:
                # The next Ci may not have heard it; a request of its own could split the commitments.
                message = wire.ShareRequestMessage(self.context.group_id, request)
                self.context.network.broadcast(self.context.others, message)
        else:
            self.pace.step("wait")
        own = self.own.commitment(self.heard.height)
        if own is None and request is not None:
            self._start_training(request.request)  # The first try may have failed for want of a blob.
        if own is not None:
            # After a restart, or for a new Ci that has not heard it: the same bytes again.
            self._take_tx(own)
            self.context.network.broadcast(
                self.context.others, wire.ParamTxMessage(self.context.group_id, own)
            )
        if effect.round:
            self.ballots.say_again()
        self._end_if_split()

    def _end_if_split(self) -> None:
        """A round that can neither be closed nor idle is not waited for."""
        if self.heard.split and not self._may_idle(self.pace.round):
            self.pace.overrun()

    def _may_idle(self, round_: int) -> bool:
        return round_ >= first_idle_round(self.context.committee)

    async def build(self, effect: ct.Build) -> ct.Block | None:
        """As Ci: open, collect, close, reveal, derive the block. None when this round cannot have one."""
        await self.context.chain.until_caught_up()  # The others have decided this height.
        try:
            close = self.heard.close or await self._gather(effect)
            if close is not None:
                self._send_close(close)
                # Updates may come until little of the part is left: the rest is for the proposal itself.
                until_s = trio.current_time() + self.pace.part_s("reveal") * REVEAL_SHARE
                ballots = await self.ballots.gather(until_s, needed=not self._may_idle(effect.round))
                block = await self.proposals.make(effect, self.heard, close, ballots, until_s=until_s)
                if block is not None:
                    self.pace.step("propose")
                    return block
            if self._may_idle(effect.round):
                return await self._idle(effect)
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
            if body.close is not None:
                self._take_close_of(body.close, body.txs, fresh=effect.fresh)
            if effect.fresh:
                await self.proposals.judge_fresh(header, body, self.heard, effect.round)
            await self.proposals.check(header, body, self.heard)
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
        try:
            await context.chain.append(decided)
        except BadBlock as void:
            log.warning("a block came after its epoch was closed", height=header.height, why=str(void))
            return False
        derived = self.proposals.derived.pop(block_id(header), None)
        if derived is not None and (header.proposer == context.me or context.evaluates):
            self._home.start_soon(evaluate, context, header.height, derived)
        body: GroupBody = decode_body(decided.block.body, GroupBody)
        return self._goes_on(((decided, body),), derived)

    async def caught_up(self, checked: Checked) -> bool | None:
        """Keep blocks that the others decided, and go on after them."""
        if not await self.context.chain.extend(checked):
            return None
        return self._goes_on(tuple(zip(checked.blocks, checked.bodies, strict=True)), None)

    def _goes_on(self, blocks: Sequence[tuple[ct.DecidedBlock, GroupBody]], derived: Derived | None) -> bool:
        """After these blocks, which are kept. derived: what the last gives, if it was computed here."""
        context, header = self.context, blocks[-1][0].block.header
        self.proposals.derived.clear()
        for decided, body in blocks:
            tell_group_block(context, self.pace, decided, body)
        for _, body in blocks[-BLOCKS:]:
            serve(context.shelf, body, (*context.committee.members, *context.seats))
        tip = wire.Tip(context.group_id, header.height, block_id(header))
        context.network.broadcast(context.seats, tip)
        context.network.announce(tip)
        if derived is None:
            self._home.start_soon(self.bases.bring_newest)
        rounds = context.genesis.rounds
        if rounds and header.height + 1 >= rounds:
            self.pace.stop("finished")
            context.observe("finished", {"group": context.name, "height": header.height})
            return False
        if header.next_committee_root != context.committee.root():
            self.pace.stop("epoch_ended")
            return False
        self._listen()
        self.ballots.begin(header, blocks[-1][1], derived)
        early, self._early = self._early, {}
        for sender, messages in early.items():
            for message in messages:
                self._hear_early(sender, message)
        return True

    # -- what the network brings -------------------------------------------

    def received(self, sender: ct.MemberId, message: Any) -> None:
        """A ShareRequest, ParamTx, Close or Ballot of this group. Raises PeerFault."""
        if isinstance(message, wire.BallotMessage):
            self.ballots.received(sender, message.ballot)
            return
        if not isinstance(message, (wire.ShareRequestMessage, wire.ParamTxMessage, wire.CloseMessage)):
            raise PeerFault("unexpected", type(message).__name__)
        height = _height(message)
        if height == self.heard.height + 1:
            self._early.setdefault(sender, deque(maxlen=EARLY_MAX)).append(message)
        if height != self.heard.height:
            return
        match message:
            case wire.ShareRequestMessage(_, request):
                self._take_request(request)
            case wire.ParamTxMessage(_, tx):
                self._take_tx(tx)
            case wire.CloseMessage(_, close, txs):
                self._take_close(close, txs)

    def _hear_early(self, sender: ct.MemberId, message: Any) -> None:
        try:
            self.received(sender, message)
        except PeerFault as fault:
            log.debug("an early message was of no use", peer=sender.hex(), why=str(fault))

    def _take_request(self, request: SignedShareRequest) -> None:
        if self._is_new(self.heard.add_request(request)):
            if self.bases.too_old(request.request.council_block_id):
                log.warning("a request was not followed", height=self.heard.height, why="old_base")
                return
            if len(self.heard.requests) < ROUNDS_MAX:
                # Who is reached by a Ci that dies tells the others: else their commitments might split.
                message = wire.ShareRequestMessage(self.context.group_id, request)
                self.context.network.broadcast(self.context.others, message)
            if self.heard.close is None:
                self.pace.step("train")
            self._start_training(request.request)
            self._end_if_split()

    def _take_tx(self, tx: SignedParamTx) -> None:
        if self._is_new(self.heard.add_tx(tx)):
            self.pace.votes(len(self.heard.txs))
            self._end_if_split()

    def _take_close_of(self, close: SignedClose, txs: tuple[SignedParamTx, ...], *, fresh: bool) -> None:
        """Who has not heard a proposal's Close serves its blob from now on.

        So does who has voted and was started anew, when this member passes a prepared block's Close on.
        """
        try:
            self._take_close(close, txs)
        except PeerFault:
            if fresh:
                raise

    def _take_close(self, close: SignedClose, txs: tuple[SignedParamTx, ...]) -> None:
        outcome = self.heard.add_close(close, txs)
        for double in self.heard.take_doubles():
            self.context.on_double(double)
        if self._is_new(outcome):
            # Forwarded to all before the own blob is served: nobody sees a blob that may still commit.
            if len(self.heard.closes) < ROUNDS_MAX:
                self._send_close(close)
            self.pace.step("reveal")
            context = self.context
            for signed in self.heard.closed_txs(close) or ():
                if signed.tx.member == context.me:
                    context.shelf.show(signed.tx.blob_id, (*context.committee.members, *context.seats))
                else:
                    self._home.start_soon(self._fetch_early, signed)

    def _is_new(self, outcome: bool | DoubleSigned) -> bool:
        if isinstance(outcome, DoubleSigned):
            self.context.on_double(outcome)
            return False
        if outcome:
            self._pulse.beat()
        return outcome

    # -- the member's part -------------------------------------------------

    def _start_training(self, request: ShareRequest) -> None:
        if not self._committer.busy and self.own.commitment(self.heard.height) is None:
            self._committer.busy = True  # From now on, not only from when the task first runs.
            self._home.start_soon(self._commit, self.heard, request)

    async def _commit(self, heard: Collected, request: ShareRequest) -> None:
        try:
            signed = await self._committer.commit(heard, request)
        except PeerFault as fault:
            log.warning("a request was not followed", height=heard.height, why=str(fault))
            if heard is self.heard:
                self._requests.unfit(request, fault)
                other = self._requests.to_follow()
                if other is not None and other.request != request:
                    self._start_training(other.request)
            return
        if signed is not None and heard is self.heard:
            self._take_tx(signed)
            message = wire.ParamTxMessage(self.context.group_id, signed)
            self.context.network.broadcast(self.context.others, message)

    async def _fetch_early(self, signed: SignedParamTx) -> None:
        """Bring a revealed update before anybody asks for a vote on it."""
        await self.proposals.bring(signed)
        close = self.heard.close
        txs = self.heard.closed_txs(close) if close else None
        if txs and signed in txs and await self.proposals.all_here(txs):
            self.pace.step("propose")

    # -- Ci's part -----------------------------------------------------------

    async def _gather(self, effect: ct.Build) -> SignedClose | None:
        """Open the round, wait for the commitments, and close. None when no quorum commits to one base."""
        context, heard = self.context, self.heard
        request = self._requests.to_follow() or await self._requests.make(effect)
        if request.request.round in heard.requests:
            context.network.broadcast(context.others, wire.ShareRequestMessage(context.group_id, request))
        else:
            self._take_request(request)
        quorum = context.committee.quorum
        await self._pulse.until(
            lambda: heard.close is not None or len(heard.agreed()) >= quorum or heard.split,
            timeout_s=self.pace.part_s("train") * COLLECT_SHARE
            if self._may_idle(effect.round)
            else float("inf"),
        )
        if heard.close is None and len(heard.agreed()) < quorum:
            return None
        # Who is dead must not cost the others the whole part: theirs would be over before the Close is there.
        await self._pulse.until(
            lambda: heard.close is not None or len(heard.txs) == context.committee.size,
            timeout_s=self._collect_s() * COLLECT_SHARE,
        )
        if heard.close is not None:
            return heard.close
        txs = heard.agreed()
        ids = tuple(struct_hash(signed.tx) for signed in txs)
        close = Close(heard.epoch, heard.height, effect.round, list_root(ids))
        signed = SignedClose(close, ids, await context.sign(close), effect.justification)
        self._take_close(signed, txs)
        return signed

    async def _idle(self, effect: ct.Build) -> ct.Block:
        """End a height in which nothing can be learnt. It needs nobody's request."""
        log.warning("an idle block ends the height", height=effect.height, round=effect.round)
        if self.bases.too_old(self.context.council.tip.block_id):
            await self._requests.council_counts_all()
        block = await self.proposals.make_idle(effect, self.heard, self.context.council.tip.block_id)
        self.pace.step("propose")
        return block

    def _collect_s(self) -> float:
        """How long a quorum waits for the others' commitments: collect_ms, doubled as the part is."""
        times = self.context.genesis.times
        return self.pace.part_s("train") * times.collect_ms / (times.train_ms + times.collect_ms)

    def _send_close(self, close: SignedClose) -> None:
        txs = self.heard.closed_txs(close)
        assert txs is not None
        self.context.network.broadcast(
            self.context.others, wire.CloseMessage(self.context.group_id, close, txs)
        )

    # -- around --------------------------------------------------------------

    def _listen(self) -> None:
        """The next height begins."""
        context = self.context
        height = context.chain.height + 1
        self.heard = Collected(context.domain, context.committee, context.committee.epoch, height)
        self._requests = Requests(context, self.bases, self.heard)


def _height(message: Any) -> int:
    match message:
        case wire.ShareRequestMessage(_, request):
            return request.request.height
        case wire.ParamTxMessage(_, tx):
            return tx.tx.height
        case _:
            return message.close.close.height
