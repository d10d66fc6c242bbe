"""The ballots on the last decided block of the own group: the own one is cast, the others' are gathered.

Nobody waits for a ballot but `Ci`, who needs q of them before it proposes: by then a training has passed. A
member that cannot measure abstains, so whoever can vote on a block can also cast a ballot on the one before.
What a ballot means is in `rules.ballots`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial

import trio

from consensus import types as ct
from consensus.signing import block_id
from p2pfl.errors import PeerFault, UserError
from p2pfl.keys import Refused
from p2pfl.learn.worker import TaskFailed, WorkerDied
from p2pfl.net import wire
from p2pfl.records import GroupBody, decode_body
from p2pfl.rounds.context import Context
from p2pfl.rounds.home import Home
from p2pfl.rounds.own import OwnRounds
from p2pfl.rounds.patience import when_there_is_room
from p2pfl.rounds.pulse import Pulse
from p2pfl.rules import ballots as rules
from p2pfl.rules.validate import Derived
from p2pfl.signed import SignedBallot
from p2pfl.telemetry import logger

log = logger("rounds.ballots")

# Ballots on blocks that are not decided here yet, of each member: who is farther behind gets blocks, and not
# messages, and hears the ballots once more with the next round.
EARLY_MAX = 4


@dataclass(frozen=True)
class _Judged:
    """The block that is judged, and what it was made of where that was computed here."""

    header: ct.Header
    block_id: ct.Digest
    derived: Derived | None


class Ballots:
    """One epoch's ballots, of one block after the other."""

    def __init__(self, context: Context, own: OwnRounds, home: Home) -> None:
        self._context = context
        self._own = own
        self._home = home
        self._pulse = Pulse()
        self._judged: _Judged | None = None
        self._heard: dict[ct.MemberId, SignedBallot] = {}
        self._open_height = context.chain.height + 1
        # Of members that have decided before us, the newest of each: looked at when their height is decided.
        self._early: dict[ct.MemberId, deque[SignedBallot]] = {}

    def resume(self) -> None:
        """After a start: the ballot on the last block, as it was cast before or anew, if it is asked for."""
        chain = self._context.chain
        decided = chain.get(chain.height)
        if decided is not None and decided.block.header.epoch == self._context.committee.epoch:
            self.begin(decided.block.header, decode_body(decided.block.body, GroupBody), None)

    def begin(self, header: ct.Header, body: GroupBody, derived: Derived | None) -> None:
        """The next height begins after this block. derived: what it led to, if that was computed here."""
        due = rules.are_due(body, self._context.genesis.rules)
        self._judged = _Judged(header, block_id(header), derived) if due else None
        self._heard.clear()
        self._open_height = header.height + 1
        early, self._early = self._early, {}
        for sender, ballots in early.items():
            for signed in ballots:
                try:
                    self.received(sender, signed)
                except PeerFault as fault:
                    log.debug("an early ballot was of no use", peer=sender.hex(), why=str(fault))
        if self._judged is not None:
            self._home.start_soon(self._cast, self._judged)

    def received(self, sender: ct.MemberId, signed: SignedBallot) -> None:
        """A member's ballot. Raises PeerFault. The first of each counts; another one is no offence."""
        height = signed.ballot.height
        if height >= self._open_height:
            self._early.setdefault(sender, deque(maxlen=EARLY_MAX)).append(signed)
        elif self._judged is not None and height == self._judged.header.height:
            self._take(signed)

    def _take(self, signed: SignedBallot) -> None:
        assert self._judged is not None
        context, judged = self._context, self._judged
        signer = rules.check_one(
            signed,
            context.domain,
            context.committee,
            epoch=judged.header.epoch,
            height=judged.header.height,
            block_id=judged.block_id,
        )
        self._heard.setdefault(signer, signed)
        self._pulse.beat()

    def say_again(self) -> None:
        """A later round began: its Ci may have missed the own ballot."""
        own = self._heard.get(self._context.me)
        if own is not None:
            self._send(own)

    async def gather(self, until_s: float, *, needed: bool) -> tuple[SignedBallot, ...] | None:
        """Those for a block, in committee order, as soon as a quorum is here; no others are waited for.

        Too few at that trio time: none, or None if a block needs them. Nobody is asked: none.
        """
        committee = self._context.committee
        with trio.move_on_at(until_s):
            await self._pulse.until(lambda: self._judged is None or len(self._heard) >= committee.quorum)
        if self._judged is None:
            return ()
        if len(self._heard) < committee.quorum:
            log.warning("ballots are missing", height=self._judged.header.height, here=len(self._heard))
            return None if needed else ()
        return tuple(self._heard[member] for member in committee.members if member in self._heard)

    # -- the own one -----------------------------------------------------------

    async def _cast(self, judged: _Judged) -> None:
        """Measure, sign, make durable, and only then send: the same bytes after a restart."""
        context, header = self._context, judged.header
        signed = self._own.ballot(header.height)
        if signed is None or signed.ballot.block_id != judged.block_id:
            losses = await self._measure(judged)
            ballot = rules.make(header.epoch, header.height, judged.block_id, losses)
            try:
                signature = await context.aside(context.guard.sign_plain, context.domain, ballot)
            except Refused as refused:
                log.warning("no ballot on this block", height=header.height, why=str(refused))
                return
            signed = SignedBallot(ballot, signature)
            await when_there_is_room(partial(self._own.save_ballot, signed), limiter=context.heavy)
        if self._judged is judged:
            self._take(signed)
            self._send(signed)

    async def _measure(self, judged: _Judged) -> tuple[float, float] | None:
        """The loss with the old and the new base; None where that is not to be had in time."""
        context, derived = self._context, judged.derived
        if derived is None:
            return None  # It was decided elsewhere: its blobs may be gone.
        with trio.move_on_after(context.genesis.times.train_ms / 1000):
            try:
                old = await context.trainer.evaluate_held_out(derived.base.values)
                new = await context.trainer.evaluate_held_out(derived.next_base.values)
            except (UserError, WorkerDied, TaskFailed) as error:
                log.warning("a block could not be judged", height=judged.header.height, why=str(error))
                return None
            return None if old is None or new is None else (old[0], new[0])
        return None

    def _send(self, signed: SignedBallot) -> None:
        message = wire.BallotMessage(self._context.group_id, signed)
        self._context.network.broadcast(self._context.others, message)
