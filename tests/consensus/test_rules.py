"""R1 to R5, each sentence of docs/consensus.md under its own name."""

from __future__ import annotations

import pytest

from consensus import types as t
from consensus.answers import ANSWERS_MAX
from consensus.signing import block_id
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


def test_r4_the_timer_of_a_later_round_waits_until_a_quorum_has_come_there_or_further(lab: Lab) -> None:
    assert lab.replica.followed  # In round 0 there is nobody to wait for.
    lab.elapse()
    assert not lab.replica.followed
    lab.round_change(0, 1)
    assert not lab.replica.followed
    lab.round_change(1, 5)
    assert lab.replica.followed
    lab.elapse()
    assert (lab.replica.round, lab.replica.followed) == (2, False)


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
