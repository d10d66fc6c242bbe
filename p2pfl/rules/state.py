"""What the council's chain says so far: an immutable fold over its blocks.

`apply` takes a block that was checked and decided: it knows no update and judges nothing again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from types import MappingProxyType

from consensus.chain import FIRST_HEIGHT, FIRST_PARENT_ID
from consensus.signing import block_id, recover, signing_digest
from consensus.types import ZERO_DIGEST, ZERO_MEMBER, Digest, Header, MemberId
from p2pfl import codec
from p2pfl.contradiction import Contradiction, proved
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.membership import Closing, SignedJoin
from p2pfl.offences import NO_OPENING as NO_OPENING_OFFENCE
from p2pfl.offences import REPLAY_MISMATCH
from p2pfl.records import Case, CaseOutcome, CouncilBody, Standing
from p2pfl.roster import Roster
from p2pfl.rules.pool import Pool
from p2pfl.rules.taking_back import Added, added_by
from p2pfl.signed import Measurement, SignedMeasurement, Verdict

OPEN, GUILTY, CLEARED, NO_OPENING = "open", "guilty", "cleared", "no_opening"
# It trained as it said, on labels that nobody else would give: left out for a time. After it: "returned".
HARMFUL, RETURNED = "harmful", "returned"
# Outcomes with which a member is left out: while a case is open, and when it was lost or not answered.
LEFT_OUT = frozenset({OPEN, GUILTY, NO_OPENING, HARMFUL})
# Causes that are no suspicion. They neither wait for a pause nor begin one: else one audit in which a member
# behaves would shield it for rounds, and a suspicion would shield it from audits. How often an honest member
# is drawn is bounded by the share.
AUDIT, REVIEW = "audit", "review"
UNSUSPECTED = frozenset({AUDIT, REVIEW})
# How a member stands that was drawn for audit. It counts on for so many blocks: most have answered by then.
ASKED, PATIENCE_BLOCKS = "asked", 3
OFFENCE_OF = {GUILTY: REPLAY_MISMATCH, NO_OPENING: NO_OPENING_OFFENCE}
# Council blocks after a suspicion was cleared in which a member is not suspected again: one that is merely
# unusual must not have to open every round.
COOLDOWN_BLOCKS = 5
REPLAYED, UNOPENED = 0, 1  # Measurement.status


@dataclass(frozen=True)
class Measured:
    """A measurement, who signed it, and its id: SHA-256 of the canonical bytes with the signature."""

    seat: MemberId
    measurement: Measurement
    id: Digest


@dataclass(frozen=True)
class CaseState:
    """A case and what became of it.

    opened_height, outcome_height: of the council's chain (-1: no outcome yet). opened_epoch: its seats finish
    it. measured: one of each seat and status. certified: offences for which a verdict was certified.
    """

    case: Case
    opened_epoch: int
    opened_height: int
    outcome: str
    outcome_height: int = -1
    measured: tuple[Measured, ...] = ()
    certified: tuple[int, ...] = ()

    @property
    def awaits_measurements(self) -> bool:
        """Whether a seat's measurement can still change it: a missing opening may come late."""
        return self.case.accused != ZERO_MEMBER and self.outcome in (OPEN, NO_OPENING)

    def due_verdict(self) -> Verdict | None:
        """What the council is to certify, if anything."""
        offence = OFFENCE_OF.get(self.outcome)
        if offence is None or offence in self.certified:
            return None
        case = self.case
        return Verdict(case.group_id, case.epoch, case.height, case.accused, offence, case.case_id)


@dataclass(frozen=True)
class CouncilState:
    """The council's chain up to one block.

    network: the genesis. height: -1 before the first block. base_id, exponents, root_update_id: in force for
    the groups that build on this block (root_update_id zero: none). counted: height and id of each group's
    last counted block. cases: by id, in the order in which they were opened. latest: headers of the groups'
    blocks that the last block counted.

    roster: the epochs so far. epoch_height: first height of the newest one. open_epochs: of each group, the
    epoch of the block that comes next. moved_ms: header time at which a group was last counted or closed.
    leaving: who gave notice in this epoch, is expelled with it, or brought harmful data once too often.
    departed: who left or fell silent. seats_wanted: admitted for the council. expelled: who signed a
    contradiction; for good. pool: of honest rounds, for the groups that build on this block. added: what the
    base holds of each group's last counted block.
    """

    network: Genesis
    height: int
    block_id: Digest
    base_id: Digest
    exponents: tuple[int, ...]
    root_update_id: Digest
    counted: Mapping[Digest, tuple[int, Digest]]
    cases: Mapping[Digest, CaseState]
    roster: Roster
    epoch_height: int
    open_epochs: Mapping[Digest, int]
    moved_ms: Mapping[Digest, int]
    pool: Pool
    leaving: frozenset[MemberId] = frozenset()
    departed: frozenset[MemberId] = frozenset()
    seats_wanted: frozenset[MemberId] = frozenset()
    expelled: frozenset[MemberId] = frozenset()
    added: Mapping[Digest, Added] = field(default_factory=lambda: MappingProxyType({}))
    latest: tuple[Header, ...] = ()

    @classmethod
    def genesis(cls, genesis: Genesis) -> CouncilState:
        """Before the first block."""
        nothing = (FIRST_HEIGHT - 1, FIRST_PARENT_ID)
        groups = [genesis.group_id(entry.name) for entry in genesis.groups]
        return cls(
            network=genesis,
            height=FIRST_HEIGHT - 1,
            block_id=ZERO_DIGEST,
            base_id=genesis.initial_base_id,
            exponents=genesis.initial_exponents,
            root_update_id=ZERO_DIGEST,
            counted=MappingProxyType(dict.fromkeys(groups, nothing)),
            cases=MappingProxyType({}),
            roster=Roster.of(genesis),
            epoch_height=FIRST_HEIGHT,
            open_epochs=MappingProxyType(dict.fromkeys(groups, 0)),
            moved_ms=MappingProxyType({}),
            pool=Pool.founded(genesis.pool),
        )

    def apply(self, header: Header, body: CouncilBody) -> CouncilState:
        """The state after the next block. Raises ValueError when it is not the council's next one."""
        if header.group_id != self.network.group_id(COUNCIL) or header.height != self.height + 1:
            raise ValueError(f"block {header.height} does not follow the council's block {self.height}")
        counted = dict(self.counted)
        for block in body.counted:
            counted[block.header.group_id] = (block.header.height, block_id(block.header))
        cases = self.with_measurements(body.measurements)
        for outcome in body.outcomes:
            entry = cases[outcome.case_id]
            cases[outcome.case_id] = replace(entry, outcome=outcome.outcome, outcome_height=header.height)
        for certificate in body.certificates:
            verdict = certificate.verdict
            entry = cases[verdict.case_id]
            cases[verdict.case_id] = replace(entry, certified=(*entry.certified, verdict.offence))
        for case in body.cases:
            # A case without an accused asks nobody anything: it is a record, and closed at once.
            outcome = OPEN if case.accused != ZERO_MEMBER else CLEARED
            cases[case.case_id] = CaseState(case, header.epoch, header.height, outcome)
        return replace(
            self._turned_over(header, body),
            height=header.height,
            block_id=block_id(header),
            base_id=body.base_id,
            exponents=body.exponents,
            root_update_id=body.root_update_id,
            counted=MappingProxyType(counted),
            cases=MappingProxyType(cases),
            added=MappingProxyType({**self.added, **added_by(body.counted, body.rows, self.exponents)}),
            pool=self.pool.after(
                body.scores,
                opened=[case.accused for case in body.cases],
                ended={
                    cases[each.case_id].case.accused: each.outcome == CLEARED and bool(each.measurements)
                    for each in body.outcomes
                },
            ),
            latest=tuple(block.header for block in body.counted),
        )

    def _turned_over(self, header: Header, body: CouncilBody) -> CouncilState:
        """Who came, went or fell silent with this block, and where each group stands."""
        open_epochs, ends = dict(self.open_epochs), body.assignment is not None
        # The clocks of all groups start with the council's first block: nobody is late before.
        moved_ms = dict(self.moved_ms or dict.fromkeys(self.counted, header.time_ms))
        for block in body.counted:
            group_id, epoch = block.header.group_id, block.header.epoch
            own = self.roster.committee(self.network.group_names[group_id], epoch).root()
            open_epochs[group_id] = epoch + (block.header.next_committee_root != own)
            moved_ms[group_id] = header.time_ms
        for closing in body.closings:
            open_epochs[closing.group_id] = closing.epoch + 1
            moved_ms[closing.group_id] = header.time_ms
        # Who was held up by another group's end has its whole time from then on.
        freed = {each for each, epoch in open_epochs.items() if epoch > self.open_epochs[each]}
        for group_id, epoch in open_epochs.items():
            if freed & self._shares(group_id, epoch):
                moved_ms[group_id] = header.time_ms
        named = body.assignment.groups if body.assignment is not None else ()
        seated = {member for group in named for member in group.members}
        expelled = frozenset(self.signer_of(each) for each in body.contradictions)
        leaving = self.leaving | expelled | {each.leave.member for each in body.leaves}
        leaving |= self.too_often_harmful(body.outcomes)
        departed = self.departed - {each.entry.member_id for each in body.joins}
        departed = departed.union(*(self.silent(closing) for closing in body.closings))
        return replace(
            self,
            roster=self.roster.after(body.joins, body.closings, body.assignment, header.time_ms),
            epoch_height=header.height + 1 if ends else self.epoch_height,
            open_epochs=MappingProxyType(open_epochs),
            moved_ms=MappingProxyType(moved_ms),
            leaving=frozenset() if ends else leaving,
            departed=(departed | leaving) - seated if ends else departed,
            seats_wanted=self.wants_seats(body.joins),
            expelled=self.expelled | expelled,
        )

    def wants_seats(self, joins: Iterable[SignedJoin]) -> frozenset[MemberId]:
        """Who was admitted for the council, after these requests: the latest request of each counts."""
        anew = {each.entry.member_id for each in joins}
        return (self.seats_wanted - anew) | {each.entry.member_id for each in joins if each.join.council}

    def waited_for(self, group_id: Digest) -> frozenset[Digest]:
        """The groups in which members of this one still have an epoch to end before they can begin here."""
        epoch = self.open_epochs[group_id]
        return frozenset(each for each in self._shares(group_id, epoch) if self.open_epochs[each] < epoch)

    def _shares(self, group_id: Digest, epoch: int) -> frozenset[Digest]:
        """The other groups that had members of this epoch's committee of this group in the epoch before."""
        names, roster = self.network.group_names, self.roster
        if not epoch or not roster.goes_on(names[group_id], epoch):
            return frozenset()
        here = set(roster.committee(names[group_id], epoch).members)
        before = roster.seatings[epoch - 1].committees
        return frozenset(
            each
            for each in self.counted
            if each != group_id and names[each] in before and here & set(before[names[each]].members)
        )

    def signer_of(self, both: Contradiction) -> MemberId:
        """Who signed both. Raises ValueError or KeyError for what proves nothing (a hostile quorum's)."""
        found = proved(self.network.domain(self.network.group_names[both.group_id]), both)
        if found is None:
            raise ValueError("a contradiction that proves nothing")
        return found[0]

    def silent(self, closing: Closing) -> frozenset[MemberId]:
        """The members of a closed group of whom nothing was heard. The closing was checked."""
        name = self.network.group_names[closing.group_id]
        domain = self.network.domain(name)
        alive = {recover(signing_digest(domain, each.vote), each.signature) for each in closing.alive}
        return frozenset(self.roster.committee(name, closing.epoch).members) - alive

    def with_measurements(self, measurements: Iterable[SignedMeasurement]) -> dict[Digest, CaseState]:
        """The cases with these measurements added."""
        cases = dict(self.cases)
        for signed in measurements:
            measured = self.measured(signed)
            entry = cases[signed.measurement.case_id]
            cases[signed.measurement.case_id] = replace(entry, measured=(*entry.measured, measured))
        return cases

    def measured(self, signed: SignedMeasurement) -> Measured:
        """The measurement with its seat. Raises BadSignature when it is nobody's."""
        digest = signing_digest(self.network.domain(COUNCIL), signed.measurement)
        seat = recover(digest, signed.signature)
        return Measured(seat, signed.measurement, Digest(sha256(codec.encode(signed)).digest()))

    @cached_property
    def _cases_by_member(self) -> Mapping[MemberId, list[CaseState]]:
        found: dict[MemberId, list[CaseState]] = {}
        for entry in self.cases.values():
            found.setdefault(entry.case.accused, []).append(entry)
        return found

    def cases_of(self, member: MemberId) -> Sequence[CaseState]:
        """The cases against this member, in the order in which they were opened."""
        return self._cases_by_member.get(member, ())

    def standings(self, group_id: Digest, epoch: int) -> tuple[Standing, ...]:
        """One for each member of the group in this epoch that was ever accused, in committee order.

        "guilty" outlives everything; otherwise the member's latest case says it.
        """
        found: list[Standing] = []
        for member in self.roster.committee(self.network.group_names[group_id], epoch).members:
            cases = self.cases_of(member)
            if cases:
                said = next((case for case in cases if case.outcome == GUILTY), cases[-1])
                found.append(Standing(member, said.case.case_id, self._standing(said)))
        return tuple(found)

    def _standing(self, entry: CaseState) -> str:
        """How the case leaves its accused: its outcome, where time has not changed it."""
        if self._is_served(entry):
            return RETURNED
        drawn = entry.outcome == OPEN and entry.case.cause == AUDIT
        return ASKED if drawn and self.height - entry.opened_height < PATIENCE_BLOCKS else entry.outcome

    def _is_served(self, entry: CaseState) -> bool:
        """Whether it ended in an exclusion for harmful data that is over."""
        rules = self.network.rules
        return entry.outcome == HARMFUL and self.height - entry.outcome_height > rules.harmful_blocks

    def returned(self, member: MemberId) -> bool:
        """Whether the member's exclusion for harmful data is over and nothing was looked into since."""
        cases = self.cases_of(member)
        return bool(cases) and self._is_served(cases[-1])

    def too_often_harmful(self, outcomes: Iterable[CaseOutcome]) -> frozenset[MemberId]:
        """Whose membership ends with these outcomes of the next block: so often is harmful data too often."""
        found: set[MemberId] = set()
        for outcome in outcomes:
            if outcome.outcome == HARMFUL:
                accused = self.cases[outcome.case_id].case.accused
                before = sum(entry.outcome == HARMFUL for entry in self.cases_of(accused))
                if before + 1 >= self.network.rules.harmful_times:
                    found.add(accused)
        return frozenset(found)

    def stands(self, member: MemberId, newer: Mapping[Digest, str] = MappingProxyType({})) -> str | None:
        """How the member's cases ended, as in `standings`. newer: outcomes not in a block yet, by case."""
        said = [newer.get(entry.case.case_id, entry.outcome) for entry in self.cases_of(member)]
        return GUILTY if GUILTY in said else said[-1] if said else None

    def may_accuse(self, member: MemberId, height: int, cause: str = "") -> bool:
        """Whether a case against this member may be opened at this height of the council's chain.

        One open case at a time, none against who is guilty, excluded, or has not answered yet, and a pause
        between a suspicion that was cleared and the next one.
        """
        for entry in self.cases_of(member):
            if entry.outcome in LEFT_OUT and not self._is_served(entry):
                return False
            suspected = cause not in UNSUSPECTED and entry.case.cause not in UNSUSPECTED
            if suspected and height - entry.outcome_height <= COOLDOWN_BLOCKS:
                return False
        return True

    def open_cases(self) -> list[CaseState]:
        """The cases that a measurement can still change."""
        return [entry for entry in self.cases.values() if entry.awaits_measurements]

    def due_verdicts(self) -> list[Verdict]:
        """What the seats are to certify next."""
        verdicts = [entry.due_verdict() for entry in self.cases.values()]
        return [verdict for verdict in verdicts if verdict is not None]
