"""Contradictions are found in the files of a run, whoever kept them."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus import signing
from consensus.types import (
    ZERO_MEMBER,
    Commit,
    CommitMessage,
    Digest,
    Prepare,
    PrepareMessage,
    Received,
    RoundChange,
    SignedCommit,
    SignedPrepare,
    Started,
)
from p2pfl.genesis import ChainEntry
from p2pfl.keys import Guard, SigningKey, load_signing_key
from p2pfl.store import Wal
from testnet import plan, signatures
from testnet.scenarios import load

A, B = Digest(b"\x0a" * 32), Digest(b"\x0b" * 32)


@pytest.fixture
def drawn(tmp_path: Path) -> plan.Plan:
    scenario = load("honest", groups=1, seats=1)
    ground = plan.break_ground(scenario, plan.new_directory(tmp_path / "run", scenario))
    return plan.draw_plan(ground, ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER))


def found(drawn: plan.Plan, *but: str) -> list[str]:
    folders = {seat.name: seat.folder for seat in drawn.ground.seats}
    return signatures.contradictions(drawn.genesis, folders, but=but)


def signed_by(drawn: plan.Plan, name: str, *structs: object) -> SigningKey:
    """Sign through a guard of its own, as the node does."""
    seat = next(seat for seat in drawn.ground.seats if seat.name == name)
    key = load_signing_key(seat.folder.signing_key)
    guard = Guard(seat.folder.guard, key, new_key=True)
    for struct in structs:
        guard.sign(drawn.genesis.domain(seat.group), struct)
    guard.close()
    return key


def received_by(drawn: plan.Plan, name: str, signer: SigningKey, vote: Prepare) -> None:
    seat = next(seat for seat in drawn.ground.seats if seat.name == name)
    digest = signing.signing_digest(drawn.genesis.domain("g0"), vote)
    wal = Wal(seat.folder.wal("g0"), drawn.genesis.group_id("g0"))
    wal.replay(vote.height)
    signed = SignedPrepare(vote, signing.sign(signer.secret, digest))
    wal.append(Received(signer.member_id, PrepareMessage(signed)))
    wal.close()


def test_an_honest_history_has_none(drawn: plan.Plan) -> None:
    key = signed_by(drawn, "g0m0", Prepare(0, 2, 0, A), Commit(0, 2, 0, A), Prepare(0, 3, 0, B))
    received_by(drawn, "g0m1", key, Prepare(0, 2, 0, A))
    assert found(drawn) == []
    seat = drawn.ground.seats[0]
    assert signatures.last_commit_height(seat.folder) == 2
    assert signatures.tip_height(seat.folder, "g0") == -1


def test_what_others_received_counts_against_the_signer(drawn: plan.Plan) -> None:
    key = signed_by(drawn, "g0m0", Prepare(0, 2, 0, A))
    received_by(drawn, "g0m1", key, Prepare(0, 2, 0, B))
    assert found(drawn) == ["g0m0 signed against itself in g0 at height 2: TWO_PREPARE"]
    assert found(drawn, "g0m0") == []


def test_a_denied_commit_is_found(drawn: plan.Plan) -> None:
    signed_by(drawn, "g0m2", Commit(0, 1, 0, A))
    seat = next(seat for seat in drawn.ground.seats if seat.name == "g0m2")
    key = load_signing_key(seat.folder.signing_key)
    seat.folder.guard.rename(seat.folder.path / "guard.before")
    signed_by(drawn, "g0m2", RoundChange(0, 1, 1, 0, Digest(bytes(32)), A))
    assert found(drawn) == []  # The file that would show it was moved away.
    wal = Wal(seat.folder.wal("g0"), drawn.genesis.group_id("g0"))
    wal.replay(1)
    vote = Commit(0, 1, 0, A)
    digest = signing.signing_digest(drawn.genesis.domain("g0"), vote)
    signed = SignedCommit(vote, signing.sign(key.secret, digest))
    wal.append(Received(key.member_id, CommitMessage(signed)))
    wal.close()
    assert found(drawn) == ["g0m2 signed against itself in g0 at height 1: DENIED_COMMIT"]


def test_strangers_and_forgeries_count_against_nobody(drawn: plan.Plan) -> None:
    signed_by(drawn, "g0m0", Prepare(0, 2, 0, A))
    received_by(drawn, "g0m1", SigningKey.from_secret(b"\x07" * 32), Prepare(0, 2, 0, B))
    assert found(drawn) == []


def test_started_events_hold_no_votes(drawn: plan.Plan) -> None:
    seat = drawn.ground.seats[0]
    wal = Wal(seat.folder.wal("g0"), drawn.genesis.group_id("g0"))
    wal.replay(0)
    wal.append(Started(None, Digest(bytes(32)), Digest(bytes(32))))
    wal.close()
    assert found(drawn) == []
