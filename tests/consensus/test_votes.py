"""Certificates, justifications and offences: what a stranger may believe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from consensus import types as t
from consensus.committee import Committee
from consensus.evidence import Offence, OffenceKind, contradiction, offence, two_of_one_slot
from consensus.justification import choose, objection, well_formed
from consensus.signing import ORDER, Domain, block_id
from consensus.votes import BadCertificate, recoverer, verify_certificate, with_signature
from p2pfl.signed import Close
from tests.consensus.lab import DOMAIN, IDS, STRANGER, Lab, certificate, committee_of, sign, signed

OTHER_DOMAIN = Domain(DOMAIN.chain_id, DOMAIN.verifying_contract, t.Digest(b"H" * 32))
BLOCK_A, BLOCK_B = t.Digest(b"a" * 32), t.Digest(b"b" * 32)


def high_s(signature: bytes) -> bytes:
    """The other signature of the same digest, which EIP-2 refuses."""
    s = ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


# Committees


def test_any_two_quorums_share_more_members_than_may_be_faulty() -> None:
    for n in range(1, 17):
        committee = committee_of(n)
        assert 2 * committee.quorum - n > committee.faulty_max
        assert committee.quorum <= n - committee.faulty_max  # The honest ones are enough.


def test_the_turn_rotates_with_height_and_round() -> None:
    committee = committee_of(4)
    assert [IDS.index(committee.proposer(h, r)) for h, r in ((0, 0), (0, 1), (1, 0), (3, 2))] == [0, 1, 1, 1]


@pytest.mark.parametrize("members", [(), IDS, (IDS[0], IDS[0]), (t.MemberId(b"short"),)])
def test_what_is_no_committee(members: tuple[t.MemberId, ...]) -> None:
    with pytest.raises(ValueError, match=r"committee|member id"):
        Committee(0, members)


# Certificates


def test_a_quorum_of_distinct_members_in_order_is_a_certificate() -> None:
    header = Lab().block().header
    for signers in ((0, 1, 2), (0, 1, 3), (0, 1, 2, 3)):
        names = verify_certificate(DOMAIN, committee_of(4), header, certificate(signers, header, 2))
        assert names == tuple(IDS[by] for by in signers)


CERTIFICATES: dict[str, Callable[[t.Header, t.Certificate], t.Certificate]] = {
    "one too few": lambda header, c: replace(c, signatures=c.signatures[:2]),
    "the same signer twice": lambda header, c: replace(
        c, signatures=(c.signatures[0], c.signatures[0], c.signatures[1])
    ),
    "more than the committee": lambda header, c: replace(c, signatures=c.signatures * 2),
    "not in order": lambda header, c: replace(c, signatures=c.signatures[::-1]),
    "a stranger": lambda header, c: certificate((0, 1, STRANGER), header),
    "another round": lambda header, c: replace(c, round=1),
    "a high s": lambda header, c: replace(c, signatures=(high_s(c.signatures[0]), *c.signatures[1:])),
    "a v of 0 or 1": lambda header, c: replace(
        c, signatures=(c.signatures[0][:64] + bytes([c.signatures[0][64] - 27]), *c.signatures[1:])
    ),
    "64 bytes": lambda header, c: replace(c, signatures=(c.signatures[0][:64], *c.signatures[1:])),
    "no point of the curve": lambda header, c: replace(
        c, signatures=(b"\xff" * 32 + c.signatures[0][32:], *c.signatures[1:])
    ),
    "zeros": lambda header, c: replace(c, signatures=(bytes(65), *c.signatures[1:])),
    "another kind of vote": lambda header, c: replace(
        c, signatures=tuple(sign(by, t.Prepare(0, 0, 0, block_id(header))) for by in range(3))
    ),
    "a round that is no uint32": lambda header, c: replace(c, round=1 << 32),
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_what_is_no_certificate(name: str) -> None:
    header = Lab().block().header
    good = certificate((0, 1, 2), header)
    verify_certificate(DOMAIN, committee_of(4), header, good)
    with pytest.raises(BadCertificate):
        verify_certificate(DOMAIN, committee_of(4), header, CERTIFICATES[name](header, good))


def test_a_certificate_counts_in_its_domain_and_epoch_only() -> None:
    header = Lab().block().header
    good = certificate((0, 1, 2), header)
    with pytest.raises(BadCertificate, match="not a member's"):
        verify_certificate(OTHER_DOMAIN, committee_of(4), header, good)
    with pytest.raises(BadCertificate, match="epoch"):
        verify_certificate(DOMAIN, committee_of(4, epoch=1), header, good)


def test_a_signer_is_found_once_and_remembered() -> None:
    recover = recoverer(DOMAIN)
    vote = t.Commit(0, 0, 0, BLOCK_A)
    assert recover(vote, sign(2, vote)) == IDS[2]
    assert recover(t.Prepare(0, 0, 0, BLOCK_A), sign(2, vote)) != IDS[2]
    assert recover(vote, b"") is None
    assert recover(replace(vote, epoch=-1), sign(2, vote)) is None


def test_only_votes_are_filled_with_signatures() -> None:
    with pytest.raises(KeyError):
        with_signature(t.FetchBlock(0, 0, BLOCK_A), b"")


# Justifications


def justified() -> tuple[Lab, t.Proposal]:
    """A proposal of round 2 for a block prepared in round 1, while another was prepared in round 0."""
    lab = Lab()
    low, high = lab.block(by=0), lab.block(by=1)
    changes = (lab.change(0, 2, low, 0), lab.change(1, 2, high, 1), lab.change(2, 2))
    prepared = lab.prepares((0, 1, 3), high, 1)
    return lab, lab.proposal(high, 2, justification=changes, prepared=prepared)


def test_a_proposal_of_the_highest_prepared_block_is_justified() -> None:
    _, proposal = justified()
    assert objection(recoverer(DOMAIN), committee_of(4), proposal) is None


REASONS: dict[str, tuple[str, Callable[[Lab, t.Proposal], t.Proposal]]] = {
    "too few ask for the round": (
        "no quorum asks for this round",
        lambda lab, p: replace(p, justification=p.justification[:2]),
    ),
    "one asks twice": (
        "no quorum asks for this round",
        lambda lab, p: replace(p, justification=(*p.justification[:2], p.justification[1])),
    ),
    "a stranger asks": (
        "no quorum asks for this round",
        lambda lab, p: replace(p, justification=(*p.justification[:2], lab.change(STRANGER, 2))),
    ),
    "one asks for another round": (
        "no quorum asks for this round",
        lambda lab, p: replace(p, justification=(*p.justification[:2], lab.change(2, 3))),
    ),
    "one claims a round to come": (
        "no quorum asks for this round",
        lambda lab, p: replace(p, justification=(*p.justification[:2], lab.change(2, 2, p.block, 2))),
    ),
    "one is signed by somebody else": (
        "no quorum asks for this round",
        lambda lab, p: replace(
            p,
            justification=(
                *p.justification[:2],
                replace(lab.change(2, 2), signature=sign(2, lab.change(2, 1).vote)),
            ),
        ),
    ),
    "a lower prepared block": (
        "another block is prepared",
        lambda lab, p: lab.proposal(
            low := lab.block(by=0),
            2,
            justification=(lab.change(0, 2, low, 0), *p.justification[1:]),
            prepared=lab.prepares((0, 1, 3), low, 0),
        ),
    ),
    "a fresh block where one is prepared": (
        "another block is prepared",
        lambda lab, p: lab.proposal(lab.block(by=2), 2, justification=p.justification),
    ),
    "no proof": ("the prepared block is not proved", lambda lab, p: replace(p, prepared=())),
    "a proof of too few": (
        "the prepared block is not proved",
        lambda lab, p: replace(p, prepared=p.prepared[:2]),
    ),
    "a proof by one member": (
        "the prepared block is not proved",
        lambda lab, p: replace(p, prepared=(p.prepared[0],) * 3),
    ),
    "a proof of another round": (
        "the prepared block is not proved",
        lambda lab, p: replace(p, prepared=lab.prepares((0, 1, 3), p.block, 0)),
    ),
    "a proof where nothing was prepared": (
        "nothing was prepared",
        lambda lab, p: replace(p, justification=tuple(lab.change(by, 2) for by in (0, 1, 2))),
    ),
    "a fresh block in somebody else's name": (
        "a fresh block names another proposer",
        lambda lab, p: replace(p, justification=tuple(lab.change(by, 2) for by in (0, 1, 2)), prepared=()),
    ),
    "another block than the one signed": (
        "the proposal names another block",
        lambda lab, p: replace(p, block=lab.block(by=2)),
    ),
    "a reason in round 0": (
        "round 0 needs no justification",
        lambda lab, p: lab.proposal(lab.block(by=0), 0, justification=p.justification),
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_no_justified_proposal(name: str) -> None:
    lab, proposal = justified()
    reason, spoil = REASONS[name]
    assert objection(recoverer(DOMAIN), committee_of(4), spoil(lab, proposal)) == reason


def test_the_highest_claims_are_chosen_first_and_then_by_signer() -> None:
    lab, proposal = justified()
    pairs = [(IDS[by], lab.change(by, 2)) for by in (3, 2)] + [(IDS[1], proposal.justification[1])]
    assert [change.vote.prepared_round_plus_1 for change in choose(pairs, 2)] == [2, 0]
    assert choose(pairs, 2)[1] == lab.change(2, 2)


@pytest.mark.parametrize(
    ("round_", "claimed", "block", "good"),
    [
        (0, 0, t.ZERO_DIGEST, False),
        (1, 0, t.ZERO_DIGEST, True),
        (1, 0, BLOCK_A, False),
        (1, 1, BLOCK_A, True),
        (1, 2, BLOCK_A, False),
    ],
)
def test_which_round_changes_can_be(round_: int, claimed: int, block: t.Digest, good: bool) -> None:
    assert well_formed(t.RoundChange(0, 0, round_, claimed, block, t.ZERO_DIGEST)) is good


# Offences


def change(
    round_: int, claimed: int = -1, block: t.Digest = t.ZERO_DIGEST, context: bytes = b"0"
) -> t.RoundChange:
    return t.RoundChange(0, 5, round_, claimed + 1, block, t.Digest(context * 32))


OFFENCES: list[tuple[OffenceKind, t.Vote, t.Vote]] = [
    (OffenceKind.TWO_PROPOSE, t.Propose(0, 5, 1, BLOCK_A), t.Propose(0, 5, 1, BLOCK_B)),
    (OffenceKind.TWO_PREPARE, t.Prepare(0, 5, 1, BLOCK_A), t.Prepare(0, 5, 1, BLOCK_B)),
    (OffenceKind.TWO_COMMIT, t.Commit(0, 5, 1, BLOCK_A), t.Commit(0, 5, 1, BLOCK_B)),
    (OffenceKind.TWO_ROUND_CHANGE, change(2), change(2, 1, BLOCK_A)),
    (OffenceKind.TWO_ROUND_CHANGE, change(2, 0, BLOCK_A), change(2, 1, BLOCK_A)),
    (OffenceKind.TWO_ROUND_CHANGE, change(2, 1, BLOCK_B), change(2, 1, BLOCK_A)),
    (OffenceKind.DENIED_COMMIT, t.Commit(0, 5, 1, BLOCK_A), change(2)),
    (OffenceKind.DENIED_COMMIT, t.Commit(0, 5, 1, BLOCK_A), change(4, 0, BLOCK_A)),
    (OffenceKind.DENIED_COMMIT, t.Commit(0, 5, 1, BLOCK_A), change(4, 1, BLOCK_B)),
]
HARMLESS: list[tuple[t.Vote, t.Vote]] = [
    (t.Propose(0, 5, 1, BLOCK_A), t.Propose(0, 5, 1, BLOCK_A)),
    (t.Propose(0, 5, 1, BLOCK_A), t.Propose(0, 5, 2, BLOCK_B)),
    (t.Propose(0, 5, 1, BLOCK_A), t.Prepare(0, 5, 1, BLOCK_B)),
    (t.Prepare(0, 5, 1, BLOCK_A), t.Commit(0, 5, 1, BLOCK_B)),
    (t.Commit(0, 5, 1, BLOCK_A), t.Commit(0, 6, 1, BLOCK_B)),
    (t.Commit(0, 5, 1, BLOCK_A), t.Commit(1, 5, 1, BLOCK_B)),
    (t.Commit(0, 5, 1, BLOCK_A), t.Commit(0, 5, 2, BLOCK_B)),
    (change(2), change(3, 1, BLOCK_A)),
    (change(2, context=b"0"), change(2, context=b"1")),
    (t.Commit(0, 5, 2, BLOCK_A), change(2)),
    (t.Commit(0, 5, 1, BLOCK_A), change(2, 1, BLOCK_A)),
    (t.Commit(0, 5, 1, BLOCK_A), change(4, 2, BLOCK_B)),
]


@pytest.mark.parametrize(("kind", "a", "b"), OFFENCES)
def test_two_votes_that_no_honest_member_signs_both_are_an_offence(
    kind: OffenceKind, a: t.Vote, b: t.Vote
) -> None:
    proof = Offence(kind, IDS[1], signed(1, a), signed(1, b))
    assert offence(DOMAIN, signed(1, a), signed(1, b)) == proof
    backwards = offence(DOMAIN, signed(1, b), signed(1, a))
    assert backwards is not None and backwards.kind == kind
    if kind == OffenceKind.DENIED_COMMIT:
        assert backwards == proof


@pytest.mark.parametrize(("kind", "a", "b"), OFFENCES)
def test_a_pair_proves_nothing_against_two_signers_or_in_another_domain(
    kind: OffenceKind, a: t.Vote, b: t.Vote
) -> None:
    assert contradiction(a, b) == kind
    assert offence(DOMAIN, signed(1, a), signed(2, b)) is None
    # In another domain the signatures are somebody's, but not one member's.
    assert offence(OTHER_DOMAIN, signed(1, a), signed(1, b)) is None
    spoilt = replace(signed(1, b), signature=bytes(65))
    assert offence(DOMAIN, signed(1, a), spoilt) is None


@pytest.mark.parametrize(("a", "b"), HARMLESS)
def test_what_an_honest_member_may_sign_is_no_offence(a: t.Vote, b: t.Vote) -> None:
    assert contradiction(a, b) is None is contradiction(b, a)
    assert offence(DOMAIN, signed(1, a), signed(1, b)) is None


def test_e6_two_structs_of_one_slot_name_their_signer() -> None:
    one = Close(0, 5, 1, BLOCK_A)
    other, later = replace(one, list_root=BLOCK_B), replace(one, list_root=BLOCK_B, round=2)
    slot = ("epoch", "height", "round")

    def signer(a: object, b: object, by: int = 1) -> t.MemberId | None:
        return two_of_one_slot(DOMAIN, a, sign(1, a), b, sign(by, b), slot=slot)

    assert signer(one, other) == IDS[1]
    assert signer(one, other, by=2) is None
    assert signer(one, one) is None
    assert signer(one, later) is None
    assert signer(one, t.Commit(0, 5, 0, BLOCK_A)) is None
    assert (
        two_of_one_slot(
            DOMAIN, one, sign(1, one), replace(one, list_root=t.Digest(b"short")), bytes(65), slot=slot
        )
        is None
    )
