"""The body of the council's block: groups compared, a global base minted, cases opened and closed.

    counted blocks -> deltas of the groups -> Gram matrix, rows -> mean of who does not stand apart -> base

As with groups, one function derives the body, to propose it and to check it. Whether a root update is close
enough to a seat's own, and who fetched what, is judged in `rounds`. What the chain says so far is in `state`,
what measurements and verdicts are worth in `verdicts`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consensus.committee import Committee
from consensus.signing import block_id
from consensus.types import ZERO_MEMBER, Digest
from p2pfl.errors import PeerFault
from p2pfl.params import Base, Update, apply_update, blob_id, fitting_exponents
from p2pfl.records import (
    BloomFilter,
    Case,
    CaseOutcome,
    CouncilBody,
    CountedBlock,
    GroupBody,
    GroupRow,
    PoolRow,
    VerdictCertificate,
)
from p2pfl.rules import filters
from p2pfl.rules.aggregate import combine, zero_update
from p2pfl.rules.cases import GroupBlock, Suspicion
from p2pfl.rules.compare import compare_groups, least_alike, length_factors, shortened
from p2pfl.rules.counting import check_counted, taken_back_in
from p2pfl.rules.epochs import Turnover, check_turnover, derive_assignment
from p2pfl.rules.gram import Triangle, view
from p2pfl.rules.state import LEFT_OUT, CouncilState
from p2pfl.rules.taking_back import contribution, is_recent, less, rejected_before
from p2pfl.rules.triage import pool_rows
from p2pfl.rules.verdicts import (
    admissible_cases,
    check_measurements,
    check_verdict_certificate,
    check_verdict_certificates,
    derive_outcomes,
)
from p2pfl.signed import SignedMeasurement

NO_TURNOVER = Turnover()
ROLE_MEASURED = "measured"
ROLE_CERTIFIED = "certified"
ROLE_ACCUSED = "accused"


@dataclass(frozen=True)
class CouncilInputs:
    """What the groups bring to a council block.

    state: of the chain before this block. counted: by group in the genesis' order, then by height. bodies: of
    the counted blocks and of those that the block before counted, by block id. aggregates: by aggregate id,
    those of `taking_back.rejected_before` too. base_values: the base that `state.base_id` names. root_update:
    the one that `state.root_update_id` names, trained from that base (None: none). salt: of the council's
    filters in this epoch. group_salts: of each group's, by group id.
    """

    state: CouncilState
    committee: Committee
    epoch: int
    height: int
    counted: tuple[CountedBlock, ...]
    bodies: Mapping[Digest, GroupBody]
    aggregates: Mapping[Digest, Update]
    base_values: Base
    root_update: Update | None
    salt: bytes
    group_salts: Mapping[Digest, bytes]


@dataclass(frozen=True)
class Comparison:
    """What follows from the counted blocks alone; the new root update is trained from its base.

    deltas: one for each row, as it came. mean: of those that count. delta: what is added to the last base:
    the mean, less what groups reject of what was added before. scores: what the counted blocks add to the
    pool of honest rounds.
    """

    gram: tuple[Triangle, ...]
    rows: tuple[GroupRow, ...]
    deltas: tuple[Update, ...]
    mean: Update
    delta: Update
    base: Base
    base_id: Digest
    exponents: tuple[int, ...]
    scores: tuple[PoolRow, ...] = ()


@dataclass(frozen=True)
class CouncilDerived:
    """The body, the base whose id it holds, and what was added to the base before it."""

    body: CouncilBody
    base: Base
    delta: Update


def compare(inputs: CouncilInputs) -> Comparison:
    """Check what is counted, compare the groups, mint the base. Raises PeerFault."""
    check_counted(inputs.state, inputs.counted, inputs.bodies)
    state, rules = inputs.state, inputs.state.network.rules
    by_group: dict[Digest, list[CountedBlock]] = {}
    for block in inputs.counted:
        by_group.setdefault(block.header.group_id, []).append(block)
    deltas: list[Update] = []
    weights: list[int] = []
    counts: list[int] = []
    for blocks in by_group.values():
        usable = [b for b in blocks if b.weight > 0 and is_recent(b.exponents, state.exponents)]
        own = [inputs.aggregates[block.aggregate_id] for block in usable]
        nothing = zero_update(inputs.base_values.layout, state.exponents)
        deltas.append(combine(own, [1] * len(own), 1) if own else nothing)
        weights.append(max((block.weight for block in usable), default=0))
        counts.append(len(usable))
    triangles, rows = compare_groups(list(by_group), deltas, weights, inputs.root_update, rules)
    shares = [0 if row.flagged else row.weight for row in rows]
    mean = zero_update(inputs.base_values.layout, state.exponents)
    if sum(shares):
        root = inputs.root_update.exponents if inputs.root_update else deltas[0].exponents
        whole = view(triangles, [*(delta.exponents for delta in deltas), root])
        factors = length_factors(whole, rows, counts, rules.norm_ratio_max_micro)
        rows = tuple(dataclasses.replace(r, length_factor=f) for r, f in zip(rows, factors, strict=True))
        heard = [shortened(delta, factor) for delta, factor in zip(deltas, factors, strict=True)]
        mean = combine(heard, shares, sum(shares))
    delta = less(mean, taken_back(inputs))
    base = apply_update(inputs.base_values, delta)
    return Comparison(
        gram=triangles,
        rows=rows,
        deltas=tuple(deltas),
        mean=mean,
        delta=delta,
        base=base,
        base_id=blob_id(base.to_bytes()),
        exponents=next_exponents(state.exponents, mean),
        scores=scores_of(inputs, rows),
    )


def scores_of(inputs: CouncilInputs, rows: Sequence[GroupRow]) -> tuple[PoolRow, ...]:
    """What the counted blocks add to the pool, in their order.

    A group that stands apart adds nothing; nor does a block that the next one rejects, or one that rejects
    the one before it and was trained on that.
    """
    state, apart = inputs.state, {row.group_id for row in rows if row.flagged}
    dropped = taken_back_in(inputs.counted, inputs.bodies)
    found: list[PoolRow] = []
    for block in inputs.counted:
        if block.header.group_id in apart or block_id(block.header) in dropped:
            continue
        body = inputs.bodies[block_id(block.header)]
        accused = frozenset(each.member for each in body.standings if each.outcome in LEFT_OUT)
        found += pool_rows(body, accused, state.pool, state.network.rules.alarm_rate_ppm)
    return tuple(found)


def next_exponents(current: Sequence[int], mean: Update) -> tuple[int, ...]:
    """Those that fit the mean, but at most one step from the current ones: no liar makes them jump."""
    fitting = fitting_exponents(mean)
    return tuple(min(now + 1, max(now - 1, fit)) for now, fit in zip(current, fitting, strict=True))


def taken_back(inputs: CouncilInputs) -> list[Update]:
    """What the base holds of blocks that were counted before and are rejected by blocks counted now."""
    rejected = rejected_before(inputs.state.added, inputs.counted, inputs.bodies)
    return [contribution(each, inputs.aggregates[each.aggregate_id]) for each in rejected]


def suspicions(inputs: CouncilInputs, comparison: Comparison) -> tuple[Suspicion, ...]:
    """What is looked into: of each group that has others to be compared with, the block least like them.

    `cases.derive_case` makes a case of it, or none, once the updates that it wants are at hand: usually none
    is wanted, since the warnings of an honest group name nobody.
    """
    found: list[Suspicion] = []
    rows, genesis = comparison.rows, inputs.state.network
    for row in rows:
        others = tuple(
            (other.weight, delta)
            for other, delta in zip(rows, comparison.deltas, strict=True)
            if other.weight > 0 and not other.flagged and other.group_id != row.group_id
        )
        if not others or not row.weight:
            continue
        blocks = [
            block
            for block in inputs.counted
            if block.header.group_id == row.group_id
            and block.weight > 0
            and is_recent(block.exponents, inputs.state.exponents)
        ]
        aggregates = [inputs.aggregates[block.aggregate_id] for block in blocks]
        index = least_alike(aggregates, others)
        header = blocks[index].header
        name = genesis.group_names[row.group_id]
        found.append(
            Suspicion(
                block=GroupBlock(header, inputs.bodies[block_id(header)]),
                apart=bool(row.flagged),
                committee=inputs.state.roster.committee(name, header.epoch),
                salt=inputs.group_salts[row.group_id],
                aggregate=aggregates[index],
                others=others,
                deadline_height=inputs.height + genesis.rules.case_blocks,
            )
        )
    return tuple(found)


def derive_council(
    inputs: CouncilInputs,
    comparison: Comparison,
    *,
    root_update_id: Digest,
    cases: Sequence[Case] = (),
    measurements: Sequence[SignedMeasurement] = (),
    certificates: Sequence[VerdictCertificate] = (),
    turnover: Turnover = NO_TURNOVER,
) -> CouncilDerived:
    """The one body that follows. Raises PeerFault when a part cannot stand in it.

    comparison: what `compare(inputs)` gave. cases: as `cases.derive_case` and
    `audits.cases_without_updates` gave them.
    turnover: who came, left, was expelled or fell silent.
    """
    state = inputs.state
    check_turnover(state, turnover, frozenset(block.header.group_id for block in inputs.counted))
    taken = admissible_cases(state, cases, inputs.height)
    measured = check_measurements(measurements, state, inputs.height)
    outcomes = derive_outcomes(state, measured, inputs.height)
    certified = check_verdict_certificates(certificates, state)
    body = CouncilBody(
        counted=inputs.counted,
        gram=comparison.gram,
        rows=comparison.rows,
        scores=comparison.scores,
        cases=taken,
        measurements=measured,
        outcomes=outcomes,
        certificates=certified,
        exponents=comparison.exponents,
        base_id=comparison.base_id,
        root_update_id=root_update_id,
        filters=_filters(inputs, taken, measured, outcomes, certified),
        joins=turnover.joins,
        leaves=turnover.leaves,
        closings=turnover.closings,
        contradictions=turnover.contradictions,
        assignment=derive_assignment(state, inputs.height, turnover, outcomes),
    )
    return CouncilDerived(body, comparison.base, comparison.delta)


def check_council_body(
    body: CouncilBody, inputs: CouncilInputs, comparison: Comparison, cases: Sequence[Case], time_ms: int
) -> CouncilDerived:
    """Derive the body again; PeerFault "wrong_<field>" names the first field that differs.

    inputs: with the proposal's `counted`. cases: derived by this seat itself, where it holds what they need.
    time_ms: of the header.
    """
    derived = derive_council(
        inputs,
        comparison,
        root_update_id=body.root_update_id,
        cases=cases,
        measurements=body.measurements,
        certificates=body.certificates,
        turnover=Turnover.of(time_ms, body),
    )
    for field in dataclasses.fields(CouncilBody):
        if getattr(body, field.name) != getattr(derived.body, field.name):
            raise PeerFault(f"wrong_{field.name}", f"of the council's body of height {inputs.height}")
    return derived


def _filters(
    inputs: CouncilInputs,
    cases: Sequence[Case],
    measurements: Sequence[SignedMeasurement],
    outcomes: Sequence[CaseOutcome],
    certificates: Sequence[VerdictCertificate],
) -> tuple[BloomFilter, ...]:
    """Actors: seats that measured or certified, and the accused. Accused: every case this block speaks of."""
    state, salt = inputs.state, inputs.salt
    actors: list[bytes] = []
    pairs = [(case.accused, case.case_id) for case in cases if case.accused != ZERO_MEMBER]
    pairs += [(state.cases[outcome.case_id].case.accused, outcome.case_id) for outcome in outcomes]
    pairs += [(each.verdict.accused, each.verdict.case_id) for each in certificates]
    roles = [(member, ROLE_ACCUSED) for member, _ in pairs]
    roles += [(state.measured(signed).seat, ROLE_MEASURED) for signed in measurements]
    for each in certificates:
        roles += [(seat, ROLE_CERTIFIED) for seat in check_verdict_certificate(each, state)]
    for member, role in roles:
        actors += [filters.actor_key(member), filters.actor_key(member, role)]
    rate = state.network.rules.filter_rate_ppb
    return (
        filters.build(filters.ACTORS, actors, salt, rate),
        filters.build(filters.ACCUSED, [filters.case_key(*pair) for pair in pairs], salt, rate),
    )
