"""From measurements to outcomes to certified verdicts, and which cases may be opened at all.

A suspicion never slashes: guilty is only whom a quorum of seats measured above the threshold. All of it
follows from the council's chain and signed records; who replays, and when a seat gives up waiting, is in
`rounds`.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.signing import BadSignature, recover, signing_digest
from consensus.types import ZERO_MEMBER, Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL, Rules
from p2pfl.records import Case, CaseOutcome, VerdictCertificate
from p2pfl.rules.cases import case_id_of
from p2pfl.rules.state import (
    CLEARED,
    GUILTY,
    HARMFUL,
    NO_OPENING,
    OPEN,
    REPLAYED,
    UNOPENED,
    CaseState,
    CouncilState,
)
from p2pfl.signed import Measurement, SignedMeasurement


def admissible_cases(state: CouncilState, cases: Sequence[Case], height: int) -> tuple[Case, ...]:
    """Those that may be opened now, in the given order, one for each accused; each block is asked about once.

    Raises PeerFault for a case whose id or deadline is wrong.
    """
    known = {(entry.case.block_id, entry.case.cause, entry.case.accused) for entry in state.cases.values()}
    taken: list[Case] = []
    accused: set[MemberId] = set()
    for case in cases:
        if case.case_id != case_id_of(case):
            raise PeerFault("bad_case", "its id is another")
        if case.deadline_height != height + state.network.rules.case_blocks:
            raise PeerFault("bad_case", f"deadline {case.deadline_height}")
        key = (case.block_id, case.cause, case.accused)
        if key in known or case.accused in accused:
            continue
        if case.accused != ZERO_MEMBER:
            if not state.may_accuse(case.accused, height, case.cause):
                continue
            accused.add(case.accused)
        known.add(key)
        taken.append(case)
    return tuple(taken)


def check_measurement(signed: SignedMeasurement, state: CouncilState, height: int) -> MemberId:
    """The seat that measured. Raises PeerFault unless the council's block of this height may hold it."""
    measurement = signed.measurement
    entry = state.cases.get(measurement.case_id)
    if entry is None or not entry.awaits_measurements:
        raise PeerFault("bad_measurement", "of no open case")
    if measurement.accused != entry.case.accused or measurement.epoch != entry.opened_epoch:
        raise PeerFault("bad_measurement", "of another member or epoch")
    if measurement.status not in (REPLAYED, UNOPENED):
        raise PeerFault("bad_measurement", f"status {measurement.status}")
    if measurement.status == UNOPENED and height < entry.case.deadline_height:
        raise PeerFault("bad_measurement", "the accused still has time")
    try:
        seat = state.measured(signed).seat
    except ValueError as error:  # BadSignature, or a field that its ABI type cannot hold.
        raise PeerFault("bad_measurement", str(error)) from error
    if seat not in state.roster.committee(COUNCIL, entry.opened_epoch):
        raise PeerFault("bad_measurement", "not a seat's")
    if any((m.seat, m.measurement.status) == (seat, measurement.status) for m in entry.measured):
        raise PeerFault("bad_measurement", "this seat has measured already")
    return seat


def check_measurements(
    measurements: Sequence[SignedMeasurement], state: CouncilState, height: int
) -> tuple[SignedMeasurement, ...]:
    """Them by case id, then seat, then status. Raises PeerFault for one that may not stand there."""
    keyed: dict[tuple[Digest, MemberId, int], SignedMeasurement] = {}
    for signed in measurements:
        seat = check_measurement(signed, state, height)
        key = (signed.measurement.case_id, seat, signed.measurement.status)
        if key in keyed:
            raise PeerFault("bad_measurement", "this seat has measured already")
        keyed[key] = signed
    return tuple(keyed[key] for key in sorted(keyed))


def derive_outcomes(
    state: CouncilState, measurements: Sequence[SignedMeasurement], height: int
) -> tuple[CaseOutcome, ...]:
    """How cases end in this block, in the order in which they were opened."""
    rules = state.network.rules
    found: list[CaseOutcome] = []
    for entry in state.with_measurements(measurements).values():
        if entry.awaits_measurements:
            quorum = state.roster.committee(COUNCIL, entry.opened_epoch).quorum
            outcome = _outcome(entry, rules, height, quorum)
            if outcome is not None and outcome.outcome != entry.outcome:
                found.append(outcome)
    return tuple(found)


def _outcome(entry: CaseState, rules: Rules, height: int, quorum: int) -> CaseOutcome | None:
    """Guilty only if a quorum measured above the threshold; cleared if a quorum measured below.

    Of those below, a quorum must have found the labels wrong, or not: neither one liar's word excludes a
    member, nor does it clear one. A seat that found no opening and later measured one counts for both: what
    was measured says more.
    """
    replayed = [m for m in entry.measured if m.measurement.status == REPLAYED]
    above = [m for m in replayed if m.measurement.worst_ppm > rules.replay_max_ppm]
    below = [m for m in replayed if m.measurement.worst_ppm <= rules.replay_max_ppm]
    harmful = [m for m in below if is_harmful(m.measurement, rules)]
    clean = [m for m in below if not is_harmful(m.measurement, rules)]
    unopened = [m for m in entry.measured if m.measurement.status == UNOPENED]
    found = ((GUILTY, above), (HARMFUL, harmful), (CLEARED, clean), (NO_OPENING, unopened))
    for outcome, witnesses in found:
        if len(witnesses) >= quorum:
            return CaseOutcome(entry.case.case_id, outcome, tuple(sorted(m.id for m in witnesses)))
    if entry.outcome == OPEN and height > entry.case.deadline_height + rules.case_blocks:
        # The seats came to no quorum: a suspicion must not outlive them, and it never slashes. It is cleared
        # by nobody's measurement: what the suspect sent is no honest round (`rules.pool`).
        return CaseOutcome(entry.case.case_id, CLEARED, ())
    return None


def is_harmful(measurement: Measurement, rules: Rules) -> bool:
    """Whether the reference model disagrees with far more of the opened labels than it errs by itself.

    A seat whose model is not good says nothing (`learn.labels`). What is expected is no word of that: it goes
    by the mix of the labels, which the accused chose.
    """
    return measurement.disagree_ppm > measurement.expected_ppm + rules.harmful_max_ppm


def check_verdict_certificate(certificate: VerdictCertificate, state: CouncilState) -> tuple[MemberId, ...]:
    """The seats that signed. Raises PeerFault unless a quorum certifies what the case's outcome says."""
    entry = state.cases.get(certificate.verdict.case_id)
    if entry is None or entry.due_verdict() != certificate.verdict:
        raise PeerFault("bad_verdict", "no case has this outcome")
    genesis = state.network
    committee = state.roster.committee(COUNCIL, entry.opened_epoch)
    digest = signing_digest(genesis.domain(COUNCIL), certificate.verdict)
    try:
        seats = [recover(digest, signature) for signature in certificate.signatures]
    except BadSignature as error:
        raise PeerFault("bad_verdict", str(error)) from error
    if any(seat not in committee for seat in seats) or seats != sorted(set(seats)):
        raise PeerFault("bad_verdict", "not distinct seats in ascending order")
    if len(seats) < committee.quorum:
        raise PeerFault("bad_verdict", f"{len(seats)} signatures, {committee.quorum} are needed")
    return tuple(seats)


def check_verdict_certificates(
    certificates: Sequence[VerdictCertificate], state: CouncilState
) -> tuple[VerdictCertificate, ...]:
    """Them by case id, then offence. Raises PeerFault for one that may not stand in the next block."""
    for certificate in certificates:
        check_verdict_certificate(certificate, state)
    keyed = {(each.verdict.case_id, each.verdict.offence): each for each in certificates}
    if len(keyed) < len(certificates):
        raise PeerFault("bad_verdict", "the same verdict twice")
    return tuple(keyed[key] for key in sorted(keyed))
