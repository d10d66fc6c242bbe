"""May this round change be believed, may this proposal be made: pure predicates over signed votes.

Knows the rules of the safe value (R6; Moniz, arXiv 2002.03613, section 4; PBFT's view change in the form
that proofs are checked by everybody). Whose fault a `False` is, `replica` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from consensus.committee import Committee
from consensus.signing import block_id
from consensus.types import ZERO_DIGEST, Digest, Proposal, RoundChange, SignedPrepare, SignedRoundChange
from consensus.votes import Recover, distinct_signers


def proves_prepared(
    recover: Recover,
    committee: Committee,
    height: int,
    round_: int,
    block: Digest,
    prepares: Sequence[SignedPrepare],
) -> bool:
    """Whether these are PREPAREs of at least q distinct members for exactly this block in this round."""
    seat = (committee.epoch, height, round_, block)
    if any((v.epoch, v.height, v.round, v.block_id) != seat for v in (signed.vote for signed in prepares)):
        return False
    if not committee.quorum <= len(prepares) <= committee.size:
        return False
    return distinct_signers(recover, committee, prepares) is not None


def well_formed(change: RoundChange) -> bool:
    """Whether a ROUND-CHANGE claims nothing, or a block prepared in a round below the one it asks for."""
    claims_nothing = change.prepared_round_plus_1 == 0
    return change.round > 0 and (
        change.prepared_block_id == ZERO_DIGEST
        if claims_nothing
        else change.prepared_round_plus_1 <= change.round
    )


def asks_for_round(
    recover: Recover, committee: Committee, height: int, round_: int, changes: Sequence[SignedRoundChange]
) -> bool:
    """Whether these are well-formed ROUND-CHANGEs of at least q distinct members for exactly this round."""
    seat = (committee.epoch, height, round_)
    if any((c.vote.epoch, c.vote.height, c.vote.round) != seat or not well_formed(c.vote) for c in changes):
        return False
    if not committee.quorum <= len(changes) <= committee.size:
        return False
    return distinct_signers(recover, committee, changes) is not None


def highest_claim(changes: Iterable[SignedRoundChange]) -> RoundChange | None:
    """The ROUND-CHANGE with the highest prepared round; None if none claims one."""
    best = max((c.vote for c in changes), key=lambda vote: vote.prepared_round_plus_1)
    return best if best.prepared_round_plus_1 else None


def choose(changes: Iterable[tuple[bytes, SignedRoundChange]], quorum: int) -> tuple[SignedRoundChange, ...]:
    """The q ROUND-CHANGEs for a proposal, highest claim first, then by signer: (signer, signed) pairs in."""
    ranked = sorted(changes, key=lambda pair: (-pair[1].vote.prepared_round_plus_1, pair[0]))
    return tuple(signed for _, signed in ranked[:quorum])


def objection(recover: Recover, committee: Committee, proposal: Proposal) -> str | None:
    """Why this proposal may not be made in its round (R6); None if it may.

    Whether its block follows the parent and pleases the application is asked elsewhere.
    """
    vote, header = proposal.propose.vote, proposal.block.header
    if vote.block_id != block_id(header):
        return "the proposal names another block"
    prepared, changes = proposal.prepared, proposal.justification
    claim = None
    if vote.round == 0:
        if changes:
            return "round 0 needs no justification"
    else:
        if not asks_for_round(recover, committee, vote.height, vote.round, changes):
            return "no quorum asks for this round"
        claim = highest_claim(changes)
    if claim is None:
        if prepared:
            return "nothing was prepared"
        if header.proposer != committee.proposer(vote.height, vote.round):
            return "a fresh block names another proposer"
        return None
    if vote.block_id != claim.prepared_block_id:
        return "another block is prepared"
    round_ = claim.prepared_round_plus_1 - 1
    if not proves_prepared(recover, committee, vote.height, round_, vote.block_id, prepared):
        return "the prepared block is not proved"
    return None
