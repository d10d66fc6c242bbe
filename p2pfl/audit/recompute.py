"""Blocks derived again from the blobs: aggregates, Gram matrices, bases, warnings, cases.

Calls the same rules as proposers and voters, with nothing but the genesis, the agreed chains and the blobs.
A blob that nobody keeps any more is no fault; the block is then counted as not recomputed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from consensus.signing import block_id
from consensus.types import ZERO_DIGEST
from p2pfl import params
from p2pfl.audit import council_check, group_check
from p2pfl.audit.council_check import BAD, CouncilBlock, Fold
from p2pfl.audit.group_check import GroupBlock, Problem
from p2pfl.audit.history import Blobs, Chain, MissingBlob
from p2pfl.errors import PeerFault
from p2pfl.params import Base
from p2pfl.records import Case, CouncilBody, GroupBody
from p2pfl.rules import cases
from p2pfl.rules.ballots import rejected_by
from p2pfl.rules.council import Comparison, CouncilInputs, compare, suspicions
from p2pfl.rules.state import CouncilState
from p2pfl.rules.taking_back import own_steps, rejected_before, take
from p2pfl.rules.validate import GroupInputs, derive_group_body


@dataclass(frozen=True)
class Recomputed:
    """One block derived again. fields: each field of the body and whether it came out the same."""

    chain: str
    height: int
    fields: dict[str, bool]

    @property
    def ok(self) -> bool:
        """Whether every field did."""
        return all(self.fields.values())


def group(block: GroupBlock, chain: Chain, blobs: Blobs) -> Recomputed:
    """The body of a group's block again. Raises MissingBlob; PeerFault when it cannot be derived at all."""
    body = block.body
    state = block.state
    if state is None:
        raise PeerFault("bad_base", "its council block is unknown")
    previous = block.previous
    inputs = GroupInputs(
        genesis=block.genesis,
        group=block.name,
        committee=block.committee,
        epoch=block.header.epoch,
        height=block.header.height,
        txs=body.txs,
        close=body.close,
        unrevealed=body.unrevealed,
        updates=group_check.updates_of(block, blobs),
        exponents=body.exponents,
        previous_aggregate=blobs.update(previous.aggregate_id, previous.exponents) if previous else None,
        root_update=(
            blobs.update(state.root_update_id, state.exponents)
            if state.root_update_id != ZERO_DIGEST
            else None
        ),
        standings=body.standings,
        base=body.base,
        base_values=base_of(body, state, chain, blobs),
        salt=block.salt,
        ballots=body.ballots,
        parent=previous,
        parent_id=block.header.parent_id,
        old_base=(
            _own_base(body, state, chain, blobs, without_last=True) if rejected_by(body.ballots) else None
        ),
        pool=state.pool,
        earlier=block.sent_before,
    )
    derived = derive_group_body(inputs).body
    return Recomputed(block.name, block.header.height, _same(body, derived))


def base_of(body: GroupBody, state: CouncilState, chain: Chain, blobs: Blobs) -> Base:
    """The base that the body names, made again: the council's, plus the own aggregates since."""
    base = _own_base(body, state, chain, blobs)
    if params.blob_id(base.to_bytes()) != body.base.base_id:
        raise PeerFault("bad_base", "the base is not what the council's and the own aggregates make")
    return base


def _own_base(
    body: GroupBody, state: CouncilState, chain: Chain, blobs: Blobs, *, without_last: bool = False
) -> Base:
    bodies: dict[int, GroupBody] = {}
    for height in body.base.own_heights:
        own = chain.bodies[height] if 0 <= height <= chain.height else None
        if own is None:
            raise PeerFault("bad_base", f"block {height} is not here")
        bodies[height] = own
    group_id = chain.blocks[0].block.header.group_id
    height = state.counted[group_id][0] + len(bodies) + 1
    base = blobs.base(state.base_id)
    for step in own_steps(state.added.get(group_id), bodies, height, without_last=without_last):
        base = take(base, step, blobs.update(step.aggregate_id, step.exponents))
    return base


def _same(body: GroupBody | CouncilBody, derived: GroupBody | CouncilBody) -> dict[str, bool]:
    names = [field.name for field in dataclasses.fields(body)]
    return {name: getattr(body, name) == getattr(derived, name) for name in names}


# ---------------------------------------------------------------------------
# The council.


def council(block: CouncilBlock, blobs: Blobs) -> Recomputed:
    """Gram matrix, rows, base, exponents, cases of a council block again. Raises MissingBlob, PeerFault."""
    bodies = block.bodies()
    if bodies is None:
        raise MissingBlob("the chains of the groups that it counts are not here")
    state, body = block.state, block.body
    root_update = None
    if state.root_update_id != ZERO_DIGEST:
        root_update = blobs.update(state.root_update_id, state.exponents)
    inputs = block.inputs(
        bodies,
        aggregates={
            each.aggregate_id: blobs.update(each.aggregate_id, each.exponents)
            for each in (*body.counted, *rejected_before(state.added, body.counted, bodies))
        },
        base_values=blobs.base(state.base_id),
        root_update=root_update,
    )
    comparison = compare(inputs)
    return Recomputed(
        council_check.COUNCIL,
        block.header.height,
        {
            "gram": body.gram == comparison.gram,
            "rows": body.rows == comparison.rows,
            "base_id": body.base_id == comparison.base_id,
            "exponents": body.exponents == comparison.exponents,
            "cases": _cases_hold(block, inputs, comparison, blobs),
        },
    )


def _cases_hold(block: CouncilBlock, inputs: CouncilInputs, comparison: Comparison, blobs: Blobs) -> bool:
    """Whether every case with a reasoning is the one that follows from the updates."""
    reasoned = [case for case in block.body.cases if case.cause in (cases.GROUP_APART, cases.MEMBER_APART)]
    if not reasoned:
        return True
    derived = list(_derived_cases(inputs, comparison, blobs))
    return all(case in derived for case in reasoned)


def _derived_cases(inputs: CouncilInputs, comparison: Comparison, blobs: Blobs) -> Iterator[Case | None]:
    for suspicion in suspicions(inputs, comparison):
        body = inputs.bodies[block_id(suspicion.block.header)]
        blob_ids = {signed.tx.member: signed.tx.blob_id for signed in body.txs}
        updates = {member: blobs.update(blob_ids[member], body.exponents) for member, _ in suspicion.wanted()}
        case = cases.derive_case(suspicion, updates)
        if suspicion.is_unexplained(case):
            rest = set(suspicion.counted()) - updates.keys()
            updates |= {member: blobs.update(blob_ids[member], body.exponents) for member in rest}
            case = cases.derive_case(suspicion, updates)
        yield case


# ---------------------------------------------------------------------------
# A whole history.


def whole(blocks: list[tuple[GroupBlock, Chain]], folded: Fold, blobs: Blobs) -> Iterator[Outcome]:
    """Every block again, the groups' first: what became of each."""
    for block, chain in blocks:
        yield _attempt(block.name, block.header.height, partial(group, block, chain, blobs))
    for each in folded.blocks:
        yield _attempt(council_check.COUNCIL, each.header.height, partial(council, each, blobs))


@dataclass(frozen=True)
class Outcome:
    """What became of one block: done, a problem, or a blob that is not kept."""

    chain: str
    height: int
    done: bool
    problem: Problem | None = None
    missing: str = ""


def _attempt(chain: str, height: int, work: Callable[[], Recomputed]) -> Outcome:
    try:
        found = work()
    except MissingBlob as missing:
        return Outcome(chain, height, False, missing=str(missing))
    except BAD as error:
        return Outcome(chain, height, False, ("wrong_recomputation", str(error) or repr(error)))
    wrong = [name for name, same in found.fields.items() if not same]
    if wrong:
        return Outcome(chain, height, True, ("wrong_recomputation", ", ".join(wrong)))
    return Outcome(chain, height, True)
