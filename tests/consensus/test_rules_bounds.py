"""R9 and the bounds, each sentence under its own name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus import types as t
from consensus.evidence import contradiction
from consensus.signing import block_id
from tests.consensus.lab import IDS, STRANGER, Lab, certificate, only, reasons, signed, votes


@pytest.fixture
def lab() -> Lab:
    """Member 3 of 4; proposers are 0, 1, 2, 3 in the rounds of the first height."""
    return Lab()


def order(effects: list[t.Effect], *kinds: type) -> list[type]:
    return [type(effect) for effect in effects if isinstance(effect, kinds)]


# R1


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
