"""Each predicate over signed votes, under the sentence that it decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus import justification
from consensus import types as t
from consensus.signing import block_id
from consensus.votes import (
    certificate_of,
    check_certificate,
    distinct_signers,
    recoverer,
    votes_in,
    within_bounds,
)
from tests.consensus.lab import DOMAIN, IDS, STRANGER, Lab, certificate, committee_of, signed

RECOVER = recoverer(DOMAIN)
FOUR = committee_of(4)


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.mark.parametrize(
    ("by", "voted", "holds"),
    [
        ((0, 1, 2), 1, True),
        ((0, 1, 2, 3), 1, True),
        ((0, 1), 1, False),
        ((0, 1, 1), 1, False),
        ((0, 1, STRANGER), 1, False),
        ((0, 1, 2), 0, False),
        ((0, 1, 2), 2, False),
    ],
)
def test_a_block_is_proved_prepared_by_a_quorum_of_distinct_members_for_exactly_it_and_its_round(
    lab: Lab, by: tuple[int, ...], voted: int, holds: bool
) -> None:
    block = lab.block()
    known = block_id(block.header)
    prepares = lab.prepares(by, block, voted)
    assert justification.proves_prepared(RECOVER, FOUR, 0, 1, known, prepares) is holds
    assert not justification.proves_prepared(RECOVER, FOUR, 0, 1, t.ZERO_DIGEST, prepares)
    assert not justification.proves_prepared(RECOVER, FOUR, 1, 1, known, prepares)
    assert not justification.proves_prepared(RECOVER, replace(FOUR, epoch=1), 0, 1, known, prepares)


@pytest.mark.parametrize(
    ("by", "asked", "holds"),
    [
        ((0, 1, 2), 2, True),
        ((0, 1, 2, 3), 2, True),
        ((0, 1), 2, False),
        ((0, 1, 1), 2, False),
        ((0, 1, STRANGER), 2, False),
        ((0, 1, 2), 1, False),
        ((0, 1, 2), 3, False),
        ((0, 1, 2, 3, 3), 2, False),
    ],
)
def test_a_round_is_asked_for_by_well_formed_round_changes_of_a_quorum_for_exactly_it(
    lab: Lab, by: tuple[int, ...], asked: int, holds: bool
) -> None:
    changes = [lab.change(member, asked) for member in by]
    assert justification.asks_for_round(RECOVER, FOUR, 0, 2, changes) is holds
    impossible = lab.change(by[0], asked, lab.block(), prepared=asked)
    assert not justification.asks_for_round(RECOVER, FOUR, 0, 2, [impossible, *changes[1:]])


def test_the_highest_claim_is_that_of_the_highest_prepared_round(lab: Lab) -> None:
    low, high = lab.block(), lab.block()
    changes = [lab.change(0, 3), lab.change(1, 3, low, 0), lab.change(2, 3, high, 2)]
    found = justification.highest_claim(changes)
    assert found is not None
    assert (found.prepared_round_plus_1, found.prepared_block_id) == (3, block_id(high.header))
    assert justification.highest_claim(changes[:1]) is None


def test_signers_are_distinct_members_or_there_is_no_set_of_them(lab: Lab) -> None:
    votes = lab.prepares((0, 1, 2), lab.block())
    assert distinct_signers(RECOVER, FOUR, votes) == frozenset(IDS[:3])
    assert distinct_signers(RECOVER, FOUR, ()) == frozenset()
    assert distinct_signers(RECOVER, FOUR, (*votes, votes[0])) is None
    assert distinct_signers(RECOVER, FOUR, lab.prepares((0, STRANGER), lab.block())) is None
    assert distinct_signers(RECOVER, FOUR, [replace(votes[0], signature=bytes(65))]) is None


def test_a_certificate_of_commits_has_exactly_a_quorum_in_the_order_of_their_signers(lab: Lab) -> None:
    block = lab.block()
    vote = t.Commit(0, 0, 4, block_id(block.header))
    commits = {IDS[by]: signed(by, vote) for by in (3, 1, 0, 2)}
    made = certificate_of(4, commits, FOUR.quorum)
    assert made == certificate((0, 1, 2), block.header, 4)
    assert check_certificate(RECOVER, FOUR, block.header, made) == IDS[:3]


def test_every_vote_that_a_message_carries_is_looked_at(lab: Lab) -> None:
    block = lab.block()
    changes = tuple(lab.change(by, 1, block) for by in range(3))
    prepares = lab.prepares(range(3), block)
    proposal = lab.proposal(block, 1, justification=changes, prepared=prepares)
    assert list(votes_in(proposal)) == [proposal.propose, *changes, *prepares]
    assert list(votes_in(t.RoundChangeMessage(changes[0], prepares))) == [changes[0], *prepares]
    assert list(votes_in(t.PrepareMessage(prepares[0]))) == [prepares[0]]
    decided = t.DecidedMessage(t.DecidedBlock(block, certificate(range(3), block.header)))
    assert [RECOVER(each.vote, each.signature) for each in votes_in(decided)] == list(IDS[:3])
    assert list(votes_in(t.BlockMessage(block))) == []
    assert list(votes_in(t.FetchBlock(0, 0, t.ZERO_DIGEST))) == []


def test_no_list_or_body_is_longer_than_a_member_can_need(lab: Lab) -> None:
    block = lab.block(body=bytes(10))
    change, prepare = lab.change(0, 1), lab.prepares((0,), block)
    for good, bad in (
        (lab.proposal(block, justification=(change,) * 4), lab.proposal(block, justification=(change,) * 5)),
        (lab.proposal(block, prepared=prepare * 4), lab.proposal(block, prepared=prepare * 5)),
        (t.RoundChangeMessage(change, prepare * 4), t.RoundChangeMessage(change, prepare * 5)),
        (t.BlockMessage(block), t.BlockMessage(replace(block, body=bytes(11)))),
    ):
        assert within_bounds(good, FOUR, 10)
        assert not within_bounds(bad, FOUR, 10)
