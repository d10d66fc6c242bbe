"""R6 to R8, each sentence of docs/consensus.md under its own name."""

from __future__ import annotations

import pytest

from consensus import types as t
from consensus.answers import ANSWERED_HEIGHTS, ANSWERS_MAX
from consensus.signing import block_id
from consensus.votes import signed_vote
from tests.consensus.lab import IDS, STRANGER, Lab, only, reasons, signed, votes


@pytest.fixture
def lab() -> Lab:
    """Member 3 of 4; proposers are 0, 1, 2, 3 in the rounds of the first height."""
    return Lab()


def order(effects: list[t.Effect], *kinds: type) -> list[type]:
    return [type(effect) for effect in effects if isinstance(effect, kinds)]


# R1


# R6


def test_r6_the_proposer_of_round_0_builds_at_once() -> None:
    lab = Lab(me=0, start=False)
    effects = lab.step(lab.started())
    assert [(build.height, build.round) for build in only(effects, t.Build)] == [(0, 0)]
    assert len(votes(effects, t.Propose)) == len(votes(effects, t.Prepare)) == 1


def test_r6_the_own_proposal_is_durable_before_it_is_signed() -> None:
    lab = Lab(me=0, start=False)
    effects = lab.step(lab.started())
    kinds = order(effects, t.Build, t.Persist, t.Sign)
    assert kinds[:3] == [t.Build, t.Persist, t.Sign]


def leader_of_round_1(**options: object) -> tuple[Lab, t.Block]:
    """Member 1 in round 1, which it leads, having seen the proposal of round 0."""
    lab = Lab(me=1, **options)
    block = lab.block()
    lab.propose(block)
    lab.elapse()
    return lab, block


def test_r6_a_quorum_that_prepared_nothing_gets_a_fresh_block() -> None:
    lab, _ = leader_of_round_1()
    assert only(lab.round_change(0, 1), t.Build) == []
    effects = lab.round_change(2, 1)
    (build,) = only(effects, t.Build)
    assert {change.signature for change in build.justification} == {
        lab.change(by, 1).signature for by in (0, 1, 2)
    }
    (proposal,) = [sign.message for sign in only(effects, t.Sign) if isinstance(sign.message, t.Proposal)]
    assert proposal.justification == build.justification and proposal.prepared == ()
    assert proposal.block.header.proposer == IDS[1]


def test_r6_only_round_changes_for_exactly_this_round_count() -> None:
    lab, _ = leader_of_round_1()
    lab.round_change(0, 1)
    assert only(lab.round_change(2, 3), t.Build) == []


def test_r6_the_block_of_the_highest_prepared_round_is_proposed_again() -> None:
    lab = Lab(me=2)
    low, high = lab.block(by=0), lab.block(by=1)
    lab.propose(low)
    lab.propose(high, 1, justification=tuple(lab.change(by, 1) for by in (0, 1, 3)))
    lab.elapse()
    lab.round_change(0, 2, low, prepared=0)
    effects = lab.round_change(1, 2, high, prepared=1)
    (proposal,) = [sign.message for sign in only(effects, t.Sign) if isinstance(sign.message, t.Proposal)]
    assert proposal.block == high
    assert proposal.block.header.proposer == IDS[1]  # Not who proposes it again.
    assert {(p.vote.round, p.vote.block_id) for p in proposal.prepared} == {(1, block_id(high.header))}


def test_r6_a_claim_that_cannot_be_is_refused(lab: Lab) -> None:
    block = lab.block()
    assert reasons(lab.round_change(0, 1, block, prepared=1)) == ["a round change that cannot be"]


def test_r6_a_claim_is_believed_when_its_proof_was_seen_before(lab: Lab) -> None:
    block = lab.block()
    lab.round_change(0, 1, block)
    assert reasons(lab.round_change(1, 1, block, proof=())) == []
    assert lab.replica.round == 1


def test_r6_a_claim_without_proof_is_not_counted() -> None:
    lab, block = leader_of_round_1()
    lab.round_change(0, 1)
    effects = lab.round_change(2, 1, block, proof=lab.prepares((0, 2), block))
    assert reasons(effects) == ["a prepared claim without proof"]
    assert only(effects, t.Build) == [] == votes(effects, t.Propose)


def test_r6_a_prepared_block_is_validated_before_it_is_proposed_again_and_no_clock_is_asked() -> None:
    lab = Lab(me=1)
    lab.valid = None
    block = lab.block()
    lab.propose(block)
    lab.elapse()
    lab.round_change(0, 1, block)
    effects = lab.round_change(2, 1, block)
    assert only(effects, t.Validate) == [t.Validate(0, 1, block, fresh=False)]
    assert votes(effects, t.Propose) == []
    assert len(votes(lab.judge(block, True), t.Propose)) == 1


def test_r6_a_prepared_block_is_validated_once_and_not_proposed_if_it_is_bad() -> None:
    lab = Lab(me=1)
    lab.valid = None
    block = lab.block()
    lab.propose(block)
    lab.elapse()
    effects = [effect for by in (0, 2, 3) for effect in lab.round_change(by, 1, block)]
    assert len(only(effects, t.Validate)) == 1
    assert lab.judge(block, False) == []


def test_r6_a_prepared_block_that_is_not_held_is_fetched_from_who_prepared_it() -> None:
    lab = Lab(me=1)
    block = lab.block(by=0)
    lab.elapse()
    lab.round_change(0, 1, block)
    (send,) = only(lab.round_change(2, 1), t.Send)
    assert send == t.Send(IDS[0], t.FetchBlock(0, 0, block_id(block.header)))
    assert len(votes(lab.receive(0, t.BlockMessage(block)), t.Propose)) == 1


def test_r6_a_proposal_of_a_prepared_block_is_validated_without_a_clock(lab: Lab) -> None:
    block = lab.block()
    changes = (lab.change(0, 1, block), lab.change(1, 1), lab.change(2, 1))
    effects = lab.propose(block, 1, justification=changes, prepared=lab.prepares((0, 1, 2), block))
    assert only(effects, t.Validate) == [t.Validate(0, 1, block, fresh=False)]
    assert [vote.round for vote in votes(effects, t.Prepare)] == [1]


def refused_proposal(
    lab: Lab, block: t.Block, *changes: t.SignedRoundChange, proof: object = ()
) -> list[str]:
    """What a member says to a proposal of round 2."""
    effects = lab.propose(block, 2, justification=changes, prepared=proof)
    assert votes(effects, t.Prepare) == []
    return reasons(effects)


def test_r6_a_proposal_of_a_lower_prepared_block_is_refused(lab: Lab) -> None:
    low, high = lab.block(by=0), lab.block(by=1)
    changes = (lab.change(0, 2, low, 0), lab.change(1, 2, high, 1), lab.change(2, 2))
    said = refused_proposal(lab, low, *changes, proof=lab.prepares((0, 1, 2), low, 0))
    assert said == ["another block is prepared"]


def test_r6_a_fresh_proposal_where_a_block_is_prepared_is_refused(lab: Lab) -> None:
    changes = (lab.change(0, 2, lab.block(by=0), 0), lab.change(1, 2), lab.change(2, 2))
    assert refused_proposal(lab, lab.block(by=2), *changes) == ["another block is prepared"]


def test_r6_a_proposal_whose_prepared_block_is_not_proved_is_refused(lab: Lab) -> None:
    block = lab.block(by=0)
    changes = (lab.change(0, 2, block, 0), lab.change(1, 2), lab.change(2, 2))
    for proof in (
        lab.prepares((0, 1), block),
        lab.prepares((0, 0, 0), block),
        lab.prepares((0, 1, STRANGER), block),
    ):
        assert refused_proposal(lab, block, *changes, proof=proof) == ["the prepared block is not proved"]


def test_r6_never_two_proposals_in_one_round() -> None:
    lab, _ = leader_of_round_1()
    lab.round_change(0, 1)
    lab.round_change(2, 1)
    assert votes(lab.round_change(3, 1), t.Propose) == []
    assert votes(lab.step(t.Built(0, 1, lab.block(by=1))), t.Propose) == []


def test_r6_a_block_of_the_application_that_cannot_be_proposed_stops_us() -> None:
    lab = Lab(me=1)
    lab.elapse()
    lab.carry_out = lambda effects: effects  # type: ignore[method-assign]
    for by in (0, 2, 3):
        lab.round_change(by, 1)
    with pytest.raises(ValueError, match="may not be proposed"):
        lab.replica.step(t.Built(0, 1, lab.block(by=2)))


# R7


def test_r7_who_asks_about_an_older_height_gets_the_block_and_its_certificate(lab: Lab) -> None:
    block = lab.block()
    decided = lab.decide(block)
    claim = t.RoundChange(0, 0, 1, 1, block_id(block.header), t.ZERO_DIGEST)
    ask = t.RoundChangeMessage(signed(2, claim), lab.prepares(lab.quorum(), block))
    answer = [t.Send(IDS[2], t.DecidedMessage(decided))]
    assert lab.receive(2, ask) == answer
    lab.next_height()
    assert lab.receive(2, ask) == answer


def test_r7_a_few_times_a_peer_and_height_and_again_after_some_time(lab: Lab) -> None:
    decided = lab.decide()
    ask = t.FetchBlock(0, 0, block_id(decided.block.header))
    assert [len(lab.receive(2, ask)) for _ in range(ANSWERS_MAX + 2)] == [1] * ANSWERS_MAX + [0, 0]
    assert len(lab.receive(1, ask)) == 1
    lab.step(t.Resend())
    assert [len(lab.receive(2, ask)) for _ in range(2)] == [1, 0]


def test_r7_a_late_vote_asks_for_nothing_the_first_time(lab: Lab) -> None:
    block = lab.decide().block
    assert lab.commit(2, block) == []
    assert len(only(lab.commit(2, block), t.Send)) == 1


def test_r7_answers_are_not_answered(lab: Lab) -> None:
    decided = lab.decide()
    assert lab.receive(2, t.DecidedMessage(decided)) == []
    assert lab.receive(2, t.BlockMessage(decided.block)) == []


def test_r7_strangers_are_not_answered(lab: Lab) -> None:
    decided = lab.decide()
    assert lab.receive(STRANGER, t.FetchBlock(0, 0, block_id(decided.block.header))) == []


def test_r7_who_is_far_behind_is_sent_the_tip(lab: Lab) -> None:
    for _ in range(ANSWERED_HEIGHTS + 2):
        tip = lab.decide()
        lab.next_height()
    assert lab.receive(2, t.FetchBlock(0, 0, t.ZERO_DIGEST)) == [t.Send(IDS[2], t.DecidedMessage(tip))]


# R8


def test_r8_the_own_current_votes_are_sent_again_in_their_order(lab: Lab) -> None:
    block = lab.block(by=1)
    lab.elapse()
    lab.propose(block, 1, justification=tuple(lab.change(by, 1) for by in (0, 1, 2)))
    lab.prepare(0, block, 1)
    lab.prepare(1, block, 1)
    sent = [signed_vote(send.message) for send in only(lab.step(t.Resend()), t.Send)]
    assert [type(vote.vote) for vote in sent if vote] == [t.RoundChange, t.Prepare, t.Commit]
    assert all(send.to == IDS[2] for send in only(lab.step(t.Resend(IDS[2])), t.Send))


def test_r8_an_old_commit_is_still_sent_an_old_prepare_is_not(lab: Lab) -> None:
    block = lab.block()
    lab.propose(block)
    lab.prepare(0, block)
    lab.prepare(1, block)
    lab.elapse()
    sent = [signed_vote(send.message) for send in only(lab.step(t.Resend()), t.Send)]
    assert [type(vote.vote) for vote in sent if vote] == [t.RoundChange, t.Commit]


def test_r8_the_proposer_sends_its_proposal_again() -> None:
    lab = Lab(me=0)
    sent = [type(send.message) for send in only(lab.step(t.Resend()), t.Send)]
    assert sent == [t.Proposal, t.PrepareMessage]


def test_r8_whom_the_guard_keeps_silent_asks_whether_the_height_is_decided(lab: Lab) -> None:
    lab.refused = (t.RoundChange, t.Prepare)
    lab.elapse()
    assert only(lab.step(t.Resend()), t.Send) == [t.Send(None, t.FetchBlock(0, 0, t.ZERO_DIGEST))]


def test_r8_a_decided_member_has_nothing_to_repeat(lab: Lab) -> None:
    lab.decide()
    assert lab.step(t.Resend()) == []
