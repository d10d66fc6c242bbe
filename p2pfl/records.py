"""Everything a block may hold.

Shapes only: validity is in `rules/`, who sends what when in `rounds/`. All numbers are integers, ratios and
losses in millionths (`_micro`, `_ppm`), so that every replica has the same bits.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, get_type_hints

from consensus import merkle
from consensus.types import Certificate, Digest, Header, MemberId
from p2pfl import codec
from p2pfl.contradiction import Contradiction
from p2pfl.membership import Assignment, Closing, SignedJoin, SignedLeave
from p2pfl.signed import SignedBallot, SignedClose, SignedMeasurement, SignedParamTx, Verdict

MICRO = 1_000_000

# ---------------------------------------------------------------------------
# The body of a group's block.


@dataclass(frozen=True, slots=True)
class BaseRef:
    """The base a height was trained from.

    council_height -1 and zero id: the genesis. own_heights: of the group's own blocks that this council block
    has not counted, whose aggregates are added to its base.
    """

    base_id: Digest
    council_height: int
    council_block_id: Digest
    own_heights: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TriageRow:
    """One member's Gram features in one round, and what follows from them; 1 = yes in the last five.

    norm_ratio_micro: |q_i| / median |q_j|. nearest_micro: smallest relative distance to another member.
    previous_cos_micro, root_cos_micro, others_cos_micro: cosine to the group's previous aggregate, to the
    root update, to the sum of the others (each no longer than the median). krum_micro: Krum score relative to
    the median Krum score. p_ppm: how rare all that is among the rows of the pool, rounded up.
    out_of_bounds, duplicate, repeated: the hard rules; repeated is a duplicate of something earlier.
    unusual: p is at most the rate at which members are left out of a round. alarm: at most the alarm rate.
    """

    member: MemberId
    norm_ratio_micro: int
    nearest_micro: int
    previous_cos_micro: int
    root_cos_micro: int
    others_cos_micro: int
    krum_micro: int
    p_ppm: int
    out_of_bounds: int
    duplicate: int
    repeated: int
    unusual: int
    alarm: int


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A member's round as the pool of p-values keeps it: its `triage.features`.

    alarm: 1 if its group says that it alarmed, or the council's own pool does.
    """

    member: MemberId
    features: tuple[int, ...]
    alarm: int


@dataclass(frozen=True, slots=True)
class WarningRow:
    """A member's chunk looks malicious. tensor: index in the layout; chunk: index of a run of coordinates."""

    member: MemberId
    tensor: int
    chunk: int
    reason: str


@dataclass(frozen=True, slots=True)
class BloomFilter:
    """bits: little-endian bit array of 8 * len(bits) bits; hashes: k; entries: how many keys went in."""

    name: str
    hashes: int
    entries: int
    bits: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """A member of the group with an open case or a verdict, as of the council block that the base names."""

    member: MemberId
    case_id: Digest
    outcome: str  # "open", "asked", "guilty", "cleared", "harmful", "returned", "no_opening"


@dataclass(frozen=True, slots=True)
class GroupBody:
    """What a group's block says. One Merkle leaf a field (`body_root`).

    txs: in committee order. close: None for an idle block, which has no txs and leaves the base unchanged.
    weights: one a tx, 0 for one left out or unrevealed. factors: by what each update with a weight above 0 is
    multiplied, then what their sum is divided by; empty if the rule is no weighted sum. row_root: of the tree
    of `rules.rows`; zero if the genesis asks for none. gram: a tensor each, upper triangle row by row over
    the revealed updates, the previous aggregate, the root update (zero if none). sketches: SimHash of each
    revealed update, 32 bytes, empty for a zero one: what later rounds of the epoch look for copies in.
    """

    txs: tuple[SignedParamTx, ...]
    close: SignedClose | None
    unrevealed: tuple[MemberId, ...]
    ballots: tuple[SignedBallot, ...]
    rule: str
    weights: tuple[int, ...]
    factors: tuple[int, ...]
    exponents: tuple[int, ...]
    aggregate_id: Digest
    row_root: Digest
    gram: tuple[tuple[int, ...], ...]
    sketches: tuple[bytes, ...]
    triage: tuple[TriageRow, ...]
    warnings: tuple[WarningRow, ...]
    standings: tuple[Standing, ...]
    pool_digest: Digest
    filters: tuple[BloomFilter, ...]
    base: BaseRef
    next_base_id: Digest


# ---------------------------------------------------------------------------
# The body of the council's block.


@dataclass(frozen=True, slots=True)
class CountedBlock:
    """A group's decided block that this council block counts: enough to check its certificate."""

    header: Header
    certificate: Certificate
    aggregate_id: Digest
    weight: int  # Sum of the accepted weights; 0 if the next block, counted here too, rejects this one.
    exponents: tuple[int, ...]
    app_proof: tuple[Digest, ...]  # Audit path of the field `aggregate_id` under the header's app root.


@dataclass(frozen=True, slots=True)
class GroupRow:
    """How one group compares. others_cos_micro: cosine of its delta to the weighted sum of the others'.

    length_factor: its delta is shortened by it before it counts, in units of 2^-20 (2^20: as it came).
    """

    group_id: Digest
    weight: int
    others_cos_micro: int
    root_cos_micro: int
    flagged: int
    length_factor: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Candidate:
    """A member the warnings filter named. score: how many of the deviating chunks; cosines as measured.

    with_cos_micro, without_cos_micro: cosine to the other groups' delta of the group's, with and without this
    member. own_cos_micro: of its update alone.
    """

    member: MemberId
    score: int
    blob_id: Digest
    with_cos_micro: int
    without_cos_micro: int
    own_cos_micro: int


@dataclass(frozen=True, slots=True)
class Case:
    """A suspicion with its whole reasoning. case_id = SHA-256 of its canonical bytes with case_id zero.

    cause: "group_apart"; "member_apart" where only a member that the warnings name does; "hard_rule" for a
    member left out by triage; "triage_alarm" for one whose scores are too rare to be honest; "copied" for one
    that another group's member sent too; "audit" for one that was drawn; "review" for one whose exclusion for
    harmful data has ended. accused: zero when nobody's absence explains why the group stands apart. chunks:
    the (tensor, chunk) pairs in which the group deviated most.
    """

    case_id: Digest
    group_id: Digest
    epoch: int
    height: int
    block_id: Digest
    cause: str
    chunks: tuple[tuple[int, int], ...]
    candidates: tuple[Candidate, ...]
    accused: MemberId
    deadline_height: int  # The council height by which an opening must have come.


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """How a case ended: "guilty", "cleared", "harmful" or "no_opening", and by whose measurements (ids).

    "cleared" by nobody's: the seats came to no quorum in time.
    """

    case_id: Digest
    outcome: str
    measurements: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class VerdictCertificate:
    """A verdict and the signatures of a quorum of seats, in ascending order of their addresses."""

    verdict: Verdict
    signatures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CouncilBody:
    """What a council block says. One Merkle leaf a field.

    gram: as in GroupBody, of the groups' deltas in the order of `rows`, then the root update. scores: of the
    members whom the counted blocks' groups did not leave out by a hard rule or a case. exponents,
    base_id, root_update_id: in force from this block on. contradictions: who signed one loses its seat
    at the epoch's end. assignment: in an epoch's last block.
    """

    counted: tuple[CountedBlock, ...]
    gram: tuple[tuple[int, ...], ...]
    rows: tuple[GroupRow, ...]
    scores: tuple[PoolRow, ...]
    cases: tuple[Case, ...]
    measurements: tuple[SignedMeasurement, ...]
    outcomes: tuple[CaseOutcome, ...]
    certificates: tuple[VerdictCertificate, ...]
    exponents: tuple[int, ...]
    base_id: Digest
    root_update_id: Digest
    filters: tuple[BloomFilter, ...]
    joins: tuple[SignedJoin, ...]
    leaves: tuple[SignedLeave, ...]
    closings: tuple[Closing, ...]
    contradictions: tuple[Contradiction, ...]
    assignment: Assignment | None


BODY_BYTES_MAX = 4 * 1024 * 1024  # 16 members with a model of a hundred tensors stay far below.


def field_leaves(body: GroupBody | CouncilBody) -> list[bytes]:
    """The canonical bytes of each field: the leaves under the app root."""
    return [codec.encode(getattr(body, name), kind) for name, kind in _field_kinds(type(body))]


@cache
def _field_kinds(kind: type) -> tuple[tuple[str, Any], ...]:
    kinds = get_type_hints(kind)
    return tuple((field.name, kinds[field.name]) for field in dataclasses.fields(kind))


def body_root(body: GroupBody | CouncilBody) -> Digest:
    """The app root: RFC 9162 root with one leaf a field."""
    return merkle.root(field_leaves(body))


def field_proof(body: GroupBody | CouncilBody, name: str) -> tuple[int, int, bytes, tuple[Digest, ...]]:
    """(index, size, leaf bytes, audit path) that proves one field of the body alone."""
    index = [field.name for field in dataclasses.fields(body)].index(name)
    leaves = field_leaves(body)
    path = merkle.inclusion_proof([merkle.leaf_hash(leaf) for leaf in leaves], index)
    return index, len(leaves), leaves[index], path


# A round looks at the last bodies of its own chain and the council's again and again.
@lru_cache(maxsize=32)
def decode_body(data: bytes, kind: type[Any]) -> Any:
    """A GroupBody or CouncilBody from its canonical bytes. Raises codec.DecodeError."""
    return codec.decode(data, kind, size_max=BODY_BYTES_MAX)
