"""A seat's part in the open cases: ask the accused, replay what it opens, measure, and share verdicts.

    case opened -> OpenRequest -> OpeningOffer -> fetch, check, replay -> Measurement -> the next block
    guilty by q measurements -> every seat signs the Verdict -> certificate of q -> next block, contract

What the numbers mean is in `rules.council`; the contract is in `prosecutor`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping

import trio

from consensus.signing import recover, signing_digest
from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault, UserError
from p2pfl.genesis import COUNCIL
from p2pfl.keys import Refused
from p2pfl.learn.worker import TaskFailed, WorkerDied
from p2pfl.net import wire
from p2pfl.params import BLOB_BYTES_MAX, parse_update
from p2pfl.records import Case, GroupBody, VerdictCertificate, decode_body
from p2pfl.rounds.bases import base_of_block
from p2pfl.rounds.context import Context
from p2pfl.rounds.driver import UNFORESEEN
from p2pfl.rounds.follow import Chain
from p2pfl.rounds.home import Home
from p2pfl.rounds.pulse import Pulse
from p2pfl.rounds.replay import measure, read_opening
from p2pfl.rules.state import OFFENCE_OF, REPLAYED, UNOPENED, CouncilState
from p2pfl.rules.verdicts import check_measurement
from p2pfl.signed import Measurement, SignedMeasurement, SignedParamTx, Verdict
from p2pfl.telemetry import logger

log = logger("rounds.court")

# The accused and the other seats are asked again this often.
ASK_AGAIN_S = 1.0
# What a seat sends again while its case is open, in case it was lost.
SHARE_AGAIN_S = 2.0


def open_cases(state: CouncilState) -> dict[Digest, Case]:
    """The cases that a measurement can still change."""
    return {entry.case.case_id: entry.case for entry in state.open_cases()}


class Court:
    """One seat's cases. `changed` is called when there is something new for the next council block."""

    def __init__(
        self,
        context: Context,
        home: Home,
        groups: Mapping[Digest, Chain],
        changed: Callable[[], None],
    ) -> None:
        self._context = context
        self._home = home
        self._groups = groups
        self._changed = changed
        self._pulse = Pulse()
        self._offers: dict[Digest, dict[MemberId, tuple[Digest, int]]] = {}
        self._inquiries: dict[Digest, trio.CancelScope] = {}
        self._measured: dict[Digest, dict[tuple[MemberId, int], SignedMeasurement]] = {}
        self._shares: dict[Verdict, dict[MemberId, bytes]] = {}
        self._state: CouncilState = context.council.tip

    # -- for the next block ---------------------------------------------------

    def measurements(self, state: CouncilState) -> tuple[SignedMeasurement, ...]:
        """Those that the next council block may hold, in its order."""
        found: list[SignedMeasurement] = []
        for case_id in sorted(open_cases(state)):
            for _, signed in sorted(self._measured.get(case_id, {}).items()):
                try:
                    check_measurement(signed, state, state.height + 1)
                except PeerFault:
                    continue  # In a block already, or too early.
                found.append(signed)
        return tuple(found)

    def certificates(self, state: CouncilState) -> tuple[VerdictCertificate, ...]:
        """Verdicts that a quorum of seats has signed and no block holds yet."""
        found: list[VerdictCertificate] = []
        for verdict in state.due_verdicts():
            committee = state.roster.committee(COUNCIL, state.cases[verdict.case_id].opened_epoch)
            shares = {k: v for k, v in self._shares.get(verdict, {}).items() if k in committee}
            if len(shares) >= committee.quorum:
                signatures = tuple(shares[seat] for seat in sorted(shares)[: committee.quorum])
                found.append(VerdictCertificate(verdict, signatures))
        return tuple(found)

    # -- as the council's chain grows -------------------------------------------

    def update(self, state: CouncilState) -> None:
        """A council block was decided: begin what it asks for, end what it ended."""
        self._state = state
        still_open = open_cases(state)
        for case_id, scope in list(self._inquiries.items()):
            if case_id not in still_open:
                scope.cancel()
                del self._inquiries[case_id]
                self._measured.pop(case_id, None)
                self._offers.pop(case_id, None)
        for case_id, case in still_open.items():
            bench = state.roster.committee(COUNCIL, state.cases[case_id].opened_epoch)
            if case_id not in self._inquiries and self._context.me in bench:
                self._inquiries[case_id] = trio.CancelScope()
                self._home.start_soon(self._inquire, case, self._inquiries[case_id])
        for verdict in state.due_verdicts():
            if self._context.me not in self._shares.get(verdict, {}):
                try:
                    signature = self._context.guard.sign_plain(self._context.domain, verdict)
                except Refused as refused:
                    log.warning("the guard refused to sign a verdict", why=str(refused))
                    continue
                self._keep_share(verdict, self._context.me, signature)
                self._home.start_soon(self._share, verdict, signature)
        self._pulse.beat()

    # -- what the network brings ------------------------------------------------

    def received(self, sender: MemberId, message: wire.Message) -> None:
        """An offer, a measurement or a verdict share. Raises PeerFault."""
        match message:
            case wire.OpeningOffer(case_id, opening_id, length):
                case = open_cases(self._state).get(case_id)
                if case is None:
                    return
                if sender != case.accused and sender not in self._context.seats:
                    raise PeerFault("unexpected", "an opening by somebody who is neither accused nor seat")
                if length > BLOB_BYTES_MAX:
                    raise PeerFault("too_large", f"an opening of {length} bytes")
                self._offers.setdefault(case_id, {})[sender] = (opening_id, length)
                self._pulse.beat()
            case wire.MeasurementMessage(signed):
                self._take_measurement(signed)
            case wire.VerdictShare(verdict, signature):
                if self._may_be(verdict):
                    self._keep_share(verdict, self._by_seat(verdict, signature), signature)
            case _:
                raise PeerFault("unexpected", type(message).__name__)

    def _take_measurement(self, signed: SignedMeasurement) -> None:
        case_id = signed.measurement.case_id
        if case_id not in open_cases(self._state):
            return
        seat = self._by_seat(signed.measurement, signed.signature)
        if signed.measurement.status not in (REPLAYED, UNOPENED):
            raise PeerFault("bad_measurement", f"status {signed.measurement.status}")
        held = self._measured.setdefault(case_id, {})
        if (seat, signed.measurement.status) not in held:
            held[seat, signed.measurement.status] = signed
            self._changed()

    def _keep_share(self, verdict: Verdict, seat: MemberId, signature: bytes) -> None:
        shares = self._shares.setdefault(verdict, {})
        if seat not in shares:
            shares[seat] = signature
            self._changed()

    def _may_be(self, verdict: Verdict) -> bool:
        """Whether this verdict can follow from a case that the chain knows (bounds what is kept)."""
        entry = self._state.cases.get(verdict.case_id)
        if entry is None or verdict.offence not in OFFENCE_OF.values():
            return False
        case = entry.case
        return verdict == Verdict(
            case.group_id, case.epoch, case.height, case.accused, verdict.offence, case.case_id
        )

    def _by_seat(self, struct: Measurement | Verdict, signature: bytes) -> MemberId:
        try:
            seat = recover(signing_digest(self._context.domain, struct), signature)
        except ValueError as error:  # BadSignature, or a field that its ABI type cannot hold.
            raise PeerFault("bad_signature", str(error)) from error
        if seat not in self._context.committee and seat not in self._context.seats:
            raise PeerFault("not_a_seat", "signed by somebody who is no seat")
        return seat

    # -- one case ------------------------------------------------------------------

    async def _inquire(self, case: Case, scope: trio.CancelScope) -> None:
        try:
            await self._ask(case, scope)
        except Refused as refused:
            log.warning("the guard refused to sign a measurement", why=str(refused))
        except UNFORESEEN:
            # A lost group can decide what nobody foresaw: the inquiry ends, and not the node.
            told = traceback.format_exc()[-2000:]
            log.error("a bug: a case cannot be looked into", accused=case.accused.hex(), error=told)

    async def _ask(self, case: Case, scope: trio.CancelScope) -> None:
        """Ask until something valid came and is replayed; when the deadline passes, say that nothing did."""
        context = self._context
        tried: set[tuple[MemberId, Digest]] = set()
        own: dict[int, SignedMeasurement] = {}
        shared_s = -SHARE_AGAIN_S
        with scope:
            # A seat that lost its copy fetches it first.
            while self._groups[case.group_id].height < case.height:
                await self._pulse.sleep_or_beat(ASK_AGAIN_S)
            tx = self._commitment(case)
            while True:
                if REPLAYED not in own:
                    context.network.send(case.accused, wire.OpenRequest(case.case_id))
                    replayed = await self._try_offers(case, tx, tried)
                    if replayed is not None:
                        own[REPLAYED] = replayed
                    elif UNOPENED not in own and self._state.height >= case.deadline_height:
                        own[UNOPENED] = self._signed(case, UNOPENED, Digest(bytes(32)), 0)
                if trio.current_time() - shared_s >= SHARE_AGAIN_S:
                    shared_s = trio.current_time()
                    for signed in own.values():
                        context.network.broadcast(context.others, wire.MeasurementMessage(signed))
                await self._pulse.sleep_or_beat(ASK_AGAIN_S)

    async def _try_offers(
        self, case: Case, tx: SignedParamTx, tried: set[tuple[MemberId, Digest]]
    ) -> SignedMeasurement | None:
        for sender, (opening_id, length) in list(self._offers.get(case.case_id, {}).items()):
            if (sender, opening_id) in tried:
                continue
            tried.add((sender, opening_id))
            try:
                worst_ppm = await self._replay(case, tx, sender, opening_id, length)
            except (PeerFault, UserError, WorkerDied, TaskFailed) as fault:
                log.warning("an opening was refused", accused=case.accused.hex(), why=str(fault))
                continue
            return self._signed(case, REPLAYED, opening_id, worst_ppm)
        return None

    async def _replay(
        self, case: Case, tx: SignedParamTx, sender: MemberId, opening_id: Digest, length: int
    ) -> int:
        context = self._context
        data = await context.shelf.need(opening_id, length, [sender], context.others, timeout_s=30.0)
        members = self._members(case)
        base = await base_of_block(context, self._groups[case.group_id], self._body(case).base, members)
        read = (data, tx.tx, base, context.genesis, case.group_id)
        opening, job = await context.aside(read_opening, *read)
        # What this seat holds it can hand on: an accused cannot show its round to some seats only.
        context.shelf.show(opening_id, context.seats)
        offer = wire.OpeningOffer(case.case_id, opening_id, length)
        context.network.broadcast(context.others, offer)
        layout = context.genesis.task.layout
        body = self._body(case)
        blob = await context.shelf.need(tx.tx.blob_id, tx.tx.byte_length, [case.accused], members)
        update = parse_update(blob, layout, body.exponents)
        return await measure(opening, job, base, update, context.trainer.replay_segment)

    def _signed(self, case: Case, status: int, opening_id: Digest, worst_ppm: int) -> SignedMeasurement:
        """The own measurement, signed, kept for the next block and told to the other seats."""
        context = self._context
        epoch = self._state.cases[case.case_id].opened_epoch  # Its seats finish it, signing in that epoch.
        measurement = Measurement(epoch, case.case_id, case.accused, status, opening_id, worst_ppm)
        signed = SignedMeasurement(measurement, context.guard.sign_plain(context.domain, measurement))
        self._take_measurement(signed)
        context.network.broadcast(context.others, wire.MeasurementMessage(signed))
        fields = {"case_id": "0x" + case.case_id.hex(), "seat": context.name_of(context.me)}
        context.observe("measured", {**fields, "worst_ppm": worst_ppm, "status": status})
        return signed

    async def _share(self, verdict: Verdict, signature: bytes) -> None:
        while verdict in self._state.due_verdicts():
            self._context.network.broadcast(self._context.others, wire.VerdictShare(verdict, signature))
            await trio.sleep(SHARE_AGAIN_S)

    # -- what the case is about -------------------------------------------------------

    def _body(self, case: Case) -> GroupBody:
        decided = self._groups[case.group_id].get(case.height)
        assert decided is not None, "a case names a block that the council counted"
        return decode_body(decided.block.body, GroupBody)

    def _commitment(self, case: Case) -> SignedParamTx:
        return next(signed for signed in self._body(case).txs if signed.tx.member == case.accused)

    def _members(self, case: Case) -> tuple[MemberId, ...]:
        name = self._context.genesis.group_names[case.group_id]
        return self._context.roster.committee(name, case.epoch).members
