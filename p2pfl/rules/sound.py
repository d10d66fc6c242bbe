"""Whether a group's decided block is one that its rules can make: what the council asks before it counts one.

A quorum of liars can decide anything in its group. What passes here neither stops the council nor accuses
somebody who did not sign. Needs no blob; whether aggregate and filters are true is not asked here.
"""

from __future__ import annotations

from consensus.committee import Committee
from consensus.types import Header
from p2pfl.errors import PeerFault
from p2pfl.genesis import Genesis
from p2pfl.params import EXPONENT_MAX, EXPONENT_MIN
from p2pfl.records import GroupBody
from p2pfl.rules import ballots, filters
from p2pfl.rules.cases import block_gram, shares_of
from p2pfl.rules.triage import REASONS
from p2pfl.rules.validate import check_txs, derive_weights


def unsound(genesis: Genesis, name: str, committee: Committee, header: Header, body: GroupBody) -> str | None:
    """Why this block of a group cannot be counted; None if it can. Recovers up to 2n + 1 signatures."""
    tensors = len(genesis.task.tensors)
    if len(body.exponents) != tensors or not all(EXPONENT_MIN <= e <= EXPONENT_MAX for e in body.exponents):
        return "its exponents are out of bounds"
    try:
        _check_signed(genesis, name, committee, header, body)
    except (PeerFault, ValueError) as error:
        return f"its commitments or ballots do not hold: {error}"
    hidden = set(body.unrevealed)
    revealed = tuple(each.tx.member for each in body.txs if each.tx.member not in hidden)
    if body.rule != genesis.rules.aggregator or tuple(row.member for row in body.triage) != revealed:
        return "its rule or its triage is another"
    if len(body.sketches) != len(revealed) or any(
        len(each) not in (0, filters.SKETCH_BUCKETS // 8) for each in body.sketches
    ):
        return "its sketches are none"
    size = len(revealed) + 2
    if [len(each) for each in body.gram] != [size * (size + 1) // 2] * tensors:
        return "its Gram matrix has another shape"
    if not {standing.member for standing in body.standings} <= set(committee.members):
        return "it has standings of strangers"
    cap = genesis.rules.weight_cap
    rejected = ballots.rejects(body)
    if body.weights != derive_weights(
        body.txs, body.unrevealed, body.triage, body.standings, cap, rejected=rejected
    ):
        return "its weights do not follow"
    try:
        # The council takes members out of their group's aggregate by these numbers.
        if any(norm_sq < 0 for norm_sq in block_gram(body).norms_sq):
            return "its Gram matrix is none"
        shares_of(body, committee.faulty_max)
    except (ValueError, ArithmeticError):
        return "its Gram matrix is none"
    if any(row.member not in revealed or row.reason not in REASONS for row in body.warnings):
        return "it warns of nobody"
    if tuple(each.name for each in body.filters) != filters.NAMES:
        return "its filters are others"
    heights = body.base.own_heights
    first = heights[0] if heights else header.height
    if first < 0 or heights != tuple(range(first, header.height)):
        return "its base is made of other heights"
    return None


def _check_signed(genesis: Genesis, name: str, committee: Committee, header: Header, body: GroupBody) -> None:
    """Raises PeerFault or ValueError unless members signed what stands there as theirs."""
    check_txs(
        genesis,
        name,
        committee,
        epoch=header.epoch,
        height=header.height,
        base_id=body.base.base_id,
        exponents=body.exponents,
        txs=body.txs,
        close=body.close,
        unrevealed=body.unrevealed,
    )
    ballots.check(
        body.ballots,
        genesis.domain(name),
        committee,
        epoch=header.epoch,
        height=header.height - 1,
        block_id=header.parent_id,
        due=bool(genesis.rules.ballots) and body.close is not None,
    )
