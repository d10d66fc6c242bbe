"""The council's chain from its own bodies, and against the groups' chains where they are here.

Folds the chain as every member does, and checks before each step what the next block counts, opens,
measures, concludes and certifies. What needs blobs is in `recompute`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from consensus import merkle
from consensus.committee import Committee
from consensus.signing import block_id
from consensus.types import ZERO_DIGEST, ZERO_MEMBER, Digest, Header
from p2pfl import codec
from p2pfl.audit.group_check import Problem, epoch_salts
from p2pfl.audit.history import Chain, certificate_objection
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.params import Base
from p2pfl.records import Case, CouncilBody, CountedBlock, GroupBody, GroupRow
from p2pfl.rules import cases
from p2pfl.rules.aggregate import zero_update
from p2pfl.rules.audits import alarm_cases, audit_cases, cases_without_updates
from p2pfl.rules.cases import GroupBlock, Suspicion
from p2pfl.rules.compare import length_factors, standing_apart
from p2pfl.rules.council import Comparison, CouncilInputs, check_council_body, scores_of
from p2pfl.rules.counting import check_counted
from p2pfl.rules.gram import Gram, view
from p2pfl.rules.state import UNSUSPECTED, CouncilState
from p2pfl.rules.verdicts import admissible_cases
from p2pfl.rules.weighted import FACTOR_BITS

# What a body of a hostile quorum can make the rules raise. Anything else is a bug of ours.
BAD = (PeerFault, ValueError, KeyError, IndexError, ArithmeticError)
GROUP_FIELDS = tuple(field.name for field in dataclasses.fields(GroupBody))


@dataclass(frozen=True)
class CouncilBlock:
    """One block of the council to judge, and what it stands on.

    state: before the block. groups: the groups' agreed chains, as far as they are here.
    """

    genesis: Genesis
    header: Header
    body: CouncilBody
    state: CouncilState
    groups: Mapping[str, Chain]
    salts: Mapping[str, Mapping[int, bytes]]

    def salt(self, name: str, epoch: int) -> bytes:
        """Of a chain's filters in an epoch; a useless one where that chain is not here."""
        return self.salts.get(name, {}).get(epoch, b"")

    def counted_body(self, header: Header) -> GroupBody | None:
        """The body of a counted block, if its group's chain is here and holds this very block."""
        name = self.genesis.group_names.get(header.group_id, "")
        chain, height = self.groups.get(name), header.height
        if chain is None or not 0 <= height <= chain.height:
            return None
        return chain.bodies[height] if chain.ids[height] == block_id(header) else None

    def bodies(self) -> dict[Digest, GroupBody] | None:
        """The bodies of all blocks counted here and in the block before, by id; None when one is not here."""
        headers = (*(each.header for each in self.body.counted), *self.state.latest)
        found = {block_id(header): self.counted_body(header) for header in headers}
        whole = {each: body for each, body in found.items() if body is not None}
        return whole if len(whole) == len(found) else None

    def inputs(self, bodies: Mapping[Digest, GroupBody], **known: object) -> CouncilInputs:
        """What the rules derive the body from; parameters only as far as `known` names them."""
        genesis = self.genesis
        nothing = Base(genesis.task.layout, zero_update(genesis.task.layout, ()).values.astype("float32"))
        return CouncilInputs(
            state=self.state,
            committee=self.state.roster.committee(COUNCIL, self.header.epoch),
            epoch=self.header.epoch,
            height=self.header.height,
            counted=self.body.counted,
            bodies=bodies,
            aggregates=known.get("aggregates", {}),  # type: ignore[arg-type]
            base_values=known.get("base_values", nothing),  # type: ignore[arg-type]
            root_update=known.get("root_update"),  # type: ignore[arg-type]
            salt=self.salt(COUNCIL, self.header.epoch),
            group_salts={
                each.header.group_id: self.salt(genesis.group_names[each.header.group_id], each.header.epoch)
                for each in self.body.counted
                if each.header.group_id in genesis.group_names
            },
        )


@dataclass(frozen=True)
class Fold:
    """The states after each council block, by block id; the blocks that were folded."""

    states: dict[Digest, CouncilState]
    blocks: list[CouncilBlock]


def fold(genesis: Genesis, chains: Mapping[str, Chain]) -> Fold:
    """The council's states as far as its chain is whole. The genesis' state has the zero id."""
    state = CouncilState.genesis(genesis)
    found = Fold({ZERO_DIGEST: state}, [])
    chain = chains.get(COUNCIL)
    if chain is None:
        return found
    every = {name: epoch_salts(genesis, each) for name, each in chains.items()}
    groups = {name: each for name, each in chains.items() if name != COUNCIL}
    for decided, each, body in zip(chain.blocks, chain.ids, chain.bodies, strict=True):
        if body is None:
            break
        header = decided.block.header
        found.blocks.append(CouncilBlock(genesis, header, body, state, groups, every))
        try:
            state = state.apply(header, body)
        except BAD:
            break  # `check` says what is wrong with the block; what follows it means nothing.
        found.states[each] = state
    return found


def check(block: CouncilBlock) -> Iterator[Problem]:
    """Everything that is wrong with the block as far as bodies tell."""
    parts: list[Iterator[Problem]] = [_counted(block), _rows(block)]
    parts += [_case(block, case) for case in block.body.cases]
    parts.append(_all_cases(block))
    for part in parts:
        yield from guarded(part, "bad_council")
    body, genesis = block.body, block.genesis
    nothing = zero_update(genesis.task.layout, ())
    # Gram matrix, rows and base are taken as they are here: `_rows` and `recompute` judge those.
    taken = block.inputs({})
    comparison = Comparison(
        body.gram,
        body.rows,
        (),
        nothing,
        nothing,
        taken.base_values,
        body.base_id,
        body.exponents,
        body.scores,
    )
    try:
        derived = check_council_body(body, taken, comparison, body.cases, block.header.time_ms).body
        if block.header.next_committee_root != _next_root(block, derived):
            yield "bad_council", "next committee: not that of its assignment"
    except BAD as error:
        yield "bad_council", str(error) or repr(error)


def guarded(part: Iterator[Problem], reason: str) -> Iterator[Problem]:
    """What a check finds; that it cannot even be made with what a hostile quorum wrote is a finding too."""
    try:
        yield from part
    except (*BAD, RuntimeError) as error:  # RuntimeError: StopIteration inside a generator.
        yield reason, f"it cannot be checked: {error!r}"


def _next_root(block: CouncilBlock, body: CouncilBody) -> Digest:
    if body.assignment is None:
        return block.state.roster.committee(COUNCIL, block.header.epoch).root()
    seats = next(group.members for group in body.assignment.groups if group.name == COUNCIL)
    return Committee(body.assignment.epoch, seats).root()


def _counted(block: CouncilBlock) -> Iterator[Problem]:
    bodies = block.bodies()
    if bodies is not None:
        try:
            check_counted(block.state, block.body.counted, bodies)
        except BAD as error:
            yield "bad_council", str(error) or repr(error)
        if block.body.scores != scores_of(block.inputs(bodies), block.body.rows):
            yield "wrong_field", "scores: not those of the counted blocks"
        return
    # Not all groups' chains are here: then each counted block is judged by what the council's body shows.
    last = dict(block.state.counted)
    for counted in block.body.counted:
        header = counted.header
        name = block.genesis.group_names.get(header.group_id)
        if name is None or name == COUNCIL:
            yield "bad_council", "it counts a block of no group"
            continue
        height, parent_id = last[header.group_id]
        last[header.group_id] = (header.height, block_id(header))
        if header.height != height + 1 or (height >= 0 and header.parent_id != parent_id):
            yield "bad_council", f"counted block {header.height} of {name} does not follow {height}"
        roster, epoch = block.state.roster, header.epoch
        if roster.closings.get((name, epoch)) is not None or not roster.goes_on(name, epoch):
            yield "bad_council", f"counted block {header.height} of {name} is of an epoch that is over"
        why = certificate_objection(roster, name, header, counted.certificate)
        if why is not None:
            yield "bad_council", f"counted block {header.height} of {name}: {why}"
        if not _is_under(counted):
            yield "bad_council", f"the aggregate of counted block {header.height} of {name} is another"


def _is_under(counted: CountedBlock) -> bool:
    """Whether the aggregate id is that field of the body under the header's app root."""
    index, size = GROUP_FIELDS.index("aggregate_id"), len(GROUP_FIELDS)
    leaf = merkle.leaf_hash(codec.encode(counted.aggregate_id, Digest))
    return merkle.verify_inclusion(leaf, index, size, counted.app_proof, counted.header.app_root)


def _rows(block: CouncilBlock) -> Iterator[Problem]:
    """Cosines, flags and weights of the rows, from the Gram matrix and the counted blocks."""
    body, state = block.body, block.state
    by_group: dict[Digest, list[CountedBlock]] = {}
    for each in body.counted:
        by_group.setdefault(each.header.group_id, []).append(each)
    if [(row.group_id, row.weight) for row in body.rows] != [
        (group_id, max(each.weight for each in blocks)) for group_id, blocks in by_group.items()
    ]:
        yield "wrong_field", "rows: not those of the counted blocks"
        return
    if any(abs(new - old) > 1 for new, old in zip(body.exponents, state.exponents, strict=True)):
        yield "wrong_field", "exponents: more than one step from the last"
    if not body.rows or any(len(blocks) > 1 for blocks in by_group.values()):
        return  # The exponents of a sum of several blocks are known from their blobs only.
    exponents = [blocks[0].exponents for blocks in by_group.values()]
    counts = [int(blocks[0].weight > 0) for blocks in by_group.values()]
    try:
        whole = view(body.gram, [*exponents, state.exponents])
        factors = _length_factors(whole, block, counts)
        flagged = standing_apart(
            whole, [r.weight for r in body.rows], block.genesis.rules.group_cos_min_micro
        )
    except (ValueError, IndexError) as error:
        yield "wrong_field", f"gram: {error}"
        return
    for index, row in enumerate(body.rows):
        if row != _row(whole, body.rows, index, int(index in flagged), factors[index]):
            yield (
                "wrong_field",
                f"rows: {block.genesis.group_names[row.group_id]} is not as the Gram matrix says",
            )


def _length_factors(whole: Gram, block: CouncilBlock, counts: list[int]) -> list[int]:
    rows = block.body.rows
    if not any(row.weight and not row.flagged for row in rows):
        return [1 << FACTOR_BITS] * len(rows)
    return length_factors(whole, rows, counts, block.genesis.rules.norm_ratio_max_micro)


def _row(whole: Gram, rows: tuple[GroupRow, ...], index: int, flagged: int, length_factor: int) -> GroupRow:
    others = [0 if at == index else row.weight for at, row in enumerate(rows)] + [0]
    return GroupRow(
        group_id=rows[index].group_id,
        weight=rows[index].weight,
        others_cos_micro=whole.cos_of_sums_micro(whole.unit(index), others),
        root_cos_micro=whole.cos_micro(index, len(rows)),
        flagged=flagged,
        length_factor=length_factor,
    )


# ---------------------------------------------------------------------------
# Cases.


def _case(block: CouncilBlock, case: Case) -> Iterator[Problem]:
    """What a case says about its group's block, from that block's body."""
    drawn = case.cause in UNSUSPECTED
    headers = block.state.latest if drawn else tuple(each.header for each in block.body.counted)
    header = next((each for each in headers if block_id(each) == case.block_id), None)
    if header is None:
        where = "in the block before" if drawn else "here"
        yield "bad_case", f"case 0x{case.case_id.hex()[:16]}: about a block that is not counted {where}"
        return
    if (case.group_id, case.epoch, case.height) != (header.group_id, header.epoch, header.height):
        yield "bad_case", f"case 0x{case.case_id.hex()[:16]}: about another place than its block's"
    body = block.counted_body(header)
    if body is None:
        return
    if drawn:
        if case not in audit_cases(block.state, GroupBlock(header, body), case.deadline_height):
            yield "bad_case", f"case 0x{case.case_id.hex()[:16]}: nobody was drawn so, and none has returned"
    elif case.cause in (cases.HARD_RULE, cases.TRIAGE_ALARM):
        about, deadline_height = GroupBlock(header, body), case.deadline_height
        if case not in (
            cases.hard_rule_cases(about, deadline_height)
            if case.cause == cases.HARD_RULE
            else alarm_cases(block.state, about, deadline_height)
        ):
            yield "bad_case", f"case 0x{case.case_id.hex()[:16]}: no rule was broken so"
    elif case.cause == cases.COPIED:
        if not _is_copied(block, case):
            yield "bad_case", f"case 0x{case.case_id.hex()[:16]}: no other group has this update"
    elif case.cause in (cases.GROUP_APART, cases.MEMBER_APART):
        why = _apart(block, case, GroupBlock(header, body))
        if why is not None:
            yield "bad_case", f"case 0x{case.case_id.hex()[:16]}: {why}"
    else:
        yield "bad_case", f"case 0x{case.case_id.hex()[:16]}: cause {case.cause!r}"


def _is_copied(block: CouncilBlock, case: Case) -> bool:
    """Whether another group counted here has the same update; taken as told where a body is missing."""
    bodies = block.bodies()
    if bodies is None:
        return True
    counted = [GroupBlock(each.header, bodies[block_id(each.header)]) for each in block.body.counted]
    return case in cases.copied_cases(counted, case.deadline_height)


def _all_cases(block: CouncilBlock) -> Iterator[Problem]:
    """Whether those that bodies alone lead to are all there: a council must not spare whom it draws."""
    bodies = block.bodies()
    if bodies is None:
        return
    body, height = block.body, block.header.height
    found = [case for case in body.cases if case.cause in (cases.GROUP_APART, cases.MEMBER_APART)]
    deadline_height = height + block.genesis.rules.case_blocks
    found += cases_without_updates(block.state, body.counted, bodies, deadline_height)
    if body.cases != admissible_cases(block.state, found, height):
        yield "bad_case", "cases: not all that follow from the blocks, or more"


def _apart(block: CouncilBlock, case: Case, about: GroupBlock) -> str | None:
    """Why the candidates and the accused do not follow from the warnings filter; None if they do."""
    row = next((row for row in block.body.rows if row.group_id == case.group_id), None)
    apart = case.cause == cases.GROUP_APART
    if row is None or bool(row.flagged) != apart:
        return "it is not as it says whether the group stands apart"
    genesis, name = block.genesis, block.genesis.group_names[case.group_id]
    suspicion = Suspicion(
        block=about,
        apart=apart,
        committee=block.state.roster.committee(name, about.header.epoch),
        salt=block.salt(name, about.header.epoch),
        aggregate=zero_update(genesis.task.layout, about.body.exponents),
        others=(),
        deadline_height=case.deadline_height,
    )
    # The aggregate is not needed where the chunks are known; that they are the right ones, `recompute` says.
    found, named = tuple((each.member, each.score) for each in case.candidates), suspicion.wanted(case.chunks)
    if apart and found != named and found == suspicion.everybody(named):
        # The warnings did not explain it, so all were looked at.
        if cases.judge_case([each for each in case.candidates if each.score]) is not None:
            return "whom the warnings name explains it, and others were looked at"
    elif found != named or suspicion.is_unexplained(case):
        return "its candidates are not those of the warnings filter"
    blobs = {signed.tx.member: signed.tx.blob_id for signed in about.body.txs}
    if any(each.blob_id != blobs[each.member] for each in case.candidates):
        return "a candidate's blob is another"
    accused = cases.judge_case(case.candidates)
    if case.accused != (accused or ZERO_MEMBER) or (accused is None and not apart):
        return "its cosines accuse somebody else"
    return None
