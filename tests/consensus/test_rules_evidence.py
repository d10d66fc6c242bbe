"""Who contradicts himself is found out: on the way, late, and in what several members kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus import types as t
from consensus.evidence import OffenceKind, culprits, offence
from consensus.signing import block_id
from consensus.votes import recoverer
from tests.consensus.lab import DOMAIN, IDS, Lab, certificate, only, signed


@pytest.fixture
def lab() -> Lab:
    """Member 3 of 4; proposers are 0, 1, 2, 3 in the rounds of the first height."""
    return Lab()


# Offences that are seen on the way.


def pair(effects: list[t.Effect]) -> tuple[str, ...]:
    return tuple(
        type(each.vote).__name__ for fault in only(effects, t.Fault) if fault.pair for each in fault.pair
    )


def test_a_second_commit_of_a_round_is_proved_once(lab: Lab) -> None:
    lab.commit(0, lab.block())
    effects = lab.commit(0, lab.block())
    assert pair(effects) == ("Commit", "Commit")
    assert pair(lab.commit(0, lab.block())) == ()


def test_a_second_prepare_of_a_round_is_proved(lab: Lab) -> None:
    lab.prepare(0, lab.block())
    assert pair(lab.prepare(0, lab.block())) == ("Prepare", "Prepare")


def test_a_second_round_change_of_a_round_is_proved_even_without_proof_of_its_claim(lab: Lab) -> None:
    lab.round_change(0, 1)
    assert pair(lab.round_change(0, 1, lab.block(), proof=())) == ("RoundChange", "RoundChange")


@pytest.mark.parametrize("commit_first", [True, False])
def test_a_round_change_that_denies_a_commit_is_proved_the_commit_first(commit_first: bool) -> None:
    lab = Lab()
    block = lab.block()
    steps = [lambda: lab.commit(0, block), lambda: lab.round_change(0, 1)]
    effects = [step() for step in (steps if commit_first else reversed(steps))]
    assert pair(effects[1]) == ("Commit", "RoundChange")


def test_votes_inside_a_justification_are_compared_too(lab: Lab) -> None:
    lab.commit(0, lab.block())
    changes = tuple(lab.change(by, 1) for by in (0, 1, 2))
    assert pair(lab.propose(lab.block(by=1), 1, justification=changes)) == ("Commit", "RoundChange")


def test_commits_inside_a_certificate_are_compared_too(lab: Lab) -> None:
    lab.commit(0, lab.block())
    block = lab.block()
    decided = t.DecidedBlock(block, certificate((0, 1, 2), block.header))
    assert pair(lab.receive(1, t.DecidedMessage(decided))) == ("Commit", "Commit")


# Evidence that comes late.


def test_two_commits_that_both_come_after_the_decision_are_proved(lab: Lab) -> None:
    first, second = (replace(lab.block(), body=bytes([i])) for i in (1, 2))
    lab.decide()
    assert pair(lab.commit(0, first, 1)) == ()
    assert pair(lab.commit(0, second, 1)) == ("Commit", "Commit")
    assert pair(lab.commit(0, lab.block(), 1)) == ()


def test_votes_for_the_last_decided_height_are_compared_while_the_next_one_is_open(lab: Lab) -> None:
    block = lab.block()
    lab.decide()
    lab.next_height()
    assert pair(lab.commit(2, block, 1)) == ()
    late = t.RoundChange(0, 0, 2, 0, t.ZERO_DIGEST, t.ZERO_DIGEST)
    assert pair(lab.receive(2, t.RoundChangeMessage(signed(2, late)))) == ("Commit", "RoundChange")


def test_a_late_vote_that_its_sender_did_not_sign_proves_nothing(lab: Lab) -> None:
    block, other = lab.block(), lab.block()
    lab.decide()
    lab.commit(0, block, 1)
    theirs = t.CommitMessage(signed(0, t.Commit(0, 0, 1, block_id(other.header))))
    assert pair(lab.receive(1, theirs)) == ()


def test_a_second_certificate_of_a_decided_height_is_compared_with_the_first(lab: Lab) -> None:
    block = lab.block()
    lab.decide()
    fork = t.DecidedBlock(block, certificate((0, 1, 2), block.header))
    assert pair(lab.receive(1, t.DecidedMessage(fork))) == ("Commit", "Commit") * 3
    short = t.DecidedBlock(block, t.Certificate(0, fork.certificate.signatures[:-1]))
    assert pair(lab.receive(1, t.DecidedMessage(short))) == ()


def test_late_votes_of_still_older_heights_are_forgotten(lab: Lab) -> None:
    first, second = lab.block(), lab.block()
    for _ in range(2):
        lab.decide()
        lab.next_height()
    lab.commit(0, first, 1)
    assert pair(lab.commit(0, second, 1)) == ()
    assert lab.replica._before.number == 1


# What several members kept.

RECOVER = recoverer(DOMAIN)


def test_two_certificates_of_one_round_name_the_members_that_are_in_both(lab: Lab) -> None:
    first, second = lab.block(), lab.block()
    records = [
        t.DecidedMessage(t.DecidedBlock(first, certificate((0, 1, 2), first.header))),
        t.DecidedMessage(t.DecidedBlock(second, certificate((1, 2, 3), second.header))),
    ]
    found = culprits(RECOVER, records)
    assert {each.signer for each in found} == {IDS[1], IDS[2]}
    for each in found:
        assert each.kind is OffenceKind.TWO_COMMIT
        assert offence(DOMAIN, each.first, each.second) == each


def test_a_certificate_and_a_later_justification_that_denies_it_name_who_is_in_both(lab: Lab) -> None:
    block, other = lab.block(), lab.block(by=1)
    changes = tuple(lab.change(by, 1) for by in (1, 2, 3))
    records = [
        lab.proposal(other, 1, justification=changes),
        t.DecidedMessage(t.DecidedBlock(block, certificate((0, 1, 2), block.header))),
    ]
    found = culprits(RECOVER, records)
    assert {(each.signer, each.kind) for each in found} == {
        (IDS[1], OffenceKind.DENIED_COMMIT),
        (IDS[2], OffenceKind.DENIED_COMMIT),
    }
    assert all(isinstance(each.first.vote, t.Commit) for each in found)
    assert {each.signer for each in culprits(RECOVER, reversed(records))} == {IDS[1], IDS[2]}


def test_prepares_that_prove_two_blocks_of_one_round_name_who_is_in_both(lab: Lab) -> None:
    block, other = lab.block(), lab.block()
    changes = (lab.change(0, 2, other, 1), lab.change(1, 2), lab.change(3, 2))
    proposal = lab.proposal(other, 2, justification=changes, prepared=lab.prepares((0, 1, 2), other, 1))
    kept = [t.PrepareMessage(prepare) for prepare in lab.prepares((1, 2, 3), block, 1)]
    found = culprits(RECOVER, [proposal, *kept])
    assert {(each.signer, each.kind) for each in found} == {
        (IDS[1], OffenceKind.TWO_PREPARE),
        (IDS[2], OffenceKind.TWO_PREPARE),
    }


def test_proofs_inside_round_changes_are_looked_at(lab: Lab) -> None:
    block, other = lab.block(), lab.block()
    change = t.RoundChangeMessage(lab.change(0, 1, block), lab.prepares((0, 1, 2), block))
    found = culprits(RECOVER, [change, t.PrepareMessage(lab.prepares((2,), other)[0])])
    assert [each.signer for each in found] == [IDS[2]]


def test_one_offence_a_signer_and_height_is_enough(lab: Lab) -> None:
    votes = [
        signed(0, t.Prepare(0, height, 0, t.Digest(bytes([i]) * 32))) for i in (1, 2, 3) for height in (0, 1)
    ]
    found = culprits(RECOVER, map(t.PrepareMessage, votes))
    assert [each.first.vote.height for each in found] == [0, 1]


def test_records_that_nobody_signed_or_that_carry_no_vote_name_nobody(lab: Lab) -> None:
    block, other = lab.block(), lab.block()
    forged = t.PrepareMessage(
        replace(lab.prepares((0,), block)[0], vote=t.Prepare(0, 0, 0, block_id(other.header)))
    )
    records = [t.PrepareMessage(lab.prepares((0,), block)[0]), forged, t.BlockMessage(block)]
    assert culprits(RECOVER, [*records, *records]) == []


def test_what_an_honest_height_leaves_behind_names_nobody(lab: Lab) -> None:
    block = lab.block()
    lab.propose(block)
    for by in (0, 1):
        lab.prepare(by, block)
    lab.elapse()
    for by in (0, 1, 2):
        lab.round_change(by, 1, block)
    lab.propose(
        block,
        1,
        justification=tuple(lab.change(by, 1, block) for by in range(3)),
        prepared=lab.prepares(range(3), block),
    )
    for by in (0, 1, 2):
        lab.prepare(by, block, 1)
        lab.commit(by, block, 1)
    kept = [event.message for event in lab.wal if isinstance(event, t.Received)]
    assert len(kept) > 6
    assert culprits(RECOVER, [*kept, *map(t.DecidedMessage, lab.store)]) == []
