"""From a group that stands apart to the member whose absence brings it back.

    chunks that deviate -> warnings filter -> candidates -> their updates only -> leave one out -> the accused

A case is a suspicion with its reasoning. It never slashes: the accused is asked to open the round. Who
fetches filters and updates is in `rounds`; these functions say what follows from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np

from consensus.committee import Committee
from consensus.signing import block_id
from consensus.types import ZERO_DIGEST, ZERO_MEMBER, Digest, Header, MemberId
from p2pfl import codec
from p2pfl.params import Update
from p2pfl.records import MICRO, BloomFilter, Candidate, Case, GroupBody, TriageRow
from p2pfl.rules import filters
from p2pfl.rules.aggregate import factors_of
from p2pfl.rules.chunks import ChunkId
from p2pfl.rules.compare import Weighted, deviating_chunks
from p2pfl.rules.gram import Gram, view, view_of
from p2pfl.rules.triage import REASONS
from p2pfl.signed import SignedParamTx

GROUP_APART = "group_apart"
MEMBER_APART = "member_apart"
HARD_RULE = "hard_rule"
TRIAGE_ALARM = "triage_alarm"
COPIED = "copied"
# Chunks that are asked about, and members whose updates are fetched at most for one case.
CASE_CHUNKS = 16
CANDIDATES_MAX = 4
# A candidate was warned of in at least this share of the chunks asked about, and of those of the most warned.
CANDIDATE_SHARE_MICRO = 500_000
# What it takes to be accused (measured: docs/detection.md). The own update must point away from the others
# farther than an honest one does, and the absence must bring the group back: among 16 it does so by little.
RETURN_MARGIN_MICRO = 5_000
OWN_COS_MAX_MICRO = -250_000


def candidates(
    warnings_filter: BloomFilter,
    salt: bytes,
    members: Sequence[MemberId],
    chunks: Sequence[ChunkId],
    reasons: Sequence[str] = REASONS,
) -> tuple[tuple[MemberId, int], ...]:
    """Who was warned of in these chunks, and in how many, by the filter alone: no update is fetched.

    First (tensor, chunk, reason) is asked, then each member only where that may be there. The most warned
    first; equals in the order of `members`. Those warned of in few of the chunks are left out.
    """
    pairs = [(tensor, chunk, reason) for tensor, chunk in chunks for reason in reasons]
    keys = [filters.warning_key(*pair) for pair in pairs]
    hits = filters.might_contain_each(warnings_filter, salt, keys)
    asked = [pair for pair, hit in zip(pairs, hits, strict=True) if hit]
    scored: list[tuple[MemberId, int]] = []
    for member in members:
        own = [filters.warning_key(*pair, member=member) for pair in asked]
        found = filters.might_contain_each(warnings_filter, salt, own)
        warned = {pair[:2] for pair, hit in zip(asked, found, strict=True) if hit}
        scored.append((member, len(warned)))
    scored.sort(key=lambda entry: -entry[1])
    most = scored[0][1] if scored else 0
    least = max(most, len(chunks)) * CANDIDATE_SHARE_MICRO
    return tuple(entry for entry in scored[:CANDIDATES_MAX] if entry[1] and entry[1] * MICRO >= least)


def leave_one_out(
    group_delta: Update,
    others: Sequence[Weighted],
    member_update: Update,
    member_factor: int,
    divisor: int,
) -> tuple[int, int, int]:
    """Three cosines to the others, in millionths: the group's, the group's without the member, the member's.

    member_factor / divisor: the member's share in the group's aggregate. Without it the aggregate points to
    divisor * aggregate - factor * update; its length does not matter here.
    """
    whole = view_of([group_delta, member_update, *(delta for _, delta in others)])
    others_sum = [0, 0, *(weight for weight, _ in others)]
    before = whole.cos_of_sums_micro(whole.unit(0), others_sum)
    without = [divisor, -member_factor] + [0] * len(others)
    after = whole.cos_of_sums_micro(without, others_sum)
    return before, after, whole.cos_of_sums_micro(whole.unit(1), others_sum)


def judge_case(
    found: Sequence[Candidate],
    *,
    margin_micro: int = RETURN_MARGIN_MICRO,
    own_cos_max_micro: int = OWN_COS_MAX_MICRO,
) -> MemberId | None:
    """The candidate whose absence brings the group back most, if by the margin; None if there is none.

    It must also point away from the others by itself: leaving out an honest member with rare data may bring
    a group back too. Of equals the earlier in the list.
    """
    gains = [
        (entry.without_cos_micro - entry.with_cos_micro, entry.member)
        for entry in found
        if entry.own_cos_micro <= own_cos_max_micro
    ]
    most = max((gain for gain, _ in gains), default=margin_micro - 1)
    return next((member for gain, member in gains if gain == most), None) if most >= margin_micro else None


# ---------------------------------------------------------------------------
# The whole case.


@dataclass(frozen=True)
class GroupBlock:
    """A decided block of a group, as far as the council reasons about it."""

    header: Header
    body: GroupBody


@dataclass(frozen=True)
class Suspicion:
    """A group's block that is looked into, before any member's update is known.

    apart: whether the group as a whole stands apart. committee: the group's, of the block's epoch. salt: of
    the block's filters. aggregate: the block's own. others: weight and delta of each group that it is
    compared with. deadline_height: of the council's chain.
    """

    block: GroupBlock
    apart: bool
    committee: Committee
    salt: bytes
    aggregate: Update
    others: tuple[Weighted, ...]
    deadline_height: int

    @cached_property
    def _deviating(self) -> tuple[ChunkId, ...]:
        return deviating_chunks(self.aggregate, self.others, CASE_CHUNKS)

    def chunks(self) -> tuple[ChunkId, ...]:
        """Where the block's aggregate deviates most."""
        return self._deviating

    def wanted(self, chunks: Sequence[ChunkId] | None = None) -> tuple[tuple[MemberId, int], ...]:
        """Whose updates are needed to judge it, with their scores.

        Those whom the filter names. When it names nobody, although the group stands apart: all who counted.
        """
        body = self.block.body
        warnings_filter = next(each for each in body.filters if each.name == filters.WARNINGS)
        where = self.chunks() if chunks is None else chunks
        named = candidates(warnings_filter, self.salt, self.counted(), where)
        return named if named or not self.apart else self.everybody(())

    def counted(self) -> tuple[MemberId, ...]:
        """Who has a part in the aggregate."""
        return tuple(signed.tx.member for signed, weight in _weighted(self.block.body) if weight > 0)

    def everybody(self, named: Sequence[tuple[MemberId, int]]) -> tuple[tuple[MemberId, int], ...]:
        """All who counted, in their order, with the scores of those whom the filter names."""
        scores = dict(named)
        return tuple((member, scores.get(member, 0)) for member in self.counted())

    def is_unexplained(self, case: Case | None) -> bool:
        """Whether the group stands apart and the absence of nobody whom the warnings name explains it.

        Then all who counted are looked at: a colluding quorum can leave the warnings empty, or name others.
        """
        if case is None or not self.apart or case.accused != ZERO_MEMBER:
            return False
        return len(case.candidates) < len(self.counted())


def _weighted(body: GroupBody) -> Iterator[tuple[SignedParamTx, int]]:
    return zip(body.txs, body.weights, strict=True)


def derive_case(suspicion: Suspicion, updates: Mapping[MemberId, Update]) -> Case | None:
    """The case that follows, to open it and to check one that was opened; None: there is nothing to say.

    updates: at least those of `suspicion.wanted()`, of the block's round; of all who counted, where the case
    without them `is_unexplained`. A group that stands apart is a case even if nobody's absence explains it.
    """
    case = _derived(suspicion, updates, suspicion.wanted())
    if case is None or not suspicion.is_unexplained(case) or not updates.keys() >= set(suspicion.counted()):
        return case
    return _derived(suspicion, updates, suspicion.everybody(suspicion.wanted()))


def _derived(
    suspicion: Suspicion, updates: Mapping[MemberId, Update], wanted: Sequence[tuple[MemberId, int]]
) -> Case | None:
    header, body = suspicion.block.header, suspicion.block.body
    chunks = suspicion.chunks()
    shares = shares_of(body, suspicion.committee.faulty_max)
    blobs = {signed.tx.member: signed.tx.blob_id for signed in body.txs}
    found: list[Candidate] = []
    for member, score in wanted:
        factor, divisor = shares[member]
        cosines = leave_one_out(suspicion.aggregate, suspicion.others, updates[member], factor, divisor)
        found.append(Candidate(member, score, blobs[member], *cosines))
    accused = judge_case(found)
    if accused is None and not suspicion.apart:
        return None
    cause = GROUP_APART if suspicion.apart else MEMBER_APART
    return _case(header, cause, chunks, tuple(found), accused or ZERO_MEMBER, suspicion.deadline_height)


def hard_rule_cases(block: GroupBlock, deadline_height: int) -> tuple[Case, ...]:
    """A case for each duplicate, and for each member that is too long by the hard rule.

    Who is too short is left out like them, but not asked: late in training the update of an honest member
    whose data are learnt may be next to nothing, and it harms nobody.
    """
    return tuple(
        case_about(block, HARD_RULE, row.member, deadline_height)
        for row in block.body.triage
        if breaks_a_hard_rule(row)
    )


def copied_cases(blocks: Sequence[GroupBlock], deadline_height: int) -> tuple[Case, ...]:
    """A case for each member whose revealed update is, byte for byte, that of a member of another group.

    Inside a group the duplicate rule says so. Colluders who send one vector are mostly seated apart; who was
    only copied from is cleared by its replay.
    """
    shown: dict[Digest, list[tuple[GroupBlock, MemberId]]] = {}
    for block in blocks:
        hidden = block.body.unrevealed
        for signed in block.body.txs:
            if signed.tx.member not in hidden:
                shown.setdefault(signed.tx.blob_id, []).append((block, signed.tx.member))
    return tuple(
        case_about(block, COPIED, member, deadline_height)
        for found in shown.values()
        if len({block.header.group_id for block, _ in found}) > 1
        for block, member in found
    )


def breaks_a_hard_rule(row: TriageRow) -> bool:
    """Whether it is asked about it; who is merely too short is not."""
    too_long = row.out_of_bounds and row.norm_ratio_micro > MICRO
    return bool(row.duplicate or row.repeated or too_long)


def case_about(block: GroupBlock, cause: str, member: MemberId, deadline_height: int) -> Case:
    """A case against a member of this block that no comparison of groups led to."""
    blob_id = next(signed.tx.blob_id for signed in block.body.txs if signed.tx.member == member)
    found = (Candidate(member, 0, blob_id, 0, 0, 0),)
    return _case(block.header, cause, (), found, member, deadline_height)


def case_id_of(case: Case) -> Digest:
    """SHA-256 of the case's canonical bytes with its id zero."""
    return Digest(sha256(codec.encode(dataclasses.replace(case, case_id=ZERO_DIGEST))).digest())


def _case(
    header: Header,
    cause: str,
    chunks: tuple[ChunkId, ...],
    found: tuple[Candidate, ...],
    accused: MemberId,
    deadline_height: int,
) -> Case:
    case = Case(
        case_id=ZERO_DIGEST,
        group_id=header.group_id,
        epoch=header.epoch,
        height=header.height,
        block_id=block_id(header),
        cause=cause,
        chunks=chunks,
        candidates=found,
        accused=accused,
        deadline_height=deadline_height,
    )
    return dataclasses.replace(case, case_id=case_id_of(case))


def block_gram(body: GroupBody) -> Gram:
    """The inner products of the body's revealed updates, from its Gram matrix alone."""
    return _whole_gram(body).first(len(body.txs) - len(body.unrevealed))


def _whole_gram(body: GroupBody) -> Gram:
    """The same with the previous aggregate and the root update."""
    revealed = [signed for signed in body.txs if signed.tx.member not in body.unrevealed]
    return view(body.gram, [body.exponents] * (len(revealed) + 2))


def shares_of(body: GroupBody, f: int) -> dict[MemberId, tuple[int, int]]:
    """Each revealed member's factor in the aggregate, and the divisor.

    Under a rule that is no weighted sum its weight stands in: what its update adds to a mean.
    Raises ValueError or ArithmeticError for a Gram matrix that no updates have.
    """
    hidden = set(body.unrevealed)
    revealed = [(s.tx.member, w) for s, w in _weighted(body) if s.tx.member not in hidden]
    weights = [weight for _, weight in revealed]
    nothing = [np.zeros(0, dtype=np.int16)] * len(weights)
    factors, divisor = factors_of(body.rule, nothing, weights, _whole_gram(body), f) or (
        tuple(weights),
        sum(weights),
    )
    return {member: (factor, divisor) for (member, _), factor in zip(revealed, factors, strict=True)}
