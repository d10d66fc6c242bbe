"""Votes become certificates here.

Knows how to find a vote's signer and how many distinct signers are enough. Which claims may be believed is
in `justification`, what a member has heard so far in `height`, what follows from it in `replica`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeAlias

from consensus import types as t
from consensus.committee import MEMBERS_MAX, Committee
from consensus.signing import SIGNATURE_BYTES, Domain, block_id, recover, signing_digest
from consensus.types import (
    ZERO_DIGEST,
    Certificate,
    Digest,
    Header,
    MemberId,
    Message,
    SignedCommit,
    SignedPrepare,
    SignedVote,
    Vote,
)

# Finds who signed a vote; None for what is nobody's canonical signature.
Recover: TypeAlias = Callable[[Vote, bytes], MemberId | None]

# A vote extension is one signed ballot: two numbers and a signature.
EXTENSION_BYTES_MAX = 4096
# All votes of two rounds of the largest committee are found again without a recovery.
RECOVERED_MAX = 4096
# Signers of one vote share its digest: the kinds and rounds that are voted on at the same time.
DIGESTS_MAX = 64

# Where a message carries its sender's own vote.
_OWN_VOTE: dict[type, str] = {
    t.Proposal: "propose",
    t.PrepareMessage: "prepare",
    t.CommitMessage: "commit",
    t.RoundChangeMessage: "round_change",
}


class BadCertificate(ValueError):
    """A certificate that does not decide its block, and why."""


def recoverer(domain: Domain, *, cache_size: int = RECOVERED_MAX) -> Recover:
    """Find signers in this domain, and remember the latest."""
    digest_of = lru_cache(maxsize=DIGESTS_MAX)(partial(signing_digest, domain))

    @lru_cache(maxsize=cache_size)
    def find(vote: Vote, signature: bytes) -> MemberId | None:
        try:
            return recover(digest_of(vote), signature)
        except ValueError:  # BadSignature, or a field that its ABI type cannot hold.
            return None

    return find


def signed_vote(message: Message) -> SignedVote | None:
    """The sender's own signed vote in a message; None for messages that carry none."""
    name = _OWN_VOTE.get(type(message))
    return None if name is None else getattr(message, name)


def with_signature(message: Any, signature: bytes, extension: bytes = b"") -> Message:
    """The message of a Sign effect with the signature, and the extension of a COMMIT, filled in."""
    name = _OWN_VOTE[type(message)]
    unsigned: SignedVote = getattr(message, name)
    signed: Any = type(unsigned)(unsigned.vote, signature)  # pyright: ignore[reportArgumentType]
    if isinstance(message, t.PrepareMessage):
        return t.PrepareMessage(signed)
    if isinstance(message, t.CommitMessage):
        return t.CommitMessage(signed, extension)
    return replace(message, **{name: signed})


def to_prepare(seat: tuple[int, int, int], block: Digest) -> t.PrepareMessage:
    """A PREPARE to be signed. seat: epoch, height, round."""
    return t.PrepareMessage(t.SignedPrepare(t.Prepare(*seat, block), b""))


def to_commit(seat: tuple[int, int, int], block: Digest) -> t.CommitMessage:
    """A COMMIT to be signed."""
    return t.CommitMessage(SignedCommit(t.Commit(*seat, block), b""))


def to_round_change(
    seat: tuple[int, int, int], prepared: tuple[SignedPrepare, ...], context: Digest
) -> t.RoundChangeMessage:
    """A ROUND-CHANGE to be signed, with the PREPAREs of what was prepared (none if nothing was)."""
    claim = (prepared[0].vote.round + 1, prepared[0].vote.block_id) if prepared else (0, ZERO_DIGEST)
    return t.RoundChangeMessage(t.SignedRoundChange(t.RoundChange(*seat, *claim, context), b""), prepared)


def subject(message: Message) -> Vote | Header | t.FetchBlock:
    """What names the epoch and the height that a message speaks of."""
    signed = signed_vote(message)
    if signed is not None:
        return signed.vote
    if isinstance(message, t.DecidedMessage):
        return message.decided.block.header
    assert isinstance(message, t.BlockMessage | t.FetchBlock)
    return message if isinstance(message, t.FetchBlock) else message.block.header


def votes_in(message: Message) -> Iterator[SignedVote]:
    """Every signed vote that a message carries: its sender's, and those that justify or certify."""
    match message:
        case t.DecidedMessage(t.DecidedBlock(block, certificate)):
            header = block.header
            vote = t.Commit(header.epoch, header.height, certificate.round, block_id(header))
            yield from (SignedCommit(vote, signature) for signature in certificate.signatures)
        case t.Proposal(propose, _, justification, prepared):
            yield from (propose, *justification, *prepared)
        case t.RoundChangeMessage(round_change, prepared):
            yield from (round_change, *prepared)
        case _:
            signed = signed_vote(message)
            yield from () if signed is None else (signed,)


def within_bounds(message: Message, committee: Committee, body_bytes_max: int) -> bool:
    """Whether headers fit their types, and no list, body or extension is longer than a member can need.

    Votes need no word here: what is not 65 bytes, or cannot be hashed, is nobody's signature.
    """
    n = committee.size
    match message:
        case t.PrepareMessage() | t.FetchBlock():  # First, since there are most of them.
            return True
        case t.Proposal(block=block, justification=changes, prepared=prepared):
            return len(changes) <= n and len(prepared) <= n and _block_within(block, body_bytes_max)
        case t.RoundChangeMessage(prepared=prepared):
            return len(prepared) <= n
        case t.CommitMessage(extension=extension):
            return len(extension) <= EXTENSION_BYTES_MAX
        case t.DecidedMessage(decided=decided):  # Perhaps of another epoch, with a larger committee.
            size = sum(map(len, decided.certificate.signatures))
            return size <= MEMBERS_MAX * SIGNATURE_BYTES and _block_within(decided.block, body_bytes_max)
        case t.BlockMessage(block=block):  # pragma: no branch - there is no other message.
            return _block_within(block, body_bytes_max)


def _block_within(block: t.Block, body_bytes_max: int) -> bool:
    try:
        return len(block.body) <= body_bytes_max and bool(block_id(block.header))
    except ValueError:  # A field that its ABI type cannot hold.
        return False


def distinct_signers(
    recover: Recover, committee: Committee, signed: Iterable[SignedVote]
) -> frozenset[MemberId] | None:
    """The members who signed; None if a signature is a stranger's or nobody's, or a member signed twice."""
    found: set[MemberId] = set()
    for each in signed:
        signer = recover(each.vote, each.signature)
        if signer is None or signer not in committee or signer in found:
            return None
        found.add(signer)
    return frozenset(found)


def certificate_of(round_: int, commits: Mapping[MemberId, SignedCommit], quorum: int) -> Certificate:
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
    vote = t.Commit(header.epoch, header.height, certificate.round, block_id(header))
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
