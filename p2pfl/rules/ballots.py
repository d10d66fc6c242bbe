"""Ballots: what members say of a block's aggregate by data on which nobody trained, and what follows.

    block h        adds its aggregate to the group's own base
    each member    loses so much with the base before and after, on its own held-out data: a Ballot on h
    block h + 1    holds at least q of them. If more than half reject, h is taken back and h + 1, which was
                   trained on it, adds nothing; nobody is asked about h + 1.

Ballots accept and reject, and never accuse: nobody can check what a member loses on data that it alone has.
With at least q of n ballots, f liars are less than half of them, and the honest ones more than half: liars
alone take nothing back, and keep nothing that all honest members reject. How a block is taken back is in
`taking_back`, who waits for whom in `rounds.ballots`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from consensus.committee import Committee
from consensus.signing import BadSignature, Domain, recover, signing_digest
from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.genesis import Rules
from p2pfl.records import MICRO, GroupBody
from p2pfl.signed import Ballot, SignedBallot

# An honest group's aggregate serves all groups better than its own members' held-out data, late in training
# most of all: by a quarter and 0.5 a loss of 0.2 then rose with two such blocks of 210, by 1 with none
# (docs/detection.md). What harms everybody does more.
RISE_MICRO = 250_000
RISE_MIN_MICRO = 1_000_000
# What is not finite, or larger, counts as this: a thousand times the loss of who guesses among 1,000 classes.
LOSS_MAX_MICRO = 10_000 * MICRO
# Those of a round are looked at when they come, when a block is made of them, and when it is counted.
_CACHED_MAX = 4096


def loss_micro(loss: float) -> int:
    """A loss in millionths, within bounds; what is no number is the largest."""
    return min(LOSS_MAX_MICRO, max(1, round(loss * MICRO))) if math.isfinite(loss) else LOSS_MAX_MICRO


def approves(loss_old_micro: int, loss_new_micro: int) -> bool:
    """What a member with these losses says. Both zero: it could not measure, and rejects nothing."""
    rise = max(RISE_MIN_MICRO, loss_old_micro * RISE_MICRO // MICRO)
    return loss_new_micro <= loss_old_micro + rise


def is_abstention(ballot: Ballot) -> bool:
    """Whether its member could not measure: it has too few samples, or was away."""
    return ballot.loss_old_micro == ballot.loss_new_micro == 0


def make(epoch: int, height: int, block_id: Digest, losses: tuple[float, float] | None) -> Ballot:
    """The ballot on this block. losses: with the old and the new base; None: not to be measured."""
    old, new = (0, 0) if losses is None else (loss_micro(losses[0]), loss_micro(losses[1]))
    return Ballot(epoch, height, block_id, old, new, int(approves(old, new)))


def are_due(parent: GroupBody | None, rules: Rules) -> bool:
    """Whether the next block is to hold ballots on this one, of the same epoch (None: there is none).

    An idle block has changed nothing; after one step back the next is not asked about, or a group in which
    opinions are divided would learn nothing.
    """
    return bool(rules.ballots) and parent is not None and parent.close is not None and not rejects(parent)


def rejects(body: GroupBody) -> bool:
    """Whether this block takes the one before it back. Its ballots are none, or at least q (`check`)."""
    return rejected_by(body.ballots)


def rejected_by(ballots: Sequence[SignedBallot]) -> bool:
    """Whether more than half of these ballots reject."""
    return 2 * sum(not signed.ballot.approve for signed in ballots) > len(ballots)


def signer_of(domain: Domain, signed: SignedBallot) -> MemberId | None:
    """Who signed this ballot; None for nobody. The same one is recovered once."""
    return _signer_of(domain, signed.ballot, signed.signature)


@lru_cache(maxsize=_CACHED_MAX)
def _signer_of(domain: Domain, ballot: Ballot, signature: bytes) -> MemberId | None:
    try:
        return recover(signing_digest(domain, ballot), signature)
    except (BadSignature, ValueError):
        return None


def check_one(
    signed: SignedBallot, domain: Domain, committee: Committee, *, epoch: int, height: int, block_id: Digest
) -> MemberId:
    """Its member. Raises PeerFault unless this is a member's ballot on that block, true to itself."""
    ballot = signed.ballot
    if (ballot.epoch, ballot.height, ballot.block_id) != (epoch, height, block_id):
        raise PeerFault("bad_ballot", f"about another block than {height}")
    if not all(0 <= loss <= LOSS_MAX_MICRO for loss in (ballot.loss_old_micro, ballot.loss_new_micro)):
        raise PeerFault("bad_ballot", "a loss out of bounds")
    if ballot.approve != int(approves(ballot.loss_old_micro, ballot.loss_new_micro)):
        raise PeerFault("bad_ballot", "it does not say what follows from its losses")
    signer = signer_of(domain, signed)
    if signer is None or signer not in committee:
        raise PeerFault("bad_ballot", "of no member")
    return signer


def check(
    ballots: Sequence[SignedBallot],
    domain: Domain,
    committee: Committee,
    *,
    epoch: int,
    height: int,
    block_id: Digest,
    due: bool,
) -> None:
    """Raises PeerFault unless a block may hold these ballots on its parent: none, or at least q.

    epoch, height, block_id: of the parent. due: see `are_due`. That none are held although they are due is
    judged where a block is fresh: from a late round on `Ci` may go on without them.
    """
    if not ballots:
        return
    if not due:
        raise PeerFault("bad_ballot", "nobody was asked about the block before")
    if len(ballots) < committee.quorum:
        raise PeerFault("bad_ballot", f"{len(ballots)} ballots, {committee.quorum} are needed")
    order = {member: index for index, member in enumerate(committee.members)}
    places = [
        order[check_one(signed, domain, committee, epoch=epoch, height=height, block_id=block_id)]
        for signed in ballots
    ]
    if any(a >= b for a, b in zip(places, places[1:], strict=False)):
        raise PeerFault("bad_ballot", "not of distinct members in the committee's order")
