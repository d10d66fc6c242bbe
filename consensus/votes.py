"""Votes become certificates here.

Knows how to find a vote's signer, keeps the votes of one height, and says how many distinct signers are
enough. Which claims may be believed is in `justification`, what follows from them in `replica`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar, cast

from consensus.committee import Committee
from consensus.signing import SIGNATURE_BYTES, Domain, block_id, recover, signing_digest
from consensus.types import (
    BlockMessage,
    Certificate,
    Commit,
    CommitMessage,
    DecidedMessage,
    Digest,
    FetchBlock,
    Header,
    MemberId,
    Message,
    PrepareMessage,
    Proposal,
    RoundChangeMessage,
    SignedCommit,
    SignedPrepare,
    SignedVote,
    Vote,
)

S = TypeVar("S", bound=SignedVote)
Recover: TypeAlias = Callable[[Vote, bytes], MemberId | None]

# Rounds kept for one signer and kind of vote within a height, the highest. Only a liar has more in use: his
# flood pushes out his own votes.
ROUNDS_MAX = 8
# A vote extension is one signed ballot: two numbers and a signature.
EXTENSION_BYTES_MAX = 4096
# All votes of one height of the largest committee, in two rounds, are found again without a recovery.
RECOVERED_MAX = 4096


class BadCertificate(ValueError):
    """A certificate that does not decide its block, and why."""


def recoverer(domain: Domain, *, cache_size: int = RECOVERED_MAX) -> Recover:
    """Find signers in this domain; remember the latest. None for what is nobody's canonical signature."""

    @lru_cache(maxsize=cache_size)
    def find(vote: Vote, signature: bytes) -> MemberId | None:
        try:
            return recover(signing_digest(domain, vote), signature)
        except ValueError:  # BadSignature, or a field that its ABI type cannot hold.
            return None

    return find


# ---------------------------------------------------------------------------
# Messages and the vote inside.


def signed_vote(message: Message) -> SignedVote | None:
    """The sender's own signed vote in a message; None for messages that carry none."""
    match message:
        case PrepareMessage(prepare=signed) | CommitMessage(commit=signed):
            return signed
        case RoundChangeMessage(round_change=signed) | Proposal(propose=signed):
            return signed
        case _:
            return None


def with_signature(message: Any, signature: bytes, extension: bytes = b"") -> Message:
    """The message of a Sign effect with the signature (and a COMMIT's extension) filled in."""
    match message:
        case Proposal(propose=signed):
            return replace(message, propose=replace(signed, signature=signature))
        case PrepareMessage(prepare=signed):
            return PrepareMessage(replace(signed, signature=signature))
        case CommitMessage(commit=signed):
            return CommitMessage(replace(signed, signature=signature), extension)
        case RoundChangeMessage(round_change=signed):
            return replace(message, round_change=replace(signed, signature=signature))
        case _:
            raise TypeError(f"{type(message).__name__} is not signed")


def seat(message: Message) -> tuple[int, int]:
    """The epoch and height a message speaks of."""
    signed = signed_vote(message)
    if signed is not None:
        return signed.vote.epoch, signed.vote.height
    match message:
        case DecidedMessage(decided=decided):
            return decided.block.header.epoch, decided.block.header.height
        case BlockMessage(block=block):
            return block.header.epoch, block.header.height
        case FetchBlock(epoch=epoch, height=height):
            return epoch, height
        case _:
            raise TypeError(type(message).__name__)


def within_bounds(message: Message, committee: Committee, body_bytes_max: int) -> bool:
    """Whether no list, body or extension is longer than a member of this committee can need.

    Signatures need no word here: what is not 65 bytes is nobody's.
    """
    n = committee.size
    match message:
        case Proposal(block=block, justification=changes, prepared=prepared):
            return len(changes) <= n and len(prepared) <= n and len(block.body) <= body_bytes_max
        case RoundChangeMessage(prepared=prepared):
            return len(prepared) <= n
        case CommitMessage(extension=extension):
            return len(extension) <= EXTENSION_BYTES_MAX
        case DecidedMessage(decided=decided):
            # A committee of another epoch may be larger; its certificate still has its own limit.
            size = sum(map(len, decided.certificate.signatures))
            return len(decided.block.body) <= body_bytes_max and size <= SIGNATURE_BYTES * 16
        case BlockMessage(block=block):
            return len(block.body) <= body_bytes_max
        case _:
            return True


# ---------------------------------------------------------------------------
# Counting.


def distinct_signers(
    recover: Recover, committee: Committee, signed: Iterable[tuple[Vote, bytes]]
) -> frozenset[MemberId] | None:
    """The members who signed; None if a signature is a stranger's or nobody's, or a member signed twice."""
    found: set[MemberId] = set()
    for vote, signature in signed:
        signer = recover(vote, signature)
        if signer is None or signer not in committee or signer in found:
            return None
        found.add(signer)
    return frozenset(found)


def certificate_of(round_: int, commits: dict[MemberId, SignedCommit], quorum: int) -> Certificate:
    """The first `quorum` COMMITs by signer: exactly enough, since a contract pays for each."""
    return Certificate(round_, tuple(commits[member].signature for member in sorted(commits)[:quorum]))


def check_certificate(
    recover: Recover, committee: Committee, header: Header, certificate: Certificate
) -> tuple[MemberId, ...]:
    """The signers, ascending, of a certificate that decides this header. Raises BadCertificate."""
    if header.epoch != committee.epoch:
        raise BadCertificate(f"a block of epoch {header.epoch} under the committee of {committee.epoch}")
    if not committee.quorum <= len(certificate.signatures) <= committee.size:
        raise BadCertificate(f"{len(certificate.signatures)} signatures, {committee.quorum} are needed")
    vote = Commit(header.epoch, header.height, certificate.round, block_id(header))
    signers: list[MemberId] = []
    for signature in certificate.signatures:
        signer = recover(vote, signature)
        if signer is None or signer not in committee:
            raise BadCertificate("a signature is not a member's")
        if signers and signer <= signers[-1]:
            raise BadCertificate("the signers are not distinct and in ascending order")
        signers.append(signer)
    return tuple(signers)


def verify_certificate(
    domain: Domain, committee: Committee, header: Header, certificate: Certificate
) -> tuple[MemberId, ...]:
    """As `check_certificate`, for anybody who has the group's domain."""
    return check_certificate(recoverer(domain, cache_size=0), committee, header, certificate)


class Book:
    """The signed votes of one height: the first of each signer, kind and round."""

    def __init__(self) -> None:
        self._votes: dict[tuple[type, int], dict[MemberId, SignedVote]] = {}
        self._rounds: dict[tuple[type, MemberId], list[int]] = {}

    def add(self, signer: MemberId, signed: SignedVote) -> bool:
        """Keep it, unless this slot is taken or the signer's higher rounds fill his share."""
        kind, round_ = type(signed), signed.vote.round
        slot = self._votes.setdefault((kind, round_), {})
        if signer in slot:
            return False
        rounds = self._rounds.setdefault((kind, signer), [])
        rounds.append(round_)
        slot[signer] = signed
        if len(rounds) > ROUNDS_MAX:
            lowest = min(rounds)
            rounds.remove(lowest)
            self._votes[kind, lowest].pop(signer)
            if not self._votes[kind, lowest]:
                del self._votes[kind, lowest]
            return lowest != round_
        return True

    def of(self, kind: type[S], round_: int) -> dict[MemberId, S]:
        """The votes of one kind and round, by signer."""
        return cast("dict[MemberId, S]", self._votes.get((kind, round_), {}))

    def by(self, signer: MemberId) -> Iterator[SignedVote]:
        """All votes of one signer."""
        for slot in self._votes.values():
            if signer in slot:
                yield slot[signer]

    def get(self, kind: type[S], round_: int, signer: MemberId) -> S | None:
        """One vote."""
        return self.of(kind, round_).get(signer)

    def top_round(self, kind: type[SignedVote], signer: MemberId) -> int:
        """The highest round this signer voted in with this kind of vote; -1 if none."""
        return max(self._rounds.get((kind, signer), ()), default=-1)

    def supporters(self, kind: type[S], round_: int, block: Digest) -> dict[MemberId, S]:
        """Who voted for this block in exactly this round. For PREPARE and COMMIT."""
        votes = self.of(kind, round_)
        return {
            member: vote
            for member, vote in votes.items()
            if cast("SignedPrepare | SignedCommit", vote).vote.block_id == block
        }
