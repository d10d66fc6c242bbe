"""R1 to R9, each sentence of docs/consensus.md under its own name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus import types as t
from consensus.answers import ANSWERED_HEIGHTS, ANSWERS_MAX
from consensus.evidence import contradiction
from consensus.signing import block_id
from consensus.votes import signed_vote
from tests.consensus.lab import IDS, STRANGER, Lab, certificate, only, reasons, signed, votes


@pytest.fixture
def lab() -> Lab:
    """Member 3 of 4; proposers are 0, 1, 2, 3 in the rounds of the first height."""
    return Lab()


def order(effects: list[t.Effect], *kinds: type) -> list[type]:
    return [type(effect) for effect in effects if isinstance(effect, kinds)]


# R1


def test_r1_the_right_proposers_block_is_validated_and_then_prepared(lab: Lab) -> None:
    lab.valid = None
    block = lab.block()
    effects = lab.propose(block)
    assert only(effects, t.Validate) == [t.Validate(0, 0, block, fresh=True)]
    assert votes(effects, t.Prepare) == []
    assert votes(lab.judge(block, True), t.Prepare) == [t.Prepare(0, 0, 0, block_id(block.header))]


def test_r1_a_proposal_of_another_member_is_refused(lab: Lab) -> None:
    effects = lab.propose(lab.block(by=1), by=1)
    assert reasons(effects) == ["not its turn"]
    assert lab.replica.accepted is None


def test_r1_a_fresh_block_names_the_proposer_of_its_round(lab: Lab) -> None:
    assert reasons(lab.propose(lab.block(by=1))) == ["a fresh block names another proposer"]


def test_r1_a_justified_proposal_of_a_higher_round_moves_me_there(lab: Lab) -> None:
    changes = tuple(lab.change(by, 2) for by in (0, 1, 2))
    effects = lab.propose(lab.block(by=2), 2, justification=changes)
    assert only(effects, t.EnteredRound) == [t.EnteredRound(0, 2, IDS[2], changes)]
    assert [vote.round for vote in votes(effects, t.Prepare)] == [2]


def test_r1_an_unjustified_proposal_moves_nobody(lab: Lab) -> None:
    changes = tuple(lab.change(by, 2) for by in (0, 1))
    effects = lab.propose(lab.block(by=2), 2, justification=changes)
    assert reasons(effects) == ["no quorum asks for this round"]
    assert lab.replica.round == 0


def test_r1_never_two_prepares_in_one_round(lab: Lab) -> None:
    lab.propose(lab.block())
    effects = lab.propose(lab.block())
    assert votes(effects, t.Prepare) == []
    assert reasons(effects) == ["equivocation"]


def test_r1_never_a_prepare_for_an_older_round(lab: Lab) -> None:
    lab.elapse()
    assert votes(lab.propose(lab.block(by=0)), t.Prepare) == []


def test_r1_an_invalid_block_is_not_prepared(lab: Lab) -> None:
    lab.valid = False
    effects = lab.propose(lab.block())
    assert votes(effects, t.Prepare) == []
    assert reasons(effects) == ["invalid block"]


def test_r1_no_prepare_when_the_answer_comes_after_the_round(lab: Lab) -> None:
    lab.valid = None
    block = lab.block()
    lab.propose(block)
    lab.elapse()
    assert votes(lab.judge(block, True, round_=0), t.Prepare) == []


def test_r1_the_accepted_proposal_is_durable_before_the_prepare_is_signed(lab: Lab) -> None:
    block = lab.block()
    proposal = lab.proposal(block)
    effects = lab.receive(0, proposal)
    persisted = [effect.event for effect in effects if isinstance(effect, t.Persist)]
    assert persisted[:2] == [t.Received(IDS[0], proposal), t.Validated(0, 0, block_id(block.header), True)]
    assert order(effects, t.Persist, t.Sign)[:3] == [t.Persist, t.Persist, t.Sign]


def test_r1_nothing_is_durable_before_the_block_is_valid(lab: Lab) -> None:
    lab.valid = None
    assert only(lab.propose(lab.block()), t.Persist) == []


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("version", 2, "header version 2"),
        ("group_id", t.Digest(b"X" * 32), "a block of another group"),
        ("epoch", 1, "epoch 1, the committee is of 0"),
        ("parent_id", t.Digest(b"X" * 32), "another parent"),
        ("log_root", t.Digest(b"X" * 32), "another log of earlier blocks"),
        ("network_id", t.Digest(b"X" * 32), "a block of another network"),
        ("time_ms", 1000, "not later than its parent"),
        ("height", 7, "height 7 does not come next"),
    ],
)
def test_r1_a_block_that_does_not_follow_its_parent_is_refused(
    field: str, value: object, reason: str
) -> None:
    lab = Lab()
    lab.decide()
    lab.next_height()
    block = lab.block(**{field: value})
    vote = t.Propose(0, 1, 0, block_id(block.header))
    effects = lab.receive(1, t.Proposal(signed(1, vote), block))
    assert reasons(effects) == [reason]
    assert votes(effects, t.Prepare) == []


# R2


def test_r2_a_quorum_of_prepares_is_durable_before_the_commit_is_signed(lab: Lab) -> None:
    block = lab.block()
    lab.propose(block)
    assert votes(lab.prepare(0, block), t.Commit) == []
    effects = lab.prepare(1, block)
    assert votes(effects, t.Commit) == [t.Commit(0, 0, 0, block_id(block.header))]
    persisted = [effect.event for effect in effects if isinstance(effect, t.Persist)]
    others = [t.Received(IDS[by], t.PrepareMessage(lab.prepares([by], block)[0])) for by in (0, 1)]
    assert persisted[:2] == others
    assert order(effects, t.Persist, t.Sign)[:3] == [t.Persist, t.Persist, t.Sign]
    assert lab.replica.prepared is not None and lab.replica.prepared.round == 0


def test_r2_counts_signers_not_messages(lab: Lab) -> None:
    block = lab.block()
    lab.propose(block)
    assert [votes(lab.prepare(0, block), t.Commit) for _ in range(3)] == [[], [], []]


def test_r2_prepares_of_another_round_do_not_count(lab: Lab) -> None:
    block = lab.block()
    lab.propose(block)
    lab.prepare(0, block, 1)
    assert votes(lab.prepare(1, block, 1), t.Commit) == []


def test_r2_prepares_for_another_block_do_not_count(lab: Lab) -> None:
    lab.propose(lab.block())
    other = lab.block()
    lab.prepare(0, other)
    assert votes(lab.prepare(1, other), t.Commit) == []


def test_r2_no_commit_in_a_round_that_was_left(lab: Lab) -> None:
    block = lab.block()
    lab.propose(block)
    lab.elapse()
    lab.prepare(0, block)
    assert votes(lab.prepare(1, block), t.Commit) == []


def test_r2_no_commit_before_the_own_application_agrees(lab: Lab) -> None:
    lab.valid = None
    block = lab.block()
    lab.propose(block)
    assert [votes(lab.prepare(by, block), t.Commit) for by in (0, 1, 2)] == [[], [], []]
    effects = lab.judge(block, True)
    assert len(votes(effects, t.Prepare)) == len(votes(effects, t.Commit)) == 1


def test_r2_once_a_round(lab: Lab) -> None:
    block = lab.block()
    lab.propose(block)
    lab.prepare(0, block)
    lab.prepare(1, block)
    assert votes(lab.prepare(2, block), t.Commit) == []


def test_r2_a_later_round_prepares_again(lab: Lab) -> None:
    block = lab.block()
    lab.propose(block)
    lab.prepare(0, block)
    lab.prepare(1, block)
    changes = tuple(lab.change(by, 1, block) for by in (0, 1, 2))
    lab.propose(block, 1, justification=changes, prepared=lab.prepares((0, 1, 2), block))
    lab.prepare(0, block, 1)
    assert [vote.round for vote in votes(lab.prepare(1, block, 1), t.Commit)] == [1]
    assert lab.replica.prepared is not None and lab.replica.prepared.round == 1


# R3


def test_r3_a_quorum_of_commits_of_one_round_decides(lab: Lab) -> None:
    block = lab.block()
    lab.propose(block)
    lab.commit(0, block, extension=b"zero")
    lab.commit(1, block, extension=b"one")
    (decide,) = only(lab.commit(2, block), t.Decide)
    assert decide.decided == t.DecidedBlock(block, certificate((0, 1, 2), block.header))
    assert decide.extensions == ((IDS[0], b"zero"), (IDS[1], b"one"), (IDS[2], b""))


def test_r3_commits_of_different_rounds_are_not_counted_together(lab: Lab) -> None:
    block = lab.block()
    lab.propose(block)
    lab.commit(0, block, 0)
    lab.commit(1, block, 0)
    assert only(lab.commit(2, block, 1), t.Decide) == []
    assert len(only(lab.commit(2, block, 0), t.Decide)) == 1


@pytest.mark.parametrize("mine", [0, 5])
def test_r3_any_round_decides_whatever_mine_is(mine: int) -> None:
    lab = Lab()
    block = lab.block()
    lab.propose(block)
    for _ in range(mine):
        lab.elapse()
    lab.commit(0, block, 3)
    lab.commit(1, block, 3)
    (decide,) = only(lab.commit(2, block, 3), t.Decide)
    assert decide.decided.certificate.round == 3


def test_r3_counts_signers_not_messages(lab: Lab) -> None:
    block = lab.block()
    lab.propose(block)
    assert [only(lab.commit(0, block), t.Decide) for _ in range(4)] == [[]] * 4


def test_r3_an_unknown_block_is_fetched_from_a_signer_then_from_the_next(lab: Lab) -> None:
    block = lab.block()
    lab.commit(0, block)
    lab.commit(1, block)
    ask = t.FetchBlock(0, 0, block_id(block.header))
    assert only(lab.commit(2, block), t.Send) == [t.Send(IDS[0], ask)]
    assert only(lab.step(t.Resend()), t.Send) == [t.Send(IDS[1], ask)]
    effects = lab.receive(1, t.BlockMessage(block))
    assert [decide.decided.block for decide in only(effects, t.Decide)] == [block]


def test_r3_a_fetched_block_that_follows_no_parent_of_mine_is_not_taken(lab: Lab) -> None:
    block = lab.block(log_root=t.Digest(b"X" * 32))
    for by in (0, 1, 2):
        lab.commit(by, block)
    assert lab.receive(0, t.BlockMessage(block)) == []
    assert lab.replica.decided is None


def test_r3_who_holds_the_block_gives_it_a_few_times(lab: Lab) -> None:
    block = lab.block()
    ask = t.FetchBlock(0, 0, block_id(block.header))
    assert lab.receive(2, ask) == []
    lab.propose(block)
    given = [lab.receive(2, ask) for _ in range(ANSWERS_MAX + 1)]
    assert given == [[t.Send(IDS[2], t.BlockMessage(block))]] * ANSWERS_MAX + [[]]


def test_r3_a_block_that_was_not_asked_for_is_ignored(lab: Lab) -> None:
    assert lab.receive(1, t.BlockMessage(lab.block())) == []
    assert lab.replica._at.blocks == {}


def test_r3_a_decided_block_with_its_certificate_decides(lab: Lab) -> None:
    block = lab.block()
    decided = t.DecidedBlock(block, certificate((0, 1, 3), block.header, 2))
    assert only(lab.receive(STRANGER, t.DecidedMessage(decided)), t.Decide) == []
    assert only(lab.receive(1, t.DecidedMessage(decided)), t.Decide) == [t.Decide(decided)]


def test_r3_a_certificate_of_too_few_decides_nothing(lab: Lab) -> None:
    block = lab.block()
    decided = t.DecidedBlock(block, certificate((0, 1), block.header))
    effects = lab.receive(1, t.DecidedMessage(decided))
    assert reasons(effects) == ["2 signatures, 3 are needed"]
    assert only(effects, t.Decide) == []


# R4


def test_r4_a_timeout_enters_the_next_round_durably_and_says_so(lab: Lab) -> None:
    effects = lab.elapse()
    assert order(effects, t.Persist, t.EnteredRound, t.Sign) == [t.Persist, t.EnteredRound, t.Sign, t.Persist]
    assert only(effects, t.Persist)[0].event == t.Elapsed(0, 0)
    assert votes(effects, t.RoundChange) == [t.RoundChange(0, 0, 1, 0, t.ZERO_DIGEST, t.ZERO_DIGEST)]


def test_r4_the_round_change_carries_the_highest_prepared_certificate(lab: Lab) -> None:
    block = lab.block()
    lab.propose(block)
    lab.prepare(0, block)
    lab.prepare(1, block)
    (sign,) = only(lab.elapse(), t.Sign)
    assert isinstance(sign.message, t.RoundChangeMessage)
    vote = sign.message.round_change.vote
    assert (vote.prepared_round_plus_1, vote.prepared_block_id) == (1, block_id(block.header))
    assert {prepare.signature for prepare in sign.message.prepared} == {
        prepare.signature for prepare in lab.prepares((0, 1, 3), block)
    }


def test_r4_the_round_change_carries_the_applications_context() -> None:
    lab = Lab(context=lambda: t.Digest(b"C" * 32))
    assert [vote.context for vote in votes(lab.elapse(), t.RoundChange)] == [b"C" * 32]


def test_r4_a_timer_of_a_round_that_was_left_changes_nothing(lab: Lab) -> None:
    lab.elapse()
    assert lab.elapse(0) == []


# R5


def test_r5_f_plus_1_members_that_ask_for_more_make_me_jump(lab: Lab) -> None:
    assert lab.round_change(0, 7) == []
    effects = lab.round_change(1, 4)
    assert [vote.round for vote in votes(effects, t.RoundChange)] == [4]
    assert only(effects, t.Persist)[0].event == t.Elapsed(0, 3)


def test_r5_the_jump_goes_to_the_second_highest_of_four(lab: Lab) -> None:
    lab.round_change(0, 2)
    lab.round_change(1, 9)
    assert lab.replica.round == 2
    lab.round_change(2, 8)
    assert lab.replica.round == 8


def test_r5_one_liar_moves_nobody(lab: Lab) -> None:
    for round_ in range(1, 20):
        assert votes(lab.round_change(0, round_), t.RoundChange) == []
    assert lab.replica.round == 0


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
    decided = lab.decide()
    ask = t.RoundChangeMessage(signed(2, t.RoundChange(0, 0, 1, 0, t.ZERO_DIGEST, t.ZERO_DIGEST)))
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


# R9


def story(lab: Lab) -> None:
    """Round 0 is prepared, round 1 passes, round 2 commits the same block."""
    block = lab.block()
    lab.propose(block)
    lab.prepare(0, block)
    lab.prepare(1, block)
    lab.elapse()
    lab.round_change(0, 2, block)
    lab.round_change(1, 2, block)
    changes = tuple(lab.change(by, 2, block) for by in (0, 1, 2))
    lab.propose(block, 2, justification=changes, prepared=lab.prepares((0, 1, 2), block))
    lab.prepare(0, block, 2)
    lab.prepare(1, block, 2)


def test_r9_every_prefix_of_the_wal_restores_a_state_that_contradicts_nothing() -> None:
    whole = Lab()
    story(whole)
    assert [type(vote) for _, vote in whole.signed] == [
        t.Prepare, t.Commit, t.RoundChange, t.RoundChange, t.Prepare, t.Commit,
    ]  # fmt: skip
    for length in range(len(whole.wal) + 1):
        before = [vote for entries, vote in whole.signed if entries <= length]
        lab = Lab(start=False)
        lab.carry_out(lab.replica.restore(lab.started(), whole.wal[:length]))
        # Life goes on as badly as it can: another block is proposed, then the timer runs out.
        changes = tuple(lab.change(by, lab.replica.round) for by in (0, 1, 2)) if lab.replica.round else ()
        if lab.proposer(lab.replica.round) != lab.me:
            lab.propose(lab.block(), lab.replica.round, justification=changes)
        lab.elapse()
        found = [(a, b) for a in before for _, b in lab.signed if contradiction(a, b) is not None]
        assert found == [], f"after {length} entries"


def test_r9_a_restart_sends_again_enters_the_round_again_and_keeps_the_lock() -> None:
    whole = Lab()
    story(whole)
    lab = Lab(start=False)
    effects = lab.replica.restore(lab.started(), whole.wal)
    assert effects[0] == t.EnteredRound(0, 2, IDS[2])
    assert [type(send.message) for send in only(effects, t.Send)] == [
        t.RoundChangeMessage,
        t.PrepareMessage,
        t.CommitMessage,
    ]
    assert lab.replica.prepared == whole.replica.prepared


def test_r9_a_restart_asks_again_for_what_was_not_done() -> None:
    lab = Lab()
    block = lab.block()
    lab.propose(block)
    lab.prepare(0, block)
    lab.prepare(1, block)
    own = [event for event in lab.wal if isinstance(event, t.Received) and event.sender == IDS[3]]
    lost = [event for event in lab.wal if event not in own]
    again = Lab(start=False)
    effects = again.replica.restore(again.started(), lost)
    # Without the own PREPARE there are two of three, so nothing is prepared and only the PREPARE is due.
    assert [type(vote) for vote in votes(effects, t.Prepare) + votes(effects, t.Commit)] == [t.Prepare]
    effects = again.carry_out(effects)
    assert len(votes(effects, t.Commit)) == 1


def test_r9_a_proposer_that_restarts_proposes_the_same_block_again() -> None:
    lab = Lab(me=0)
    first = lab.replica.accepted
    assert first is not None
    again = Lab(me=0, start=False)
    effects = again.replica.restore(again.started(), lab.wal[:1])
    assert only(effects, t.Build) == []
    assert votes(effects, t.Propose) == [first.propose.vote]
    assert len(votes(again.carry_out(effects), t.Prepare)) == 1


def test_r9_a_torn_end_asks_for_validity_again() -> None:
    whole = Lab()
    block = whole.block()
    whole.propose(block)
    lab = Lab(start=False)
    effects = lab.replica.restore(lab.started(), whole.wal[:1])
    assert only(effects, t.Validate) == [t.Validate(0, 0, block, fresh=True)]


def test_r9_entries_of_an_older_height_do_no_harm() -> None:
    whole = Lab()
    story(whole)
    lab = Lab(start=False)
    first = lab.block(height=0, by=0)
    lab.store.append(t.DecidedBlock(first, certificate((0, 1, 2), first.header)))
    lab.log.append(block_id(first.header))
    lab.replica.restore(lab.started(), whole.wal)
    assert (lab.replica.height, lab.replica.round, lab.replica.accepted) == (1, 0, None)


def test_r9_a_height_that_the_wal_decides_is_decided_again() -> None:
    lab = Lab(n=1, me=0)
    assert len(lab.store) == 1
    again = Lab(n=1, me=0, start=False)
    assert again.replica.restore(again.started(), lab.wal) == [lab.replica.decided]


# Bounds and manners.


def test_messages_of_the_next_height_wait_one_a_sender_and_kind(lab: Lab) -> None:
    block = lab.block()
    later = [t.Prepare(0, 1, 0, t.Digest(bytes([i]) * 32)) for i in range(3)]
    assert lab.receive(2, t.PrepareMessage(signed(2, later[0]))) == []
    assert lab.receive(2, t.PrepareMessage(signed(2, later[0]))) == []
    assert lab.receive(2, t.PrepareMessage(signed(2, later[1]))) == [t.Behind(IDS[2], 1)]
    lab.decide(block)
    lab.next_height()
    assert lab.replica._at.of(t.SignedPrepare, 0) == {IDS[2]: signed(2, later[1])}


def test_a_height_above_the_next_starts_a_sync(lab: Lab) -> None:
    assert lab.receive(2, t.PrepareMessage(signed(2, t.Prepare(0, 9, 0, t.ZERO_DIGEST)))) == [
        t.Behind(IDS[2], 9)
    ]


def test_a_kept_certificate_of_the_next_height_is_used_when_it_comes() -> None:
    lab, other = Lab(), Lab()
    first = other.decide()
    other.next_height()
    second = other.decide()
    assert lab.receive(0, t.DecidedMessage(second)) == []
    lab.receive(0, t.DecidedMessage(first))
    assert [decide.decided for decide in only(lab.next_height(), t.Decide)] == [second]


def test_a_message_of_another_epoch_is_refused(lab: Lab) -> None:
    vote = t.Prepare(1, 0, 0, t.ZERO_DIGEST)
    assert reasons(lab.receive(2, t.PrepareMessage(signed(2, vote)))) == ["another epoch"]


def test_a_vote_counts_for_its_signer_only_and_only_from_him(lab: Lab) -> None:
    block = lab.block()
    message = t.PrepareMessage(lab.prepares([0], block)[0])
    assert reasons(lab.receive(2, message)) == ["not signed by its sender"]
    assert lab.receive(STRANGER, t.PrepareMessage(lab.prepares([STRANGER], block)[0])) == []


def test_what_is_too_large_is_refused() -> None:
    lab = Lab(body_bytes_max=10)
    block = lab.block(body=b"x" * 11)
    assert reasons(lab.propose(block)) == ["too large"]
    assert reasons(lab.commit(0, block, extension=b"x" * 5000)) == ["too large"]
    many = lab.prepares([0] * 5, block)
    change = t.RoundChangeMessage(lab.change(0, 1, block), many)
    assert reasons(lab.receive(0, change)) == ["too large"]
    decided = t.DecidedBlock(lab.block(), t.Certificate(0, (b"x" * 65,) * 17))
    assert reasons(lab.receive(0, t.DecidedMessage(decided))) == ["too large"]
    assert reasons(lab.receive(0, t.BlockMessage(block))) == ["too large"]


def test_a_header_that_cannot_be_hashed_is_refused(lab: Lab) -> None:
    for wrong in ({"height": -1}, {"parent_id": t.Digest(b"short")}, {"time_ms": 1 << 64}):
        decided = t.DecidedBlock(lab.block(**wrong), t.Certificate(0, ()))
        assert reasons(lab.receive(0, t.DecidedMessage(decided))) == ["too large"]


def test_a_round_beyond_uint32_is_nobodys_vote(lab: Lab) -> None:
    vote = t.RoundChange(0, 0, 1 << 32, 0, t.ZERO_DIGEST, t.ZERO_DIGEST)
    message = t.RoundChangeMessage(t.SignedRoundChange(vote, bytes(65)))
    assert reasons(lab.receive(0, message)) == ["not signed by its sender"]


def test_the_last_round_has_no_next() -> None:
    lab = Lab(n=2, me=1)
    lab.round_change(0, (1 << 32) - 1)
    assert lab.replica.round == (1 << 32) - 1
    assert lab.elapse() == []


def test_a_flood_of_rounds_pushes_out_the_liars_own_votes_only(lab: Lab) -> None:
    block = lab.block()
    lab.propose(block)
    lab.prepare(0, block)
    for round_ in range(1, 100):
        lab.prepare(2, block, round_)
    kept = [round_ for round_ in range(100) if IDS[2] in lab.replica._at.of(t.SignedPrepare, round_)]
    assert kept == list(range(92, 100))
    assert len(votes(lab.prepare(1, block), t.Commit)) == 1


def test_proofs_of_many_rounds_are_not_all_kept(lab: Lab) -> None:
    blocks = [lab.block() for _ in range(20)]
    for round_, block in enumerate(blocks):
        lab.round_change(0, 30 + round_, block, prepared=round_)
    kept = [
        round_
        for round_, block in enumerate(blocks)
        if lab.replica._at.proof_of(lab.change(0, 50, block, round_))
    ]
    assert kept == list(range(12, 20))


def test_blocks_of_many_rounds_are_not_all_kept(lab: Lab) -> None:
    prepared = lab.block()
    lab.propose(prepared)
    lab.prepare(0, prepared)
    lab.prepare(1, prepared)
    for round_ in range(1, 30):
        changes = tuple(lab.change(by, round_) for by in (0, 1, 2))
        lab.propose(lab.block(by=lab.proposer(round_)), round_, by=None, justification=changes)
    assert lab.replica.round >= 28
    assert len(lab.replica._at.blocks) <= 9
    assert block_id(prepared.header) in lab.replica._at.blocks


def test_before_it_is_started_a_replica_does_nothing() -> None:
    lab = Lab(start=False)
    assert lab.step(t.Resend()) == [] == lab.elapse()
    assert lab.receive(0, t.FetchBlock(0, 0, t.ZERO_DIGEST)) == []


def test_only_a_member_takes_part() -> None:
    with pytest.raises(ValueError, match="only a member"):
        Lab(n=4, me=STRANGER)


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


# Committees of every size.


@pytest.mark.parametrize("n", range(1, 17))
def test_every_size_of_committee_decides_with_its_quorum_and_not_with_less(n: int) -> None:
    lab = Lab(n=n, me=0)
    if n == 1:
        assert len(lab.store) == 1
        return
    accepted = lab.replica.accepted
    assert accepted is not None
    block = accepted.block
    needed = lab.committee.quorum
    for by in range(1, needed):
        effects = lab.prepare(by, block)
        assert len(votes(effects, t.Commit)) == (by == needed - 1)
    for by in range(1, needed):
        effects = lab.commit(by, block)
        assert len(only(effects, t.Decide)) == (by == needed - 1)
    assert len(lab.store[0].certificate.signatures) == needed
    assert replace(lab.store[0], block=block) == lab.store[0]
