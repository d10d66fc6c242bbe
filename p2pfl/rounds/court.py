"""A seat's part in the open cases: looks into each (`inquiry`), collects measurements, shares verdicts.

    case opened -> OpenRequest -> OpeningOffer -> fetch, check, replay -> Measurement -> the next block
    guilty by q measurements -> every seat signs the Verdict -> certificate of q -> next block, contract

What the numbers mean is in `rules.verdicts`; the contract is in `prosecutor`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping

import trio

from consensus.signing import recover, signing_digest
from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.keys import Refused
from p2pfl.net import wire
from p2pfl.params import BLOB_BYTES_MAX
from p2pfl.records import Case, VerdictCertificate
from p2pfl.rounds.context import Context
from p2pfl.rounds.driver import UNFORESEEN
from p2pfl.rounds.follow import Chain
from p2pfl.rounds.home import Home
from p2pfl.rounds.inquiry import SHARE_AGAIN_S, Inquiry, Offer
from p2pfl.rounds.pulse import Pulse
from p2pfl.rules.state import OFFENCE_OF, REPLAYED, UNOPENED, CouncilState
from p2pfl.rules.verdicts import check_measurement
from p2pfl.signed import Measurement, SignedMeasurement, Verdict
from p2pfl.telemetry import logger

log = logger("rounds.court")


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
        self._context.shelf.hold_only(still_open)
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
                self._context.shelf.hold(case_id, sender, opening_id)
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
            with scope:
                await self._inquiry(case).run()
        except Refused as refused:
            log.warning("the guard refused to sign a measurement", why=str(refused))
        except UNFORESEEN:
            # A lost group can decide what nobody foresaw: the inquiry ends, and not the node.
            told = traceback.format_exc()[-2000:]
            log.error("a bug: a case cannot be looked into", accused=case.accused.hex(), error=told)

    def _inquiry(self, case: Case) -> Inquiry:
        def offers() -> list[Offer]:
            held = self._offers.get(case.case_id, {})
            # The accused first: what it offers itself is the likeliest to be served.
            return [(m, *held[m]) for m in sorted(held, key=lambda member: member != case.accused)]

        return Inquiry(
            self._context,
            case,
            self._groups[case.group_id],
            pulse=self._pulse,
            offers=offers,
            state=lambda: self._state,
            keep=self._take_measurement,
        )

    async def _share(self, verdict: Verdict, signature: bytes) -> None:
        while verdict in self._state.due_verdicts():
            self._context.network.broadcast(self._context.others, wire.VerdictShare(verdict, signature))
            await trio.sleep(SHARE_AGAIN_S)
