"""One case as one seat looks into it: ask the accused, take what is offered, replay what fits, measure.

    an offer --fetch--> bytes --those that the member committed to?--> brought --replay--> REPLAYED
    deadline and time passed, nothing was brought ----------------------------------------> UNOPENED

What this seat fails at by itself, and what the group's quorum has falsified, never counts against the
accused: then nothing is signed. Who may offer is in `court`, what q measurements mean in `rules.verdicts`.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import trio

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault, UserError
from p2pfl.learn.labels import NOTHING_SAID, LabelsJudged
from p2pfl.learn.train import TrainJob
from p2pfl.learn.worker import TaskFailed, WorkerDied
from p2pfl.net import wire
from p2pfl.net.stream import one_error
from p2pfl.params import Base, blob_id, parse_update
from p2pfl.records import Case, GroupBody, decode_body
from p2pfl.rounds.bases import base_of_block
from p2pfl.rounds.context import Context
from p2pfl.rounds.driver import UNFORESEEN
from p2pfl.rounds.follow import Chain
from p2pfl.rounds.pulse import Pulse
from p2pfl.rounds.replay import Opening, job_of_opening, measure, opening_bytes_max, read_opening
from p2pfl.rounds.shelf import SLOWEST_BYTES_S
from p2pfl.rules.state import REPLAYED, UNOPENED, CouncilState
from p2pfl.signed import Measurement, ParamTx, SignedMeasurement
from p2pfl.telemetry import logger

log = logger("rounds.inquiry")

# The accused is asked this often.
ASK_AGAIN_S = 1.0
# What a seat sends again while its case is open, in case it was lost.
SHARE_AGAIN_S = 2.0
# How long the blob of an offer may take; other offers are fetched meanwhile.
OPENING_WAIT_S = 30.0
# A replay that raised an error so often is the opening's doing: otherwise an accused could commit to states
# that nobody can replay, and never be measured. One seat whose machine is broken is no quorum. A worker that
# dies (of too little memory, say) proves nothing.
FAILURES_MAX = 3
# What failed, or was not served, is looked at again after so long.
TRY_AGAIN_S = 5.0
# A seat that begins when the deadline has passed (it was started anew) asks for so long before it gives up.
GRACE_S = 10.0
# Blocks may come quickly while one member trains, sends over a slow link, or is down for a while. So before
# a seat says that nothing was opened, there was time for so many trainings and gatherings of commits (the
# accused may have to finish its round, and train it again), for the largest opening on the slowest link, and
# for an outage of so many trainings: at half a minute each, ten minutes, which a reboot or a new line takes.
ROUNDS_ALLOWED, OUTAGE_TRAININGS = 4, 20
# But a case lapses so many blocks after its deadline as it had before it: the seats need these to say it in.
BLOCKS_LEFT = 2

Offer: TypeAlias = tuple[MemberId, Digest, int]  # By whom, the opening's id, its length.


class Falsified(Exception):
    """The group's block names another base or other exponents than its members trained with."""


class Inquiry:
    """`run` until cancelled.

    offers: those known now. state: the council's newest. keep: told of each own measurement.
    """

    def __init__(
        self,
        context: Context,
        case: Case,
        chain: Chain,
        *,
        pulse: Pulse,
        offers: Callable[[], list[Offer]],
        state: Callable[[], CouncilState],
        keep: Callable[[SignedMeasurement], None],
    ) -> None:
        self._context = context
        self._case = case
        self._chain = chain
        self._pulse = pulse
        self._offers = offers
        self._state = state
        self._keep = keep
        self._own: dict[int, SignedMeasurement] = {}
        self._trying: dict[MemberId, tuple[Offer, trio.CancelScope]] = {}  # By whom.
        self._brought: set[Digest] = set()  # They fit what the member committed to.
        self._refused: set[Digest] = set()  # They are no opening of this round, or nobody can replay them.
        self._failures: Counter[Digest] = Counter()
        self._heard: set[MemberId] = set()  # Whose first offer was taken as far as it goes.
        self._base: Base | None = None
        self._replaying = trio.Lock()

    async def run(self) -> None:
        """Ask until an opening came and is replayed; when the deadline passes, say that none was brought."""
        while self._chain.height < self._case.height:  # A seat that lost its copy fetches it first.
            await self._pulse.sleep_or_beat(ASK_AGAIN_S)
        patient_until_s = trio.current_time() + GRACE_S
        with one_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._share)
                while True:
                    if REPLAYED not in self._own:
                        self._context.network.send(self._case.accused, wire.OpenRequest(self._case.case_id))
                        self._begin(nursery)
                        if trio.current_time() >= patient_until_s:
                            await self._give_up_in_time()
                    await self._pulse.sleep_or_beat(ASK_AGAIN_S)

    async def _share(self) -> None:
        """Tell the other seats what was measured, again and again: a word may be lost."""
        context = self._context
        while True:
            for signed in self._own.values():
                context.network.broadcast(context.others, wire.MeasurementMessage(signed))
            await trio.sleep(SHARE_AGAIN_S)

    def _begin(self, nursery: trio.Nursery) -> None:
        """Try every offer that is new or may be tried again, one of each sender at a time.

        What the accused says of the length of its own opening is believed rather than what a seat says.
        """
        offers = self._possible()
        own = {offer[1]: offer[2] for offer in offers if offer[0] == self._case.accused}
        for offer in offers:
            sender, opening_id, length = offer
            right = own.get(opening_id, length) == length
            for other, (told, scope) in self._trying.items():
                if other != sender and told[1] == opening_id and own.get(opening_id, told[2]) != told[2]:
                    scope.cancel()  # It asks for another length than the accused's.
            if right and opening_id not in self._refused and not self._is_tried(offer):
                scope = trio.CancelScope()
                self._trying[sender] = (offer, scope)
                nursery.start_soon(self._try, offer, scope)

    def _possible(self) -> list[Offer]:
        """The offers that can be openings of this round: none is longer than its commitment allows."""
        most = opening_bytes_max(self._commitment(), self._context.genesis.task)
        return [offer for offer in self._offers() if 0 < offer[2] <= most]

    def _is_tried(self, offer: Offer) -> bool:
        sender, opening_id, _ = offer
        return sender in self._trying or any(told[1] == opening_id for told, _ in self._trying.values())

    async def _give_up_in_time(self) -> None:
        """After the deadline: the accused has brought nothing, unless nobody could have."""
        height, deadline = self._state().height, self._case.deadline_height
        last = deadline + max(0, self._context.genesis.rules.case_blocks - BLOCKS_LEFT)
        if height < deadline or self._brought or UNOPENED in self._own:
            return
        # First offers are waited for as long as each may take to fetch; those of others than the accused,
        # and the time that it is allowed, not until the case ends without an outcome.
        unheard = {sender for sender, *_ in self._possible()} - self._heard
        if self._case.accused in unheard or (height < last and (unheard or not self._had_time())):
            return
        try:
            await self._own_base()  # The accused needs it too, where it has to train again to open its round.
        except (Falsified, PeerFault, UserError) as error:
            log.error("no opening, and perhaps none can be made", group=self._chain.name, why=str(error))
            await trio.sleep(TRY_AGAIN_S)
            return
        if not self._brought:
            self._sign(UNOPENED, Digest(bytes(32)), 0, LabelsJudged(0, 0))

    def _had_time(self) -> bool:
        """Whether the accused had the least time to answer, by the council's header times."""
        context, opened = self._context, self._state().cases[self._case.case_id].opened_height
        chain, times = context.council.chain, context.genesis.times
        asked, tip = chain.get(opened), chain.tip
        if asked is None or tip is None:
            return False
        sending_ms = 1000 * opening_bytes_max(self._commitment(), context.genesis.task) // SLOWEST_BYTES_S
        allowed_ms = ROUNDS_ALLOWED * (times.train_ms + times.collect_ms) + OUTAGE_TRAININGS * times.train_ms
        return tip.time_ms - asked.block.header.time_ms >= allowed_ms + sending_ms

    async def _try(self, offer: Offer, scope: trio.CancelScope) -> None:
        """Take one offer as far as it goes. What failed here, or was not served, is tried again later."""
        sender = offer[0]
        try:
            with scope:
                await self._attempt(offer)
        finally:
            self._heard.add(sender)
            del self._trying[sender]

    async def _attempt(self, offer: Offer) -> None:
        opening_id = offer[1]
        try:
            await self._take(offer)
        except Falsified as falsified:
            # Nobody can measure anything: the case ends without a word of this seat.
            log.error("a group's block is falsified", group=self._chain.name, why=str(falsified))
        except PeerFault as fault:
            log.warning("an opening was refused", accused=self._case.accused.hex(), why=str(fault))
            if fault.reason == "bad_opening":
                self._refused.add(opening_id)
                self._brought.discard(opening_id)
        except (UserError, WorkerDied, TaskFailed) as failure:
            log.error("an opening could not be replayed here", opening=opening_id.hex(), why=str(failure))
            self._failures[opening_id] += isinstance(failure, TaskFailed)
            if self._failures[opening_id] >= FAILURES_MAX:
                self._refused.add(opening_id)
                self._brought.discard(opening_id)
        except UNFORESEEN:
            # Ours, and perhaps the same at all seats: what was brought stays brought.
            told = traceback.format_exc()[-2000:]
            log.error("a bug: an opening cannot be replayed", opening=opening_id.hex(), error=told)
            self._refused.add(opening_id)
        if opening_id not in self._refused and REPLAYED not in self._own:
            await trio.sleep(TRY_AGAIN_S)

    async def _take(self, offer: Offer) -> None:
        context, tx = self._context, self._commitment()
        sender, opening_id, length = offer
        data = await context.shelf.need(
            opening_id, length, [sender], context.others, timeout_s=OPENING_WAIT_S, claimed=True
        )
        opening = await context.aside(read_opening, data, tx)
        self._brought.add(opening_id)  # Unless it proves to be none, the accused has done its part.
        # What this seat holds it can hand on: an accused cannot show its round to some seats only.
        context.shelf.show(opening_id, context.seats)
        context.network.broadcast(context.others, wire.OpeningOffer(self._case.case_id, opening_id, length))
        async with self._replaying:
            if REPLAYED not in self._own:
                self._sign(REPLAYED, opening_id, *await self._measured(opening, opening_id))

    async def _measured(self, opening: Opening, opening_id: Digest) -> tuple[int, LabelsJudged]:
        context, case, tx = self._context, self._case, self._commitment()
        base = await self._own_base()
        job = await context.aside(job_of_opening, opening, tx, base, context.genesis, case.group_id)
        try:
            blob = await context.shelf.need(tx.blob_id, tx.byte_length, [case.accused], self._members())
        except PeerFault:
            self._brought.discard(opening_id)  # It is the accused's own update: without it nothing is opened.
            raise
        update = parse_update(blob, context.genesis.task.layout, self._body().exponents)
        most_ppm = context.genesis.rules.replay_max_ppm
        replay = context.trainer.replay_segment
        worst_ppm = await measure(opening, job, base, update, replay, enough_ppm=most_ppm)
        if worst_ppm > most_ppm:
            return worst_ppm, NOTHING_SAID  # Who did not train on them needs no labels.
        return worst_ppm, await self._labels(job)

    async def _labels(self, job: TrainJob) -> LabelsJudged:
        """What the reference model says of them; nothing where this seat cannot ask it."""
        try:
            return await self._context.trainer.judge_labels(job.x, job.y)
        except (PeerFault, UserError, WorkerDied, TaskFailed) as failure:
            accused = self._context.name_of(self._case.accused)
            log.warning("opened labels could not be judged", accused=accused, why=str(failure))
            return NOTHING_SAID

    async def _own_base(self) -> Base:
        """The base that the member signed. Raises Falsified when the block's words lead to another one."""
        if self._base is None:
            context, body = self._context, self._body()
            base = await base_of_block(context, self._chain, body.base, self._members())
            if await context.aside(_id_of, base) != self._commitment().base_id:
                raise Falsified("its heights do not lead to the base that its members signed")
            state = await context.council.recall(body.base.council_block_id, least_height=-1)
            if state is None or state.exponents != body.exponents:
                raise Falsified("its exponents are not those of the council's block that it names")
            self._base = base
        return self._base

    def _sign(self, status: int, opening_id: Digest, worst_ppm: int, labels: LabelsJudged) -> None:
        """The own measurement, signed, kept for the next block and told to the other seats."""
        context, case = self._context, self._case
        epoch = self._state().cases[case.case_id].opened_epoch  # Its seats finish it, signing in that epoch.
        measurement = Measurement(
            epoch, case.case_id, case.accused, status, opening_id, worst_ppm,
            labels.disagree_ppm, labels.expected_ppm,
        )  # fmt: skip
        signed = SignedMeasurement(measurement, context.guard.sign_plain(context.domain, measurement))
        self._own[status] = signed
        self._keep(signed)
        context.network.broadcast(context.others, wire.MeasurementMessage(signed))
        fields = {"case_id": "0x" + case.case_id.hex(), "seat": context.name_of(context.me)}
        fields |= {"disagree_ppm": labels.disagree_ppm, "expected_ppm": labels.expected_ppm}
        context.observe("measured", {**fields, "worst_ppm": worst_ppm, "status": status})

    def _body(self) -> GroupBody:
        decided = self._chain.get(self._case.height)
        assert decided is not None, "a case names a block that the council counted"
        return decode_body(decided.block.body, GroupBody)

    def _commitment(self) -> ParamTx:
        return next(each.tx for each in self._body().txs if each.tx.member == self._case.accused)

    def _members(self) -> tuple[MemberId, ...]:
        context, case = self._context, self._case
        return context.roster.committee(context.genesis.group_names[case.group_id], case.epoch).members


def _id_of(base: Base) -> Digest:
    return blob_id(base.to_bytes())
